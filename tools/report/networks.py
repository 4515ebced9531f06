"""Trained networks by their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastreid.config import CfgNode

from metabin_plugin.engine import read_config
from report.files import FigureError


def config_of(checkpoint: Path, config_file: str, options: Sequence[str]) -> CfgNode:
    """The config of a checkpoint's training, with the checkpoint as ``MODEL.WEIGHTS``.

    Args:
        checkpoint: a file in the ``OUTPUT_DIR`` of its training.
        config_file: the config to use; "" is the one that the training left beside the checkpoint.
        options: keys and values in turn, which come last.

    Raises:
        FigureError: there is no config beside the checkpoint.
        ConfigError: the config or an option cannot be read.
    """
    path = Path(config_file) if config_file else checkpoint.parent / "config.yaml"
    if not config_file and not path.is_file():
        raise FigureError(
            f"{checkpoint} has no config.yaml beside it; name the config of its training by "
            "--config-file"
        )
    return read_config(str(path), [*options, "MODEL.WEIGHTS", str(checkpoint)])
