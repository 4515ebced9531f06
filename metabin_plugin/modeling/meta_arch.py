"""The meta-architectures: fastreid's Baseline with losses of one's own, and MetaBIN on top of it.

MetaBIN has gates that only meta-learning moves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from fastreid.config import CfgNode, configurable
from fastreid.modeling.meta_arch.baseline import Baseline
from torch import Tensor, nn

from metabin_plugin.errors import ConfigError
from metabin_plugin.losses import (
    cross_entropy_loss,
    pairwise_distance,
    scatter_loss,
    shuffle_loss,
    triplet_loss,
)
from metabin_plugin.meta import held_call
from metabin_plugin.modeling.base_losses import BaseLoss, BaseRows
from metabin_plugin.norm import gate_parameters, synchronize_norms
from metabin_plugin.precision import at_least_float32
from metabin_plugin.processes import are_several, gather_rows
from metabin_plugin.registries import BASE_LOSS_REGISTRY, META_LOSS_REGISTRY

_LOGGED_NAMES = {
    "ScatterLoss": "scatter",
    "ShuffleLoss": "shuffle",
    "TripletLoss": "triplet",
    "CrossEntropyLoss": "cls",
}


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
    return _scalar(loss, name, "METABIN.META_TRAIN_LOSSES or META_TEST_LOSSES")


def _scalar(loss: Any, name: str, key: str) -> Tensor:
    if not isinstance(loss, Tensor) or loss.shape != ():
        shape = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigError(
            f"the loss {name} of {key} gave {shape!r}, not a scalar tensor; let it return a "
            "mean or a sum over its rows"
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


class BaselineWithLosses(Baseline):
    """fastreid's ``Baseline`` with further losses in the base step; without them it is the same.

    Both views of the images, where a loss needs two, are one batch for the network: its statistics
    are those of both. The losses of ``MODEL.LOSSES`` see the weak view alone.

    Args:
        base_losses: loss by its name in ``METABIN.BASE_LOSSES``.
        **baseline: what ``Baseline`` takes.

    Raises:
        ConfigError: the losses are computed from what the head does not have.
    """

    @configurable
    def __init__(
        self, *, base_losses: Mapping[str, nn.Module] | None = None, **baseline: Any
    ) -> None:
        super().__init__(**baseline)
        self.base_losses = nn.ModuleDict(base_losses or {})
        self._seen: BaseRows | None = None
        if base_losses and not hasattr(self.heads, "bottleneck"):
            raise ConfigError(
                f"METABIN.BASE_LOSSES is {tuple(base_losses)!r}, but MODEL.HEADS.NAME "
                f"{type(self.heads).__name__} has no bottleneck whose features they are computed "
                "from; choose EmbeddingHead"
            )
        for loss in self.base_losses.values():
            cast("BaseLoss", loss).check(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        names = cfg.METABIN.BASE_LOSSES
        losses = {name: BASE_LOSS_REGISTRY.get(name)(cfg) for name in names}
        for name, loss in losses.items():
            if not isinstance(loss, BaseLoss):
                raise ConfigError(
                    f"METABIN.BASE_LOSSES has {name!r}, whose entry gave a {type(loss).__name__}; "
                    "derive it from metabin_plugin.modeling.BaseLoss"
                )
        return {**super().from_config(cfg), "base_losses": losses}

    def forward(self, batched_inputs: Any) -> Any:
        """Losses by name in training, else features, as ``Baseline`` gives them."""
        if not self.training or not self.base_losses:
            return super().forward(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        # fastreid's PreciseBN gives -1, and looks at no loss.
        targets = batched_inputs["targets"].clamp_min(0)
        views = [images]
        if any(getattr(loss, "needs_strong_view", False) for loss in self.base_losses.values()):
            views.append(self.preprocess_image(batched_inputs["images_strong"]))
        necks: list[Tensor] = []
        feature_map = self.backbone(torch.cat(views) if len(views) > 1 else images)
        # What the head returns as features may be those before its BNNeck.
        with self.heads.bottleneck.register_forward_hook(
            lambda _layer, _inputs, output: necks.append(output)
        ):
            outputs = self.heads(feature_map, targets.repeat(len(views)))
        features = at_least_float32(necks[0].flatten(1)).split(len(images))
        losses = self.losses({n: rows[: len(images)] for n, rows in outputs.items()}, targets)
        rows = {"features": features[0], "targets": targets, "domains": batched_inputs["domains"]}
        if len(views) > 1:
            rows["strong_features"] = features[1]
        # That of MLDG's meta-test domains comes second, and PreciseBN's is not of a step.
        if self._seen is None and torch.is_grad_enabled():
            self._seen = _base_rows({n: own.detach() for n, own in rows.items()}, images)
        return losses | self._base_losses(_base_rows(self._everyones(rows), images))

    def _base_losses(self, rows: BaseRows) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, enabled=False):
            return {
                f"loss_{name.lower()}": _scalar(loss(rows), name, "METABIN.BASE_LOSSES")
                for name, loss in self.base_losses.items()
            }

    @torch.no_grad()
    def update_base_losses(self) -> None:
        """Let the losses renew what they keep; to be called after the optimizer's step."""
        rows, self._seen = self._seen, None
        if rows is not None:
            for loss in self.base_losses.values():
                cast("BaseLoss", loss).update(rows, self)

    def _everyones(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows whose images the losses compare: those of this process."""
        return dict(rows)


def _base_rows(rows: Mapping[str, Tensor], images: Tensor) -> BaseRows:
    return BaseRows(
        features=rows["features"],
        strong_features=rows.get("strong_features"),
        targets=rows["targets"],
        domains=rows["domains"],
        images=images,
    )


class MetaBIN(BaselineWithLosses):
    """fastreid's ``Baseline`` (base step, Eq. 2-5; evaluation) plus the forward of the meta step.

    With episode separation (Section 3.3) the gates of the backbone are parameters that do not
    require a gradient, so the base optimizer, its buffers and data-parallel wrappers leave them
    alone, and they are all that the meta step moves. Without it both steps move all parameters
    (Table 3).

    Args:
        episode_separation: whether base step and meta step move different parameters.
        scatter_average: "sample" or "domain", see ``metabin_plugin.losses.scatter_loss``.
        sync_stats: whether batch statistics and losses are those of the global batch of all
            processes, so that the mean of their gradients is the gradient that one process with
            that batch has. Otherwise statistics, and the losses' hardest samples, are those of
            each process's share.
        **baseline: what ``BaselineWithLosses`` takes.

    Raises:
        ConfigError: the backbone has no gates.
    """

    @configurable
    def __init__(
        self,
        *,
        episode_separation: bool = True,
        scatter_average: str = "sample",
        sync_stats: bool = False,
        **baseline: Any,
    ) -> None:
        super().__init__(**baseline)
        self.episode_separation = episode_separation
        self.scatter_average = scatter_average
        self.sync_stats = sync_stats
        if not self.gates:
            raise ConfigError(
                "MODEL.META_ARCHITECTURE is MetaBIN, but the backbone has no gates; set "
                'MODEL.BACKBONE.NORM "BIN", or for a norm without gates '
                'MODEL.META_ARCHITECTURE "Baseline" and METABIN.HOOKS "()"'
            )
        if episode_separation:
            for gate in self.gates.values():
                gate.requires_grad_(False)
        if sync_stats:
            synchronize_norms(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        return {
            **super().from_config(cfg),
            "episode_separation": cfg.METABIN.EPISODE_SEPARATION,
            "scatter_average": cfg.METABIN.SCATTER_AVERAGE,
            "sync_stats": cfg.METABIN.SYNC_STATS,
        }

    @property
    def gates(self) -> dict[str, nn.Parameter]:
        """rho: name to gates of shape (C,)."""
        return {f"backbone.{name}": gate for name, gate in gate_parameters(self.backbone).items()}

    @property
    def meta_parameters(self) -> dict[str, nn.Parameter]:
        """What the meta step moves, by name: the gates; without episode separation all trained."""
        if self.episode_separation:
            return self.gates
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def losses(self, outputs: Mapping[str, Tensor], gt_labels: Tensor) -> dict[str, Tensor]:
        """Losses of the base step (Eq. 4), of the global batch with ``sync_stats``.

        Args:
            outputs: of the head in training, one row per image each.
            gt_labels: identities (N,).

        Returns:
            Scalar loss by name.
        """
        rows = self._everyones({**outputs, "gt_labels": gt_labels})
        return super().losses(rows, rows["gt_labels"])

    def meta_losses(
        self, names: Collection[str], batch: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Losses of a batch at given parameters; only these get gradients.

        Features are the pooled ones before the BNNeck. Batch normalization uses batch statistics
        and keeps its running ones. The classifier is run only for "CrossEntropyLoss".

        Args:
            names: which of ``META_LOSS_REGISTRY`` to compute.
            batch: normalized ``images`` (N, 3, H, W); ``targets`` and ``domains`` (N,).
            parameters: values to use for those of these names, as in ``self.meta_parameters``.

        Returns:
            Scalar loss by name.
        """
        feature_map = held_call(
            self.backbone, batch["images"], parameters=_within("backbone", parameters)
        )
        rows = {"targets": batch["targets"], "domains": batch["domains"]}
        if "CrossEntropyLoss" in names:
            pooled, rows["logits"] = self._pool_and_classify(
                feature_map, batch["targets"], parameters
            )
        else:
            pool = _within("heads.pool_layer", parameters)
            pooled = held_call(self.heads.pool_layer, feature_map, parameters=pool)
        rows = self._everyones({**rows, "features": pooled.flatten(1)})
        meta_rows = MetaRows(
            features=rows["features"],
            targets=rows["targets"],
            domains=rows["domains"],
            logits=rows.get("logits"),
            margin=self.loss_kwargs["tri"]["margin"],
            label_smoothing=self.loss_kwargs["ce"]["eps"],
            scatter_average=self.scatter_average,
        )
        return {name: meta_loss(name, meta_rows) for name in names}

    def _pool_and_classify(
        self, feature_map: Tensor, identities: Tensor, parameters: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        pooled: list[Tensor] = []
        # The head has them only behind its BNNeck, where MODEL.HEADS.NECK_FEAT is "after".
        with self.heads.pool_layer.register_forward_hook(
            lambda _layer, _inputs, output: pooled.append(output)
        ):
            outputs = held_call(
                self.heads, feature_map, identities, parameters=_within("heads", parameters)
            )
        return pooled[0], outputs["cls_outputs"]

    def _everyones(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows of the global batch, whose images the losses compare."""
        gathers = self.sync_stats and are_several()
        return {name: gather_rows(own) if gathers else own for name, own in rows.items()}


def _within(module: str, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a submodule, under the names that they have there."""
    prefix = f"{module}."
    return {
        name.removeprefix(prefix): value
        for name, value in parameters.items()
        if name.startswith(prefix)
    }
