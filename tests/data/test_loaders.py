"""Loaders: fastreid's batches, registered samplers, domains, manifests and clear errors."""

from __future__ import annotations

import itertools
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastreid.data
import fastreid.data.build
import numpy as np
import pytest
import torch
from fastreid.data.common import CommDataset
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

from metabin_plugin.data import (
    DomainDataset,
    build_dataset,
    build_reid_test_loader,
    build_reid_train_loader,
)
from metabin_plugin.errors import ConfigError, DatasetError
from metabin_plugin.registries import SAMPLER_REGISTRY


class Plaza(ImageDataset):
    """Four people, two cameras, two images of each, in a folder; a dataset of a third party."""

    folder = "plaza"

    def __init__(self, root: str, **kwargs: Any) -> None:
        folder = Path(root) / self.folder
        self.check_before_run([str(folder)])
        images = sorted(folder.glob("*.jpg"))
        train = [
            (str(p), f"{self.folder}_{p.name[0]}", f"{self.folder}_{p.name[1]}") for p in images
        ]
        test = [(str(p), 10 + int(p.name[0]), 20 + int(p.name[1])) for p in images]
        super().__init__(train, test[::4], lambda: test, **kwargs)


class Station(Plaza):
    """The same elsewhere."""

    folder = "station"


class Empty(Plaza):
    """A folder without images."""

    folder = "empty"


@pytest.fixture(autouse=True)
def datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_image: Callable[..., Path]
) -> None:
    (tmp_path / "empty").mkdir()
    lines = ["path,pid,camid,domain,subset"]
    for folder in ("plaza", "station"):
        names = itertools.product("0123", "01", "ab")
        for number, (identity, camera, letter) in enumerate(names):
            write_image(tmp_path / folder / f"{identity}{camera}{letter}.jpg", number)
            path = f"{folder}/{identity}{camera}{letter}.jpg"
            lines.append(f"{path},{identity},{camera},{folder},{'train' if number else 'query'}")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    for dataset in (Plaza, Station, Empty):
        monkeypatch.setitem(DATASET_REGISTRY._obj_map, dataset.__name__, dataset)
    monkeypatch.delenv("FASTREID_DATASETS", raising=False)
    monkeypatch.setattr(fastreid.data.build, "_root", str(tmp_path))


def plain(name: str) -> Any:
    """fastreid's function without the plugin's patch."""
    return getattr(fastreid.data.build, name).__wrapped__


def seeded(build: Callable[[], Any], count: int = 3) -> list[dict[str, Any]]:
    """First batches of a loader that is built and read with fixed seeds."""
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    loader = build()
    return list(itertools.islice(loader[0] if isinstance(loader, tuple) else loader, count))


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs) > 0
    for our, their in zip(ours, theirs, strict=True):
        assert list(our) == list(their)
        for key, value in their.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(our[key], value, rtol=0, atol=0)
            else:
                assert our[key] == value


@pytest.mark.parametrize(
    "sampler",
    # ImbalancedDatasetSampler has no seed of its own: its stream is the process's in fastreid.
    ["TrainingSampler", "NaiveIdentitySampler", "BalancedIdentitySampler"],
)
@pytest.mark.parametrize("metabin", [True, False])
@pytest.mark.parametrize("combineall", [True, False])
def test_fastreids_training_batches_are_unchanged_but_for_domains(
    cfg: Any, sampler: str, metabin: bool, combineall: bool
) -> None:
    cfg.DATASETS.NAMES = ("Station", "Plaza")
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    # Its random numbers for flips and the like are those of the process, ours of the image.
    cfg.INPUT.FLIP.ENABLED = False
    if not metabin:
        del cfg["METABIN"]
    ours = seeded(lambda: build_reid_train_loader(cfg, combineall=combineall))
    theirs = seeded(lambda: plain("build_reid_train_loader")(cfg, combineall=combineall))
    for batch in ours:
        domains = batch.pop("domains").tolist()
        assert domains == ["plaza" in path for path in batch["img_paths"]]
    assert_same(ours, theirs)


def test_fastreids_test_batches_are_unchanged(cfg: Any) -> None:
    ours = build_reid_test_loader(cfg, dataset_name="Plaza")
    theirs = plain("build_reid_test_loader")(cfg, dataset_name="Plaza")
    assert ours[1] == theirs[1] == 4
    assert_same(seeded(lambda: ours, 9), seeded(lambda: theirs, 9))


def test_names_of_fastreid_lead_here(cfg: Any) -> None:
    cfg.DATASETS.NAMES = ("own.csv",)
    for loader in (
        fastreid.data.build_reid_train_loader,
        fastreid.data.build.build_reid_train_loader,
    ):
        assert next(iter(loader(cfg)))["domains"].shape == (8,)


def test_balanced_batches_over_datasets_and_the_domains_of_a_manifest(cfg: Any) -> None:
    cfg.DATASETS.NAMES = ("own.csv", "Plaza")
    cfg.DATALOADER.SAMPLER_TRAIN = "DomainBalancedSampler"
    cfg.SOLVER.IMS_PER_BATCH = 12
    loader = build_reid_train_loader(cfg)
    assert loader.dataset.domain_names == ["plaza", "station", "Plaza"]
    for batch in itertools.islice(loader, 5):
        assert Counter(batch["domains"].tolist()) == {0: 4, 1: 4, 2: 4}
        assert set(Counter(batch["targets"].tolist()).values()) == {2}
        for path, domain in zip(batch["img_paths"], batch["domains"].tolist(), strict=True):
            assert ("station" in path) == (domain == 1)


def test_domains_are_cameras_on_request(cfg: Any) -> None:
    cfg.DATASETS.NAMES = ("Plaza",)
    cfg.METABIN.DOMAIN = "camera"
    cfg.DATALOADER.SAMPLER_TRAIN = "DomainBalancedSampler"
    loader = build_reid_train_loader(cfg)
    assert loader.dataset.domain_names == ["plaza_0", "plaza_1"]
    for batch in itertools.islice(loader, 3):
        assert batch["domains"].tolist() == batch["camids"].tolist() == [0] * 4 + [1] * 4


def test_sampler_of_a_third_party_is_found_by_name(
    cfg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LastImages:
        def __init__(self, cfg: Any, dataset: DomainDataset) -> None:
            self.size = len(dataset)

        def __iter__(self) -> Iterator[int]:
            return iter(range(self.size - 8, self.size))

    monkeypatch.setitem(SAMPLER_REGISTRY._obj_map, "LastImages", LastImages)
    cfg.DATASETS.NAMES = ("Plaza",)
    cfg.DATALOADER.SAMPLER_TRAIN = "LastImages"
    (batch,) = build_reid_train_loader(cfg=cfg)
    assert batch["targets"].tolist() == [2] * 4 + [3] * 4


class Numbered(Plaza):
    """A dataset of a third party that numbers people and cameras, where fastreid's name them."""

    label: Callable[[str], Any] = int

    @property
    def train(self) -> list[Any]:
        label = type(self).label
        return [(path, label(p[-1]), label(c[-1])) for path, p, c in super().train]


class NumberedToo(Numbered):
    """Other people under the same numbers."""

    folder = "station"


class Unprefixed(Numbered):
    """The same people as of ``NumberedToo``, labelled by texts without a name."""

    folder = "station"
    label = str


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = type("UnprefixedToo", (Unprefixed,), {"folder": "plaza"})
    for dataset in (Numbered, NumberedToo, Unprefixed, twin):
        monkeypatch.setitem(DATASET_REGISTRY._obj_map, dataset.__name__, dataset)


@pytest.mark.parametrize("other", ["NumberedToo", "Station", "Unprefixed"])
def test_numbers_of_different_datasets_are_different_people(
    cfg: Any, other: str, numbered: None
) -> None:
    cfg.DATASETS.NAMES = ("Numbered", other)
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    people: dict[tuple[str, str], set[int]] = {}
    dataset = build_reid_train_loader(cfg).dataset
    for index, domain in enumerate(dataset.domains):
        item = dataset[index]
        # The file's name says who it is.
        person = ("numbered" if domain == 0 else "other", Path(item["img_paths"]).name[0])
        people.setdefault(person, set()).add(item["targets"])
    found = [number for numbers in people.values() for number in numbers]
    assert len(found) == len(set(found)) == dataset.num_classes == 8
    assert dataset.num_cameras == 4


def test_a_single_dataset_keeps_its_numbers(cfg: Any, numbered: None) -> None:
    cfg.DATASETS.NAMES = ("Numbered",)
    assert build_reid_train_loader(cfg).dataset.pids == [0, 1, 2, 3]


def test_the_same_labels_in_two_datasets_are_the_same_people_and_the_log_says_so(
    cfg: Any, numbered: None, plugin_log: pytest.LogCaptureFixture
) -> None:
    cfg.DATASETS.NAMES = ("Unprefixed", "UnprefixedToo")
    assert build_reid_train_loader(cfg).dataset.num_classes == 4
    assert "Unprefixed and UnprefixedToo have 4 identities of the same label, '0' for one" in (
        plugin_log.text
    )
    plugin_log.clear()
    cfg.DATASETS.NAMES = ("Plaza", "Station", "Numbered", "NumberedToo", "own.csv")
    build_reid_train_loader(cfg)
    assert "same label" not in plugin_log.text


def test_given_data_transforms_and_sampler_are_used(cfg: Any) -> None:
    items = Plaza(fastreid.data.build._root).train
    given = CommDataset(items, lambda image: torch.ones(1))
    loader = build_reid_train_loader(cfg, train_set=given, sampler=range(8))
    assert loader.dataset is given
    (batch,) = loader
    assert batch["img_paths"] == [item[0] for item in items[:8]]
    assert "domains" not in batch
    cfg.DATASETS.NAMES = ("Plaza",)
    (batch,) = build_reid_train_loader(cfg, transforms=given.transform, sampler=range(8))
    assert batch["images"].shape == (8, 1)
    loader, count = build_reid_test_loader(cfg, test_set=given, num_query=3)
    assert loader.dataset is given
    assert count == 3


def test_arguments_without_config_go_straight_to_fastreid() -> None:
    given = CommDataset(Plaza(fastreid.data.build._root).train, lambda image: torch.ones(1))
    loader = build_reid_train_loader(given, sampler=range(16), total_batch_size=4, num_workers=0)
    assert [len(batch["targets"]) for batch in loader] == [4] * 4
    loader, count = build_reid_test_loader(given, 5, 7, num_workers=0)
    assert count == 7
    assert [len(batch["targets"]) for batch in loader] == [5, 5, 5, 1]


def test_test_loader_starts_as_many_workers_as_the_config_says(cfg: Any) -> None:
    for workers in (0, 1):
        cfg.DATALOADER.NUM_WORKERS = workers
        assert build_reid_test_loader(cfg, dataset_name="Plaza")[0].num_workers == workers


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_ends_the_iteration(cfg: Any, tmp_path: Path, workers: int) -> None:
    (tmp_path / "plaza/20a.jpg").write_bytes(b"GIF89a")
    cfg.DATASETS.NAMES = ("Plaza",)
    cfg.DATALOADER.NUM_WORKERS = workers
    for build in (
        lambda: build_reid_train_loader(cfg),
        lambda: build_reid_test_loader(cfg, dataset_name="Plaza")[0],
    ):
        with pytest.raises(DatasetError, match=r"plaza/20a\.jpg is not an image") as caught:
            list(itertools.islice(build(), 4))
        # A loader that only the garbage collector frees waits 5 seconds for its workers.
        traceback.clear_frames(caught.tb)


def train_on(cfg: Any, *names: str) -> None:
    cfg.DATASETS.NAMES = names
    build_reid_train_loader(cfg)


def test_unknown_dataset_gets_near_matches(cfg: Any) -> None:
    with pytest.raises(DatasetError, match=r"DATASETS.NAMES lists 'plazza'.* did you mean Plaza"):
        train_on(cfg, "plazza")
    with pytest.raises(DatasetError, match=r"DATASETS.TESTS lists '@'.* choose one of .*Plaza, "):
        build_reid_test_loader(cfg, dataset_name="@")


def test_missing_folder_is_named_with_key_and_remedy(cfg: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").rmdir()
    words = rf"lists 'Empty', but {tmp_path}/empty is not found; .*FASTREID_DATASETS \(now '"
    with pytest.raises(DatasetError, match=f"DATASETS.NAMES {words}"):
        train_on(cfg, "Plaza", "Empty")
    with pytest.raises(DatasetError, match=f"DATASETS.TESTS {words}"):
        build_reid_test_loader(cfg, dataset_name="Empty")


def raising(error: Exception, lazy: bool) -> type[Plaza]:
    def fail(self: Any, **kwargs: Any) -> Any:
        raise error

    return type("Raising", (Plaza,), {"train": property(fail)} if lazy else {"__init__": fail})


@pytest.mark.parametrize("lazy", [True, False])
def test_only_missing_files_are_explained(
    cfg: Any, monkeypatch: pytest.MonkeyPatch, lazy: bool
) -> None:
    missing = FileNotFoundError(2, "No such file", "/data/index.mat")
    denied = PermissionError(13, "Permission denied", "/data/index.mat")
    for error, expected, words in (
        (denied, DatasetError, r"/data/index.mat cannot be read \(Permission denied\)"),
        (missing, DatasetError, "lists 'Raising', but /data/index.mat is not found"),
        (RuntimeError("corrupt index"), RuntimeError, "^corrupt index$"),
    ):
        monkeypatch.setitem(DATASET_REGISTRY._obj_map, "Raising", raising(error, lazy))
        with pytest.raises(expected, match=words):
            train_on(cfg, "Raising")


def test_datasets_without_the_images_asked_for_are_refused(cfg: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"NAMES lists 'Empty', which has no train images"):
        train_on(cfg, "Empty")
    with pytest.raises(DatasetError, match=r"TESTS lists 'Empty', which has no query images"):
        build_reid_test_loader(cfg, dataset_name="Empty")
    with pytest.raises(DatasetError, match=r"'own.csv', which has no gallery images; give some of"):
        build_reid_test_loader(cfg, dataset_name="own.csv")
    lines = (tmp_path / "own.csv").read_text().splitlines()
    (tmp_path / "query.csv").write_text("\n".join(lines[:2]))
    with pytest.raises(DatasetError, match=r"'query.csv', which has no train images; give some of"):
        train_on(cfg, "query.csv")


@pytest.mark.parametrize("sampler", ["NaiveIdentitySampler", "BalancedIdentitySampler"])
def test_batch_that_fastreid_would_search_for_ever_is_refused(cfg: Any, sampler: str) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    train_on(cfg, "Plaza")
    cfg.SOLVER.IMS_PER_BATCH = 10
    with pytest.raises(ConfigError, match=r"SOLVER.IMS_PER_BATCH 10 .* needs 5 .* have 4"):
        train_on(cfg, "Plaza")
    for size, remedy in ((7, "6"), (1, "2")):
        cfg.SOLVER.IMS_PER_BATCH = size
        with pytest.raises(
            ConfigError, match=rf"is {size}, .* multiple of 2, .* set it to {remedy}$"
        ):
            train_on(cfg, "Plaza")


def test_other_impossible_configs_are_refused(cfg: Any) -> None:
    with pytest.raises(ConfigError, match=r"DATASETS.NAMES is empty"):
        train_on(cfg)
    with pytest.raises(TypeError, match="dataset_name"):
        build_reid_test_loader(cfg)
    # fastreid lists the second, which adds lists and arrays and so never fills a batch.
    for name in ("DomainSampler", "SetReWeightSampler"):
        cfg.DATALOADER.SAMPLER_TRAIN = name
        with pytest.raises(ConfigError, match=rf"is '{name}'; .*Naive.*DomainBalancedSampler"):
            train_on(cfg, "Plaza")


def test_environment_variable_is_the_default_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTREID_DATASETS", "/elsewhere")
    with pytest.raises(DatasetError, match=r"/elsewhere/plaza is not found"):
        build_dataset("Plaza")


def test_one_identity_in_all_is_refused(cfg: Any, tmp_path: Path) -> None:
    lines = (tmp_path / "own.csv").read_text().splitlines()
    (tmp_path / "one.csv").write_text("\n".join(lines[:4]))
    with pytest.raises(DatasetError, match=r"DATASETS\.NAMES show one identity"):
        train_on(cfg, "one.csv")
