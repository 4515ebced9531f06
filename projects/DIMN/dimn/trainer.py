"""The plugin's trainer with an evaluation that compares probe features with classifiers."""

from __future__ import annotations

from typing import Any

from fastreid.config import CfgNode

from dimn.network import probes_and_classifiers
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.evaluation import build_evaluator


class DIMNTrainer(MetaBINTrainer):
    """Trains as ``MetaBINTrainer``, and evaluates features against generated classifiers."""

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_dir: str | None = None
    ) -> tuple[Any, Any]:
        """Loader and evaluator of a target."""
        loader, num_query = cls.build_test_loader(cfg, dataset_name)
        return build_evaluator(cfg, loader, num_query, output_dir, probes_and_classifiers)
