"""A run goes on only with the training data that it began with, wherever they are; and on what."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg

from metabin_plugin.data.build import build_train_set
from metabin_plugin.data.domains import is_in_order_of_paths, record_changes, training_record
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.engine.checkpoint_schema import machine_changes, machine_record
from metabin_plugin.errors import DatasetError
from tests.engine.noisy_run import noisy_options, noisy_trainer
from tests.engine.test_resume import difference
from tests.engine.tiny_data import write_manifest


def config(**changes: Any) -> CfgNode:
    cfg = get_cfg()
    for key, value in changes.items():
        node, _, name = key.partition("__")
        cfg[node][name] = value
    return cfg


def options_for(folder: Path, sources: list[Path], **changes: Any) -> list[str]:
    names = str(tuple(map(str, sources)))
    return noisy_options(
        folder,
        DATASETS__NAMES=names,
        SOLVER__MAX_EPOCH=2,
        TEST__EVAL_PERIOD=0,
        SOLVER__CHECKPOINT_KEEP=0,
        **changes,
    )


def stopped(folder: Path, sources: list[Path]) -> dict[str, Any]:
    """Train, and let the run go on from the middle; the checkpoint at its end."""
    noisy_trainer(options_for(folder, sources)).train()
    (folder / "out" / "last_checkpoint").write_text("model_iter_0000004.pth")
    end: dict[str, Any] = torch.load(folder / "out" / "model_final.pth", weights_only=True)
    return end


def sources_in(folder: Path, *names: str) -> list[Path]:
    return [write_manifest(folder, name, number) for number, name in enumerate(names)]


def resumed(folder: Path, sources: list[Path]) -> MetaBINTrainer:
    return noisy_trainer(options_for(folder, sources), resume=True)


def test_sources_in_another_folder_are_gone_on_with(tmp_path: Path) -> None:
    # In the order of their paths they were a, c, b; elsewhere they are c, a, b.
    before = [*sources_in(tmp_path / "1", "a"), *sources_in(tmp_path / "3", "b")]
    before.insert(1, write_manifest(tmp_path / "2", "c", 7))
    expected = stopped(tmp_path, before)
    moved = [tmp_path / "z" / "a.csv", tmp_path / "x" / "c.csv", tmp_path / "y" / "b.csv"]
    for old, new in zip(before, moved, strict=True):
        shutil.move(old.parent, new.parent)
    trainer = resumed(tmp_path, moved)
    assert trainer.start_iter == 4
    trainer.train()
    found = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    del expected["config"], found["config"]
    assert difference(expected, found) == ""


@pytest.mark.parametrize("order", [[1, 0, 2], [2, 1, 0]])
def test_sources_in_another_order_are_refused(tmp_path: Path, order: list[int]) -> None:
    sources = sources_in(tmp_path, "a", "b", "c")
    stopped(tmp_path, sources)
    words = r"the data sets were a, b, c, and are .*; put the data back .* MODEL\.WEIGHTS"
    with pytest.raises(DatasetError, match=words):
        resumed(tmp_path, [sources[index] for index in order])


def edited(manifest: Path, old: str, new: str) -> None:
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("b/0_0.png,0,", "b/0_0.png,new,", "b had 4 people, and has 5"),
        ("b/0_0.png,0,0,train\n", "", "b had 16 images, and has 15"),
        ("b/0_0.png,0,0,", "b/0_0.png,1,0,", "b has other people, cameras, domains or file names"),
        ("b/0_0.png,0,0,", "b/0_0.png,0,1,", "b has other people, cameras, domains or file names"),
        ("b/0_0.png", "b/copy.png", "b has other people, cameras, domains or file names"),
    ],
)
def test_other_people_or_images_are_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    sources = sources_in(tmp_path, "a", "b", "c")
    stopped(tmp_path, sources)
    shutil.copy(tmp_path / "b" / "0_0.png", tmp_path / "b" / "copy.png")
    edited(sources[1], old, new)
    with pytest.raises(DatasetError, match=words):
        resumed(tmp_path, sources)


def test_manifests_of_one_name_are_of_different_people(tmp_path: Path) -> None:
    folders = [tmp_path / place for place in ("north", "south")]
    sources = [write_manifest(folder, "shop", seed) for seed, folder in enumerate(folders)]
    trainer = noisy_trainer(options_for(tmp_path, [*sources, *sources_in(tmp_path, "other")]))
    record = trainer.training_data
    assert [source["name"] for source in record["sources"]] == ["shop", "shop#2", "other"]
    assert (record["people"], record["domains"]) == (12, 3)
    named = [*sources, write_manifest(tmp_path, "shop#2", 5)]
    record = training_record(build_train_set(config(DATASETS__NAMES=tuple(map(str, named))), None))
    assert [source["name"] for source in record["sources"]] == ["shop", "shop#3", "shop#2"]
    assert record["people"] == 12


def test_a_manifest_that_is_named_twice_has_the_same_people(tmp_path: Path) -> None:
    (source,) = sources_in(tmp_path, "shop")
    (tmp_path / "link").symlink_to(source.parent)
    named = [str(source), str(tmp_path / "link" / source.name)]
    record = training_record(build_train_set(config(DATASETS__NAMES=tuple(named)), None))
    assert record["people"] == 4
    assert [entry["images"] for entry in record["sources"]] == [16, 16]


def test_what_differs_is_said_of_each_source() -> None:
    source = {"name": "a", "images": 4, "people": 2, "digest": "1"}
    then = {"people": 2, "domains": 1, "order": "x", "sources": [source]}
    assert record_changes(then, then) == []
    assert record_changes(then, {**then, "sources": []}) == ["the data sets were a, and are none"]
    (change,) = record_changes(then, {**then, "order": "y"})
    assert "2 people in 1 domains were numbered otherwise" in change


def strip(folder: Path) -> None:
    """Make a checkpoint one of version 0.1."""
    path = folder / "out" / "model_iter_0000004.pth"
    content = torch.load(path, weights_only=True)
    del content["format"], content["progress"]["data"], content["progress"]["machine"]
    torch.save(content, path)


def test_a_checkpoint_of_version_0_1_goes_on_where_people_have_its_numbers(tmp_path: Path) -> None:
    sources = sources_in(tmp_path, "a", "b", "c")
    stopped(tmp_path, sources)
    strip(tmp_path)
    assert resumed(tmp_path, sources).start_iter == 4


def test_a_checkpoint_of_version_0_1_is_refused_where_people_have_other_numbers(
    tmp_path: Path,
) -> None:
    # By its path, b comes first.
    sources = [*sources_in(tmp_path / "2", "a"), *sources_in(tmp_path / "1", "b", "c")]
    stopped(tmp_path, sources)
    strip(tmp_path)
    with pytest.raises(DatasetError, match=r"version 0\.1, .* numbered the people by the paths"):
        resumed(tmp_path, sources)


def test_registered_data_sets_always_have_the_numbers_of_version_0_1(tmp_path: Path) -> None:
    names = tuple(map(str, sources_in(tmp_path, "b", "a")))
    dataset = build_train_set(config(DATASETS__NAMES=names), None)
    assert not is_in_order_of_paths(dataset, ["/1/b.csv", "/2/a.csv"])
    assert is_in_order_of_paths(dataset, ["/2/b.csv", "/1/a.csv"])
    assert is_in_order_of_paths(dataset, ["Market1501", "DukeMTMC"])
    assert not is_in_order_of_paths(dataset, ["/2/b.csv"])
    dataset.sources = []
    assert is_in_order_of_paths(dataset, ["Market1501"])
    assert [source["name"] for source in training_record(dataset)["sources"]] == ["all"]


@pytest.fixture
def other_threads() -> Any:
    before = torch.get_num_threads()
    yield before + 1
    torch.set_num_threads(before)


def test_a_change_of_the_machine_is_said(
    tmp_path: Path, plugin_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = sources_in(tmp_path, "a", "b", "c")
    stopped(tmp_path, sources)
    resumed(tmp_path, sources)
    assert "last bits" not in plugin_log.text
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SSE")
    resumed(tmp_path, sources)
    capability = machine_record(torch.device("cpu"))["CPU instructions"]
    assert "so the last bits of what follows may differ" in plugin_log.text
    assert "\n  threads: 1 -> 3\n  CPU instructions: " in plugin_log.text
    assert f" -> {capability}" in plugin_log.text


def test_all_that_bits_rest_on_is_recorded(other_threads: int) -> None:
    then = machine_record(torch.device("cpu"))
    assert machine_changes(then, then) == []
    torch.set_num_threads(other_threads)
    now = machine_record(torch.device("cpu"))
    assert machine_changes(then, now) == [f"threads: {other_threads - 1} -> {other_threads}"]
    assert {"PyTorch", "NumPy", "Pillow", "torchvision", "CPU instructions", "device"} < now.keys()
    assert machine_changes({}, {"device": "cpu"}) == ["device: (absent) -> cpu"]
