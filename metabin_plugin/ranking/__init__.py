"""Retrieval metrics from distances: CMC, average precision, inverse negative penalty."""

from __future__ import annotations

from metabin_plugin.ranking.evaluate import evaluate_features, evaluate_rank

__all__ = ["evaluate_features", "evaluate_rank"]
