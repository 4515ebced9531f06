from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fastreid.modeling.meta_arch.baseline import Baseline
from fastreid.modeling.meta_arch.mgn import MGN

MODEL = SimpleNamespace(
    pixel_mean=torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1),
    pixel_std=torch.tensor([2.0, 4.0, 8.0]).view(1, 3, 1, 1),
)


@pytest.mark.parametrize("architecture", [Baseline, MGN])
@pytest.mark.parametrize("wrap", [lambda images: images, lambda images: {"images": images}])
def test_the_batch_stays_as_it_was(architecture, wrap):
    images = torch.arange(24.0).view(2, 3, 2, 2)
    before = images.clone()
    normalized = architecture.preprocess_image(MODEL, wrap(images))
    assert torch.equal(images, before)
    for channel, (mean, std) in enumerate([(1.0, 2.0), (2.0, 4.0), (3.0, 8.0)]):
        assert torch.equal(normalized[:, channel], (before[:, channel] - mean) / std)


def test_anything_but_images_is_refused():
    with pytest.raises(TypeError, match="list"):
        Baseline.preprocess_image(MODEL, [1, 2])
