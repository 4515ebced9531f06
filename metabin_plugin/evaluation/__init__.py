"""Evaluation results as a file."""

from metabin_plugin.evaluation.results import write_results

__all__ = ["write_results"]
