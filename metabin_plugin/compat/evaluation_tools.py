"""``ReidEvaluator`` runs ``make`` inside site-packages and ends the process when that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metabin_plugin.compat.rebinding import repair


def _nothing_to_compile(_original: Callable[..., Any]) -> Callable[..., Any]:
    def compile_dependencies(self: Any) -> None:
        """Nothing to compile: the plugin's ranking needs no Cython."""

    return compile_dependencies


def repair_evaluation_tools() -> None:
    """``_compile_dependencies`` calls ``sys.exit(1)`` without Cython, losing the evaluation."""
    from fastreid.evaluation.reid_evaluation import ReidEvaluator

    repair(ReidEvaluator, "_compile_dependencies", _nothing_to_compile)
