"""Features standardized by camera, against a loop over numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metabin_plugin import ranking
from metabin_plugin.ranking import standardize_by_camera


def random_features(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator, dtype=torch.float64) * 3 + 7


def oracle(features: Tensor, cameras: list[str]) -> list[list[float]]:
    rows = features.tolist()
    result = []
    for row, camera in zip(rows, cameras, strict=True):
        own = [r for r, c in zip(rows, cameras, strict=True) if c == camera]
        own = own if len(own) > 1 else rows
        out = []
        for column, value in enumerate(row):
            values = [r[column] for r in own]
            mean = math.fsum(values) / len(values)
            std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
            out.append((value - mean) / std if std > 0 else 0.0)
        result.append(out)
    return result


class Storages(TorchDispatchMode):
    """Bytes of the memory behind the tensors that its block handles, by its place."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, operator: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self.sizes[storage.data_ptr()] = storage.nbytes()
        return result


class Elements(TorchDispatchMode):
    """Elements of all tensors that are made in its block."""

    elements = 0

    def __torch_dispatch__(
        self, operator: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        self.elements += sum(t.numel() for t in tree_leaves(result) if isinstance(t, Tensor))
        return result


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=20), st.integers(0, 1000))
def test_each_camera_has_mean_zero_and_deviation_one(cameras: list[str], seed: int) -> None:
    features = random_features(len(cameras), seed)
    before = features.clone()
    found = standardize_by_camera(features, np.array(cameras))
    expected = torch.tensor(oracle(features, cameras), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(features, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_all_images_of_a_camera_share_becomes_zero(dtype: torch.dtype) -> None:
    # A mean of equal numbers is rounded, and what is left of them is not to be enlarged.
    features = torch.full((7, 2), 0.1, dtype=dtype)
    features[:, 1] = torch.arange(7)
    found = standardize_by_camera(features, np.zeros(7, dtype=int))
    assert found[:, 0].tolist() == [0.0] * 7
    assert found[:, 1].square().mean().item() == pytest.approx(1)


def test_one_image_alone_is_finite() -> None:
    assert standardize_by_camera(torch.ones(1, 3), [4]).tolist() == [[0.0] * 3]


def test_little_memory_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, cameras = random_features(30), np.arange(30) % 3
    whole = standardize_by_camera(features, cameras)
    monkeypatch.setattr(ranking, "CHUNK_ELEMENTS", 12)
    with Storages() as made:
        found = standardize_by_camera(features, cameras)
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)
    # Beside the result: a column of the ten images of a camera.
    sides = {rows.untyped_storage().data_ptr() for rows in (features, found)}
    assert {place for place in made.sizes if made.sizes[place] > 12 * 8} <= sides


def test_cameras_with_one_image_are_looked_at_once() -> None:
    """Numbers that are read do not grow with the square of the images, each its own camera's."""
    read = []
    for count in (100, 400):
        features = random_features(count)
        with Elements() as made:
            standardize_by_camera(features, np.arange(count))
        read.append(made.elements)
    assert read[1] < 5 * read[0]


@pytest.mark.parametrize("shape", [(3,), (4, 1)])
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one row per camera label"):
        standardize_by_camera(random_features(4), np.zeros(shape))
