"""The DIMN meta-architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fastreid.config import CfgNode, configurable
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.modeling.meta_arch.baseline import Baseline
from fastreid.utils import comm
from torch import Tensor, nn

from dimn.config import check_dimn
from dimn.losses import MemoryBank, matching_loss, probability_triplet_loss, regularization_loss
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.evaluation import build_evaluator
from metabin_plugin.precision import at_least_float32
from metabin_plugin.processes import are_several


class Pairs(NamedTuple):
    """Roles of the images of a mini-batch with G identities.

    Attributes:
        gallery: position of each identity's gallery image (G,), by ascending identity.
        probes: positions of all other images, ascending.
    """

    gallery: Tensor
    probes: Tensor


def gallery_and_probes(identities: Tensor) -> Pairs:
    """Take the first image of every identity as its gallery image, the others as probes.

    The sampler has put an identity's images in random order. An identity with one image has no
    probe.

    Args:
        identities: identity of each image (N,).

    Returns:
        The roles.
    """
    labels, group = identities.unique(return_inverse=True)
    positions = torch.arange(len(identities), device=identities.device)
    last = positions.new_full(labels.shape, len(identities))
    gallery = last.scatter_reduce(0, group, positions, "amin")
    is_probe = torch.ones_like(positions, dtype=torch.bool).index_fill(0, gallery, False)
    return Pairs(gallery, positions[is_probe])


@META_ARCH_REGISTRY.register()
class DIMN(Baseline):
    """fastreid's ``Baseline`` as encoder, and a mapping from a feature to an identity's classifier.

    In training the first image of each identity in the batch generates its classifier; the others
    are matched with it and with the remembered classifiers of all other identities. In evaluation
    an image gives both what it is as a probe and what it is in a gallery.

    Args:
        num_identities: number of training identities; 0 in a network that is only evaluated.
        num_features: length D of the feature.
        memory_rate: see ``MemoryBank``.
        margin: see ``probability_triplet_loss``.
        scales: weight of each loss, by its name in the log.
        **baseline: what ``Baseline`` takes.
    """

    @configurable
    def __init__(
        self,
        *,
        num_identities: int,
        num_features: int,
        memory_rate: float,
        margin: float,
        scales: Mapping[str, float],
        **baseline: Any,
    ) -> None:
        super().__init__(**baseline)
        self.mapping = nn.Linear(num_features, num_features, bias=False)
        self.memory = MemoryBank(num_identities, num_features, memory_rate)
        self.margin = margin
        self.scales = dict(scales)

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the keys that the method depends on.

        Raises:
            ConfigError: a key's value cannot work.
        """
        check_dimn(cfg)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        return {
            **super().from_config(cfg),
            "num_identities": cfg.MODEL.HEADS.NUM_CLASSES,
            "num_features": cfg.MODEL.HEADS.EMBEDDING_DIM or cfg.MODEL.BACKBONE.FEAT_DIM,
            "memory_rate": cfg.DIMN.MEMORY_RATE,
            "margin": cfg.DIMN.TRIPLET_MARGIN,
            "scales": {
                "loss_matching": cfg.DIMN.MATCHING_SCALE,
                "loss_regularization": cfg.DIMN.REGULARIZATION_SCALE,
                "loss_probability_triplet": cfg.DIMN.TRIPLET_SCALE,
            },
        }

    def generate(self, features: Tensor) -> Tensor:
        """Map features of gallery images to classifiers of their identities.

        Args:
            features: features (N, D).

        Returns:
            Unit rows (N, D), in float32 at least.
        """
        return F.normalize(at_least_float32(self.mapping(features)), dim=1)

    def forward(self, batched_inputs: Any) -> Any:
        """Losses in training, otherwise ``[feature | generated classifier]`` of each image.

        Args:
            batched_inputs: fastreid's batch, or images (N, 3, H, W).

        Returns:
            Scalar loss by name; in evaluation a tensor (N, 2 D), see ``probes_and_classifiers``.
        """
        outputs = super().forward(batched_inputs)
        if self.training:
            return outputs
        return torch.cat([outputs, self.generate(outputs).to(outputs.dtype)], dim=1)

    def losses(self, outputs: Mapping[str, Tensor], gt_labels: Tensor) -> dict[str, Tensor]:
        """``Baseline``'s losses of all images, and those of the mapping network.

        A step with gradient also takes the generated classifiers into the memory.

        Args:
            outputs: of the head in training, one row per image each.
            gt_labels: identities (N,).

        Returns:
            Scalar loss by name.
        """
        losses = super().losses(outputs, gt_labels)
        terms = self._mapping_losses(outputs["features"], gt_labels)
        return losses | {name: self.scales[name] * term for name, term in terms.items()}

    def _mapping_losses(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        gallery, probes = gallery_and_probes(labels)
        identities, generated = labels[gallery], self.generate(features[gallery])
        remembered, known = self.memory.classifiers[identities], self.memory.known[identities]
        terms = {"loss_regularization": regularization_loss(generated, remembered, known)}
        # Before the matching, whose backward pass needs the memory as it was in the forward one,
        # and which takes no row of these identities from it. Without gradient the network is
        # called for statistics alone (fastreid's precise BN), on any images.
        if torch.is_grad_enabled():
            self.memory.update(*_everyones(identities, generated.detach()))
        if len(probes) == 0:
            return terms
        logits = self.memory.logits(features[probes], identities, generated)
        terms["loss_matching"] = matching_loss(logits, labels[probes])
        terms["loss_probability_triplet"] = probability_triplet_loss(
            logits, labels[probes], self.margin
        )
        return terms


def probes_and_classifiers(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Take features for the queries and generated classifiers for the gallery.

    The cosine between the two ranks a query's gallery as their product does, for all classifiers
    have unit length.

    Args:
        query: outputs of the network for the queries (Q, 2 D).
        gallery: outputs of the network for the gallery (G, 2 D).

    Returns:
        Features (Q, D) and classifiers (G, D).
    """
    return query.chunk(2, dim=1)[0], gallery.chunk(2, dim=1)[1]


def _everyones(identities: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Identities and classifiers of all processes, whose memories thus stay the same."""
    if not are_several():
        return identities, generated
    # Processes may have different numbers of them.
    shares = comm.all_gather((identities.cpu(), generated.cpu()))
    labels, classifiers = (torch.cat(parts) for parts in zip(*shares, strict=True))
    return labels.to(identities.device), classifiers.to(generated.device)


class DIMNTrainer(MetaBINTrainer):
    """Trains as ``MetaBINTrainer``, and evaluates features against generated classifiers."""

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_dir: str | None = None
    ) -> tuple[Any, Any]:
        """Loader and evaluator of a target."""
        loader, num_query = cls.build_test_loader(cfg, dataset_name)
        return build_evaluator(cfg, loader, num_query, output_dir, probes_and_classifiers)
