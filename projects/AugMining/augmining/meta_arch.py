"""The AugMining meta-architecture: fastreid's Baseline on batches with augmented hard examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from fastreid.config import CfgNode, configurable
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.modeling.meta_arch.baseline import Baseline
from fastreid.utils.events import get_event_storage
from torch import Tensor

from augmining.augmentations import augmented_copies, classify, hardest, select_copies
from augmining.config import KEYS
from metabin_plugin.config.table import check_keys


@META_ARCH_REGISTRY.register()
class AugMining(Baseline):
    """``Baseline`` that makes the hard images of each training batch harder (AugMining).

    The hard images are those whose identity the classifier finds least probable. Each is replaced
    by the hardest of its augmented copies that the classifier still recognizes, if one is harder
    than the image. Losses and evaluation are those of ``Baseline``.

    Args:
        hard_fraction: ``AUGMINING.HARD_FRACTION``.
        augmentations: ``AUGMINING.AUGMENTATIONS``.
        max_rank: ``AUGMINING.MAX_RANK``.
        **baseline: what ``Baseline`` takes.
    """

    @configurable
    def __init__(
        self, *, hard_fraction: float, augmentations: Sequence[str], max_rank: int, **baseline: Any
    ) -> None:
        super().__init__(**baseline)
        self.hard_fraction = hard_fraction
        self.augmentations = augmentations
        self.max_rank = max_rank

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check the AUGMINING node.

        Raises:
            ConfigError: a value cannot work.
        """
        check_keys(cfg, KEYS)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        return {
            **super().from_config(cfg),
            "hard_fraction": cfg.AUGMINING.HARD_FRACTION,
            "augmentations": cfg.AUGMINING.AUGMENTATIONS,
            "max_rank": cfg.AUGMINING.MAX_RANK,
        }

    def forward(self, batched_inputs: Any) -> Any:
        """``Baseline``'s losses of the mined batch in training, else its features.

        Args:
            batched_inputs: ``images`` (N, 3, H, W) in 0 to 255 and in training ``targets`` (N,).
        """
        # fastreid's PreciseBN runs training mode without gradients, on identities of other data.
        if self.training and torch.is_grad_enabled():
            images = self.mine(batched_inputs["images"], batched_inputs["targets"])
            batched_inputs = {**batched_inputs, "images": images}
        return super().forward(batched_inputs)

    @torch.no_grad()
    def mine(self, images: Tensor, identities: Tensor) -> Tensor:
        """Make the hard images of a batch harder.

        Parameters, running statistics and the modules' modes stay as they are.

        Args:
            images: (N, 3, H, W), values in 0 to 255.
            identities: (N,).

        Returns:
            The batch with hard images replaced, in the same order.
        """
        probabilities, _ = classify(self._logits(images), identities)
        hard = hardest(probabilities, self.hard_fraction)
        if len(hard) == 0:
            return images
        fill = self.pixel_mean.flatten().tolist()
        copies = augmented_copies(images[hard], self.augmentations, fill)
        of_copies, ranks = (
            values.view(copies.shape[:2])
            for values in classify(
                self._logits(copies.flatten(0, 1)),
                identities[hard].repeat_interleave(copies.shape[1]),
            )
        )
        chosen = select_copies(probabilities[hard], of_copies, ranks, self.max_rank)
        replaced = chosen >= 0
        mined = images.clone()
        mined[hard[replaced]] = copies[replaced, chosen[replaced]]
        get_event_storage().put_scalars(
            replaced_hard_images=float(replaced.float().mean()),
            excessive_copies=float((ranks > self.max_rank).float().mean()),
        )
        return mined

    def _logits(self, images: Tensor) -> Tensor:
        """Class scores without a margin, each image for itself: with running statistics."""
        with self._evaluating():
            # fastreid's heads take identities for the margin, which these scores do not have.
            nobody = torch.zeros(len(images), dtype=torch.long, device=images.device)
            feature_map = self.backbone(self.preprocess_image(images))
            return self.heads(feature_map, nobody)["pred_class_logits"]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = {module: module.training for module in self.modules()}
        self.eval()
        # The head itself gives class scores in training mode only; its layers evaluate.
        self.heads.training = True
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
