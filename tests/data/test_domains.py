"""Domain labels, and images that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastreid.data.common import CommDataset

from metabin_plugin.data import DomainDataset, ReadableDataset, label_domains
from metabin_plugin.errors import ConfigError, DatasetError

WriteImage = Callable[..., Path]


def source(*items: tuple[str, str, str], **attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(train=list(items), **attributes)


GRID = source(("g1", "p1", "c1"), ("g2", "p1", "c2"), ("g3", "p2", "c1"))
PRID = source(("p1", "p1", "c1"))


def test_domain_is_the_position_of_the_dataset() -> None:
    # The order of the names in the config counts, not that of the alphabet.
    labels = label_domains([("prid", PRID), ("grid", GRID)])
    assert [item[0] for item in labels.img_items] == ["p1", "g1", "g2", "g3"]
    assert labels.domains == [0, 1, 1, 1]
    assert labels.domain_names == ["prid", "grid"]


def test_domain_is_the_camera_within_its_dataset() -> None:
    labels = label_domains([("grid", GRID), ("prid", PRID)], "camera")
    assert labels.domains == [0, 1, 0, 2]
    assert labels.domain_names == ["grid:c1", "c2", "prid:c1"]


def test_dataset_brings_its_own_domains() -> None:
    items = [(f"m{i}", f"p{i}", "c") for i in range(4)]
    manifest = source(*items, train_domains=["night", "day", "night", "grid"])
    labels = label_domains([("grid", GRID), ("own.csv", manifest)])
    assert labels.domains == [0, 0, 0, 3, 1, 3, 2]
    assert labels.domain_names == ["grid:grid", "day", "own.csv:grid", "night"]


def test_unknown_kind_of_domain_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"METABIN\.DOMAIN is 'weather'; choose among dataset, camera"
    ):
        label_domains([("grid", GRID)], "weather")


@pytest.fixture
def images(tmp_path: Path, write_image: WriteImage) -> list[tuple[str, str, str]]:
    return [
        (str(write_image(tmp_path / f"{i}.jpg", i)), f"p{2 - i}", f"c{i % 2}") for i in range(3)
    ]


def test_items_are_fastreids_with_the_domain(images: list[tuple[str, str, str]]) -> None:
    ours = DomainDataset(images, [1, 0, 1], ["grid", "prid"], np.asarray)
    theirs = CommDataset(images, np.asarray)
    assert ours.num_domains == 2
    assert ours.num_classes == theirs.num_classes == 3
    assert ours.num_cameras == theirs.num_cameras == 2
    for index, domain in enumerate([1, 0, 1]):
        item = ours[index]
        assert item.pop("domains") == domain
        expected = theirs[index]
        np.testing.assert_array_equal(item.pop("images"), expected.pop("images"))
        assert item == expected


@pytest.mark.parametrize(
    ("domains", "names"),
    [
        ([0, 1], ["a", "b"]),
        ([0, 1, 2], ["a", "b"]),
        ([0, 2, 2], ["a", "b", "c"]),
        ([-1, 0, 0], "a"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    images: list[tuple[str, str, str]], domains: list[int], names: list[str]
) -> None:
    with pytest.raises(DatasetError, match="domain"):
        DomainDataset(images, domains, names)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "does not exist"),
    "zero bytes": (lambda path: path.write_bytes(b""), "is empty"),
    "not an image": (lambda path: path.write_text("404 not found"), "is not an image"),
    "truncated": (truncate, "cannot be read (image file is truncated"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("training", [True, False])
def test_unreadable_image_is_named(
    images: list[tuple[str, str, str]], fault: str, training: bool
) -> None:
    spoil, words = FAULTS[fault]
    path = Path(images[1][0])
    spoil(path)
    dataset = (
        DomainDataset(images, [0, 0, 0], ["grid"], np.asarray)
        if training
        else ReadableDataset(images, np.asarray, relabel=False)
    )
    dataset[0]
    with pytest.raises(DatasetError) as caught:
        dataset[1]
    assert str(caught.value).startswith(f"Image {path} {words}")
    assert "restore the file or take it out of the dataset" in str(caught.value)


def test_folder_in_place_of_an_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"Image {tmp_path} cannot be read"):
        ReadableDataset([(str(tmp_path), "p", "c")])[0]


def test_failing_transform_is_not_blamed_on_the_image(images: list[tuple[str, str, str]]) -> None:
    def fail(_: Any) -> None:
        raise ValueError("bad crop size")

    with pytest.raises(ValueError, match="bad crop size"):
        ReadableDataset(images, fail)[0]
