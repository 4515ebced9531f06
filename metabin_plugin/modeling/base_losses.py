"""Losses beside those of ``MODEL.LOSSES`` in the base step, and the memories that they keep.

Each is an entry of ``BASE_LOSS_REGISTRY`` that ``METABIN.BASE_LOSSES`` names. A memory is a buffer
that belongs to the training, not to the network: weight files do not hold it (``persistent=False``)
and checkpoints keep it under a name of its own (``MemoryStates``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from fastreid.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional

from metabin_plugin.compat.training import autocast_dtype
from metabin_plugin.errors import ConfigError
from metabin_plugin.losses import (
    alignment_loss,
    memory_loss,
    prototype_uniformity_loss,
    reciprocal_similarity,
    uniformity_loss,
)
from metabin_plugin.meta import held_call
from metabin_plugin.modeling.backbones import early_parts
from metabin_plugin.precision import at_least_float32
from metabin_plugin.processes import are_several, gather_rows
from metabin_plugin.style import draw_styles, instance_statistics, last_part, restyle

_UNKNOWN = -1
_LAYERS = "METABIN.INTERLEAVED_MEMORY.LAYERS"


@dataclass(frozen=True)
class BaseRows:
    """What a loss of the base step is computed from: one row per image.

    Attributes:
        features: behind the BNNeck (N, D), which evaluation compares; float32, not normalized.
        strong_features: of the strongly augmented view of the same images (N, D); None unless a
            loss needs it.
        targets: identities (N,).
        domains: (N,).
        images: of this process, as the network gets them, normalized (N, 3, H, W).
    """

    features: Tensor
    strong_features: Tensor | None
    targets: Tensor
    domains: Tensor
    images: Tensor

    @property
    def views(self) -> tuple[Tensor, Tensor]:
        """Features of the weak and of the strong view."""
        assert self.strong_features is not None
        return self.features, self.strong_features


class BaseLoss(nn.Module):
    """A loss of the base step; the registry's entries are called with ``obj(cfg)``.

    What it keeps from step to step is in buffers with ``persistent=False``. Parameters that it has
    are trained, and are part of the network's weights.

    Attributes:
        needs_strong_view: whether the loader is to give each image twice.
    """

    needs_strong_view = False

    def forward(self, rows: BaseRows) -> Tensor:
        """The loss, a scalar that is added to those of ``MODEL.LOSSES``.

        Args:
            rows: of the mini-batch; of all processes with ``METABIN.SYNC_STATS``.
        """
        raise NotImplementedError

    def check(self, network: Any) -> None:
        """Refuse a network that it cannot be computed for.

        Args:
            network: just built, with ``backbone`` and ``heads``.

        Raises:
            ConfigError: it is such a network.
        """

    def update(self, rows: BaseRows, network: Any) -> None:
        """Renew what it keeps, after the optimizer's step and without gradients.

        Args:
            rows: of this process, as they were before the step.
            network: the network after it.
        """


class IdentityMemory(nn.Module):
    """A feature of each identity, which follows those of its images, and the identity's domain.

    An identity is unknown until its first image. The published code of BAU and of interleaved
    learning passes all images through the network before the training instead, and takes the
    images of a batch one by one; here the mean over an identity's images counts, so that their
    order does not.

    Args:
        num_identities: K.
        num_features: D.
        momentum: share of the former feature that stays, in [0, 1].

    Attributes:
        features: l2-normalized (K, D); zeros for an unknown identity.
        domains: (K,); -1 for an unknown identity.
    """

    features: Tensor
    domains: Tensor

    def __init__(self, num_identities: int, num_features: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        features = torch.zeros(num_identities, num_features)
        domains = torch.full((num_identities,), _UNKNOWN)
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("domains", domains, persistent=False)

    @torch.no_grad()
    def update(self, features: Tensor, identities: Tensor, domains: Tensor) -> None:
        """Let the identities of a batch follow; the same in all processes.

        Args:
            features: of this process's images (N, D), not normalized.
            identities: (N,).
            domains: (N,).
        """
        rows = (functional.normalize(features), identities, domains)
        if are_several():
            rows = tuple(gather_rows(own) for own in rows)  # type: ignore[assignment]
        new, identities, domains = rows
        same = (identities[:, None] == identities).to(new.dtype)
        # Each image of an identity writes the same row, whichever writes last.
        first = same.argmax(dim=1)
        mean = functional.normalize(same @ new)[first]
        is_known = (self.domains[identities] != _UNKNOWN)[:, None]
        old = self.features[identities]
        moved = self.momentum * old + (1 - self.momentum) * mean
        self.features[identities] = functional.normalize(torch.where(is_known, moved, mean))
        self.domains[identities] = domains


def memory_of(cfg: CfgNode, momentum: float) -> IdentityMemory:
    """A memory of the training's identities, of features behind the BNNeck.

    Args:
        cfg: the config, with ``MODEL.HEADS.NUM_CLASSES``.
        momentum: share of the former feature that stays.
    """
    heads = cfg.MODEL.HEADS
    width = heads.EMBEDDING_DIM or cfg.MODEL.BACKBONE.FEAT_DIM
    return IdentityMemory(heads.NUM_CLASSES, width, momentum)


class Alignment(BaseLoss):
    """Alignment loss of BAU, weighted by reliability: both views of an identity agree.

    The strongly augmented images are in this loss and in the two of uniformity alone.

    Args:
        cfg: the config.
    """

    needs_strong_view = True

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        node = cfg.METABIN.ALIGNMENT
        self.scale, self.neighbours = node.SCALE, node.NEIGHBOURS

    def forward(self, rows: BaseRows) -> Tensor:
        """See ``BaseLoss``."""
        weak, strong = rows.views
        weights = reciprocal_similarity(strong, weak, self.neighbours)
        return self.scale * alignment_loss(strong, weak, rows.targets, weights)


class Uniformity(BaseLoss):
    """Uniformity loss of BAU: mean of the loss of either view.

    Args:
        cfg: the config.
    """

    needs_strong_view = True

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.scale = cfg.METABIN.UNIFORMITY.SCALE

    def forward(self, rows: BaseRows) -> Tensor:
        """See ``BaseLoss``."""
        weak, strong = map(uniformity_loss, rows.views)
        return self.scale * (weak + strong) / 2


class DomainUniformity(BaseLoss):
    """Domain-specific uniformity loss of BAU: mean of the loss of either view.

    The prototypes follow the features of the weak view.

    Args:
        cfg: the config.
    """

    needs_strong_view = True

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        node = cfg.METABIN.DOMAIN_UNIFORMITY
        self.scale = node.SCALE
        self.memory = memory_of(cfg, node.MOMENTUM)

    def forward(self, rows: BaseRows) -> Tensor:
        """See ``BaseLoss``."""
        weak, strong = (
            prototype_uniformity_loss(
                view, rows.targets, rows.domains, self.memory.features, self.memory.domains
            )
            for view in rows.views
        )
        return self.scale * (weak + strong) / 2

    def update(self, rows: BaseRows, network: Any) -> None:
        """See ``BaseLoss``."""
        self.memory.update(rows.features, rows.targets, rows.domains)


class InterleavedMemory(BaseLoss):
    """Interleaved learning (Tan et al., IEEE TMM 2023): classes that other styles have drawn.

    The loss classifies each image among the identities of its own domain, by a memory of a feature
    for each (``memory_loss``). After the step the same images pass the network once more, without
    gradients and with drawn styles behind an early part of it (``draw_styles``), and the memory
    follows these features alone: what trains the network never has the styles of its classes.

    The paper takes the place of ``MODEL.LOSSES`` with it; here it stands beside them, and
    ``MODEL.LOSSES.NAME`` says which. As in its published code styles are drawn from the whole
    batch, all domains together; unlike there, the second pass keeps the running statistics, so that
    evaluation normalizes by images as they are.

    Args:
        cfg: the config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self._cfg = cfg
        node = cfg.METABIN.INTERLEAVED_MEMORY
        self.scale, self.temperature = node.SCALE, node.TEMPERATURE
        self.reach = node.STYLE_REACH
        self.memory = memory_of(cfg, node.MOMENTUM)

    def forward(self, rows: BaseRows) -> Tensor:
        """See ``BaseLoss``."""
        loss = memory_loss(
            rows.features,
            rows.targets,
            rows.domains,
            self.memory.features,
            self.memory.domains,
            self.temperature,
        )
        return self.scale * loss

    def check(self, network: Any) -> None:
        """See ``BaseLoss``."""
        self._layers(network)

    def update(self, rows: BaseRows, network: Any) -> None:
        """See ``BaseLoss``."""
        amp, device = self._cfg.SOLVER.AMP, rows.images.device
        layers = self._layers(network)
        changed: set[nn.Module] = set()

        def change(layer: nn.Module, _inputs: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor) or output.dim() != 4:
                raise ConfigError(
                    f"{_LAYERS} names a layer that gives no feature map (N, C, H, W); name stages "
                    "of a convolutional backbone"
                )
            changed.add(layer)
            own = instance_statistics(output)
            return restyle(output, *draw_styles(*own, self.reach), own)

        with (
            ExitStack() as hooks,
            torch.autocast(device.type, autocast_dtype(device, amp.DTYPE), enabled=amp.ENABLED),
            # Compiled modules do not heed hooks that their parts got later.
            torch.compiler.set_stance("force_eager"),
        ):
            for layer in layers:
                hooks.enter_context(layer.register_forward_hook(change))
            feature_map = held_call(network.backbone, rows.images)
            pooled = held_call(network.heads.pool_layer, feature_map)
            features = held_call(network.heads.bottleneck, pooled)
        if len(changed) < len(layers):
            raise ConfigError(
                f"{_LAYERS} names a layer that the backbone does not call; name others of its "
                "early parts"
            )
        self.memory.update(at_least_float32(features.flatten(1)), rows.targets, rows.domains)

    def _layers(self, network: Any) -> list[nn.Module]:
        names = self._cfg.METABIN.INTERLEAVED_MEMORY.LAYERS
        stages = early_parts(network.backbone, self._cfg, names, _LAYERS)
        return [last_part(stage) for stage in (stages if names else stages[:1])]


# The plugin's own, which ``register()`` puts into BASE_LOSS_REGISTRY.
BASE_LOSSES: Mapping[str, type[BaseLoss]] = {
    "Alignment": Alignment,
    "Uniformity": Uniformity,
    "DomainUniformity": DomainUniformity,
    "InterleavedMemory": InterleavedMemory,
}


class MemoryStates:
    """What the losses of a base step keep, as an entry of a checkpoint.

    Args:
        losses: of the network; their buffers are read and written in place.
    """

    def __init__(self, losses: nn.Module) -> None:
        self._losses = losses

    def state_dict(self) -> dict[str, Tensor]:
        """Buffer by name."""
        return dict(self._losses.named_buffers())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: it is not one of these losses; nothing has changed.
        """
        own = self.state_dict()
        if not isinstance(state, Mapping) or state.keys() != own.keys():
            raise ValueError(f"is not the memories {', '.join(own)}")
        for name, value in state.items():
            if (
                not isinstance(value, Tensor)
                or value.shape != own[name].shape
                or value.dtype != own[name].dtype
            ):
                shape = tuple(own[name].shape)
                raise ValueError(f"{name} is not a tensor of shape {shape} and {own[name].dtype}")
            if not value.isfinite().all():
                raise ValueError(f"{name} has values that are not finite")
        for name, value in state.items():
            own[name].copy_(value)
