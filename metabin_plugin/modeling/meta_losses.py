"""Losses of the meta step by the names that METABIN.META_TRAIN_LOSSES and META_TEST_LOSSES have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from metabin_plugin.errors import ConfigError
from metabin_plugin.losses import (
    cross_entropy_loss,
    pairwise_distance,
    scatter_loss,
    shuffle_loss,
    triplet_loss,
)
from metabin_plugin.registries import META_LOSS_REGISTRY


@dataclass(frozen=True)
class MetaRows:
    """What a loss of the meta step is computed from: one row per image, and settings.

    Attributes:
        features: pooled ones before the BNNeck (N, D), not normalized.
        targets: identities (N,).
        domains: (N,).
        logits: class scores (N, K); None unless "CrossEntropyLoss" is among the losses of this
            side, for the classifier is not run for others.
        margin: ``MODEL.LOSSES.TRI.MARGIN``.
        label_smoothing: ``MODEL.LOSSES.CE.EPSILON``.
        scatter_average: ``METABIN.SCATTER_AVERAGE``.
    """

    features: Tensor
    targets: Tensor
    domains: Tensor
    logits: Tensor | None
    margin: float
    label_smoothing: float
    scatter_average: str

    @cached_property
    def distances(self) -> Tensor:
        """Euclidean distances of the features (N, N), computed for the first loss that asks."""
        return pairwise_distance(self.features)


def meta_loss(name: str, rows: MetaRows) -> Tensor:
    """One term of L_mtr (Eq. 8) or of the meta-test loss (Eq. 10).

    Args:
        name: in ``META_LOSS_REGISTRY``.
        rows: of the images of one side.

    Returns:
        Scalar.

    Raises:
        ConfigError: the registered function gives something else than a scalar tensor.
    """
    loss = META_LOSS_REGISTRY.get(name)(rows)
    if not isinstance(loss, Tensor) or loss.shape != ():
        shape = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigError(
            f"the loss {name} of METABIN.META_TRAIN_LOSSES or META_TEST_LOSSES gave {shape}, not a "
            "scalar tensor; let it return a mean or a sum over its rows"
        )
    return loss


def logged_name(name: str) -> str:
    """What a loss is called in the log behind ``mtrain_loss_`` and ``mtest_loss_``."""
    return _LOGGED_NAMES.get(name, name)


def _scatter(rows: MetaRows) -> Tensor:
    return scatter_loss(rows.features, rows.domains, rows.scatter_average)


def _shuffle(rows: MetaRows) -> Tensor:
    return shuffle_loss(rows.features, rows.targets, rows.domains, distances=rows.distances)


def _triplet(rows: MetaRows) -> Tensor:
    return triplet_loss(rows.features, rows.targets, rows.margin, distances=rows.distances)


def _cross_entropy(rows: MetaRows) -> Tensor:
    assert rows.logits is not None
    return cross_entropy_loss(rows.logits, rows.targets, rows.label_smoothing)


# The paper's, which ``register()`` puts into META_LOSS_REGISTRY.
META_LOSSES: Mapping[str, Callable[[MetaRows], Tensor]] = {
    "ScatterLoss": _scatter,
    "ShuffleLoss": _shuffle,
    "TripletLoss": _triplet,
    "CrossEntropyLoss": _cross_entropy,
}
_LOGGED_NAMES = {
    "ScatterLoss": "scatter",
    "ShuffleLoss": "shuffle",
    "TripletLoss": "triplet",
    "CrossEntropyLoss": "cls",
}
