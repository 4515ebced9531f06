"""The MetaBIN meta-architecture: fastreid's Baseline with gates that only meta-learning moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastreid.config import CfgNode, configurable
from fastreid.modeling.meta_arch.baseline import Baseline
from torch import Tensor, nn

from metabin_plugin.errors import ConfigError
from metabin_plugin.losses import cross_entropy_loss, scatter_loss, shuffle_loss, triplet_loss
from metabin_plugin.meta import held_call
from metabin_plugin.norm import gate_parameters

# Losses that METABIN.META_TRAIN_LOSSES and META_TEST_LOSSES can name, to their names in the log.
META_LOSSES = {
    "ScatterLoss": "scatter",
    "ShuffleLoss": "shuffle",
    "TripletLoss": "triplet",
    "CrossEntropyLoss": "cls",
}


class MetaBIN(Baseline):
    """fastreid's ``Baseline`` (base step, Eq. 2-5; evaluation) plus the forward of the meta step.

    The gates of the backbone are parameters that do not require a gradient, so the base optimizer,
    its buffers and data-parallel wrappers leave them alone (episode separation, Section 3.3).

    Args:
        scatter_average: "sample" or "domain", see ``metabin_plugin.losses.scatter_loss``.
        **baseline: what ``Baseline`` takes.

    Raises:
        ConfigError: the backbone has no gates.
    """

    @configurable
    def __init__(self, *, scatter_average: str = "sample", **baseline: Any) -> None:
        super().__init__(**baseline)
        self.scatter_average = scatter_average
        if not self.gates:
            raise ConfigError(
                "MODEL.META_ARCHITECTURE is MetaBIN, but the backbone has no gates: set "
                'MODEL.BACKBONE.NORM "BIN"'
            )
        for gate in self.gates.values():
            gate.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        return {**super().from_config(cfg), "scatter_average": cfg.METABIN.SCATTER_AVERAGE}

    @property
    def gates(self) -> dict[str, nn.Parameter]:
        """rho: name within the backbone to gates of shape (C,)."""
        return gate_parameters(self.backbone)

    def meta_losses(
        self, names: Iterable[str], batch: Mapping[str, Tensor], gates: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Losses of a batch at given gates; of all parameters only ``gates`` get gradients.

        Features are the pooled ones before the BNNeck. Batch normalization uses batch statistics
        and keeps its running ones. The classifier is run only for "CrossEntropyLoss".

        Args:
            names: which of ``META_LOSSES`` to compute.
            batch: normalized ``images`` (N, 3, H, W); ``targets`` and ``domains`` (N,).
            gates: values to use for rho, named as in ``self.gates``.

        Returns:
            Scalar loss by name.
        """
        feature_map = held_call(self.backbone, batch["images"], gates=gates)
        features = held_call(self.heads.pool_layer, feature_map)[..., 0, 0]
        return {name: self._meta_loss(name, batch, feature_map, features) for name in names}

    def _meta_loss(
        self, name: str, batch: Mapping[str, Tensor], feature_map: Tensor, features: Tensor
    ) -> Tensor:
        targets, domains = batch["targets"], batch["domains"]
        if name == "ScatterLoss":
            return scatter_loss(features, domains, self.scatter_average)
        if name == "ShuffleLoss":
            return shuffle_loss(features, targets, domains)
        if name == "TripletLoss":
            return triplet_loss(features, targets, self.loss_kwargs["tri"]["margin"])
        if name == "CrossEntropyLoss":
            logits = held_call(self.heads, feature_map, targets)["cls_outputs"]
            return cross_entropy_loss(logits, targets, self.loss_kwargs["ce"]["eps"])
        raise ConfigError(f"unknown meta loss {name!r}: choose among {', '.join(META_LOSSES)}")
