"""Evaluation on fastreid's interface: several splits at once, and results as files."""

from metabin_plugin.evaluation.evaluators import (
    MultiSplitEvaluator,
    RankingEvaluator,
    build_evaluator,
)
from metabin_plugin.evaluation.results import write_results

__all__ = ["MultiSplitEvaluator", "RankingEvaluator", "build_evaluator", "write_results"]
