"""``preprocess_image`` subtracts the mean inside the batch, so the batch can't be used twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from metabin_plugin.compat.rebinding import repair


def _out_of_place(_original: Callable[..., Any]) -> Callable[..., Any]:
    def preprocess_image(
        self: Any, batched_inputs: Mapping[str, torch.Tensor] | torch.Tensor
    ) -> torch.Tensor:
        images = batched_inputs["images"] if isinstance(batched_inputs, Mapping) else batched_inputs
        if not isinstance(images, torch.Tensor):
            raise TypeError(f"expected a batch of images as a tensor, got {type(images).__name__}")
        return (images - self.pixel_mean).div_(self.pixel_std)

    return preprocess_image


def repair_preprocessing() -> None:
    """``preprocess_image`` changes its input: the flip test normalizes its second pass twice."""
    from fastreid.modeling.meta_arch import mgn
    from fastreid.modeling.meta_arch.baseline import Baseline

    repair(Baseline, "preprocess_image", _out_of_place)
    repair(mgn.MGN, "preprocess_image", _out_of_place)
