"""Trained networks as files for other programs: folded norm layers, ONNX."""

from metabin_plugin.deploy.folding import Folding, fold_norms

__all__ = ["Folding", "fold_norms"]
