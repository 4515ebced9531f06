"""Values of the TEST node that no evaluation can use."""

from __future__ import annotations

from fastreid.config import CfgNode

from metabin_plugin.compat.optional_faiss import require_faiss
from metabin_plugin.engine.value_checks import check_choice, check_count, check_number
from metabin_plugin.errors import ConfigError


def check_evaluation(node: CfgNode) -> None:
    """Check how features are compared; the types are right.

    Args:
        node: ``cfg.TEST``.

    Raises:
        ConfigError: a key's value cannot work, or not without Faiss, which is not installed.
    """
    if node.METRIC == "jaccard":
        raise ConfigError(
            "TEST.METRIC is 'jaccard', a distance that needs neighbours; set TEST.RERANK.ENABLED "
            "True and TEST.RERANK.LAMBDA 0 for it, with METRIC cosine or euclidean to find them"
        )
    check_choice("TEST.METRIC", node.METRIC, ("cosine", "euclidean"))
    if node.AQE.ENABLED:
        check_count("TEST.AQE.QE_TIME", node.AQE.QE_TIME, 1)
        check_count("TEST.AQE.QE_K", node.AQE.QE_K, 1)
        _check_alpha(node.AQE.ALPHA)
    if node.RERANK.ENABLED:
        check_count("TEST.RERANK.K1", node.RERANK.K1, 1)
        check_count("TEST.RERANK.K2", node.RERANK.K2, 1, node.RERANK.K1)
        check_number("TEST.RERANK.LAMBDA", node.RERANK.LAMBDA, 0, 1)
        require_faiss()


def _check_alpha(alpha: float) -> None:
    check_number("TEST.AQE.ALPHA", alpha, 0)
    if alpha != int(alpha):
        raise ConfigError(
            f"TEST.AQE.ALPHA is {alpha}, a power that the negative cosine of a neighbour does not "
            "have; give it a whole number"
        )
