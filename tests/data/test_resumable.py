"""Training batches: the same with any number of workers, straight or continued, on any device."""

from __future__ import annotations

import contextlib
import io
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import CfgNode
from fastreid.data.common import CommDataset
from fastreid.data.transforms import build_transforms
from PIL import Image

from metabin_plugin.compat.data import DevicePrefetcher
from metabin_plugin.data import (
    DomainBalancedSampler,
    DomainDataset,
    build_reid_test_loader,
    build_reid_train_loader,
    resumable,
)
from metabin_plugin.data.resumable import (
    Draw,
    ResumableBatches,
    ResumableLoader,
    SeededImages,
    StreamSeeds,
)
from metabin_plugin.errors import DatasetError
from metabin_plugin.random_state import capture
from metabin_plugin.registries import SAMPLER_REGISTRY

# SetReWeightSampler is left out: that of fastreid 1.4.0 cannot draw a batch from any data.
SAMPLERS = [
    "DomainBalancedSampler",
    "TrainingSampler",
    "NaiveIdentitySampler",
    "BalancedIdentitySampler",
    "ImbalancedDatasetSampler",
]
Batch = dict[str, Any]


@pytest.fixture
def cfg(cfg: CfgNode) -> CfgNode:
    """A config with every random transform of fastreid but the patches, and batches of 12."""
    cfg.METABIN.SEED = 3
    cfg.SOLVER.IMS_PER_BATCH = 12
    cfg.INPUT.SIZE_TRAIN = [32, 16]
    for name in ("FLIP", "PADDING", "CJ", "AFFINE", "REA", "AUTOAUG", "AUGMIX"):
        cfg.INPUT[name].ENABLED = True
    cfg.INPUT.AUTOAUG.PROB = 0.5
    return cfg


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, int]]:
    """Two noisy images of each of 12 identities in 3 domains, which are also their cameras."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    items = []
    for number in range(24):
        pixels = rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        items.append((str(folder / f"{number}.png"), number // 2, number // 8))
    return items


@pytest.fixture
def images(cfg: CfgNode, items: list[tuple[str, int, int]]) -> DomainDataset:
    domains = [camera for *_, camera in items]
    return DomainDataset(items, domains, list("abc"), build_transforms(cfg))


def stream(
    cfg: CfgNode, images: Any, sampler: Any = "DomainBalancedSampler", workers: int = 0
) -> ResumableBatches:
    cfg.DATALOADER.NUM_WORKERS = workers
    if isinstance(sampler, str):
        cfg.DATALOADER.SAMPLER_TRAIN, sampler = sampler, None
    batches = iter(build_reid_train_loader(cfg, train_set=images, sampler=sampler))
    assert isinstance(batches, ResumableBatches)
    return batches


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def same(ours: Any, theirs: Any) -> bool:
    """Whether two batches, states or lists of them are equal, bit for bit."""
    if isinstance(ours, torch.Tensor):
        return bool(ours.dtype == theirs.dtype and torch.equal(ours, theirs))
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_workers_and_interruption_do_not_show(
    cfg: CfgNode, images: DomainDataset, sampler: str
) -> None:
    straight = stream(cfg, images, sampler)
    file = io.BytesIO()
    expected = take(straight, 4)
    torch.save(straight.state_dict(), file)
    expected += take(straight, 3)
    assert not same(expected[0]["images"], expected[1]["images"])
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state["position"] == 4
    resumed = stream(cfg, images, sampler)
    resumed.load_state_dict(state)
    assert same(take(resumed, 3), expected[4:])
    assert resumed.position == 7
    # One that already runs, with workers, is set back.
    running = stream(cfg, images, sampler, workers=2)
    take(running, 1)
    running.load_state_dict(dict(state, position=0))
    assert same(take(running, 7), expected)
    assert same(running.state_dict(), straight.state_dict())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_generators_of_the_training_process_are_left_alone(
    cfg: CfgNode, images: DomainDataset, sampler: str, workers: int
) -> None:
    batches = stream(cfg, images, sampler, workers)
    before = capture()
    first = take(batches, 2)
    assert same(capture(), before)
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    batches.load_state_dict(dict(batches.state_dict(), position=0))
    assert same(take(batches, 2), first)


def test_the_test_loader_leaves_the_generators_alone(cfg: CfgNode, images: DomainDataset) -> None:
    loader, _ = build_reid_test_loader(cfg, test_set=CommDataset(images.img_items), num_query=1)
    before = capture()
    iter(loader)
    assert same(capture(), before)


def test_every_iteration_over_the_loader_is_the_same_stream(
    cfg: CfgNode, images: DomainDataset
) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = "DomainBalancedSampler"
    loader = build_reid_train_loader(cfg, train_set=images)
    assert isinstance(loader, ResumableLoader)
    assert loader.dataset is images
    first, second = iter(loader), iter(loader)
    assert same(take(first, 3), take(second, 3))
    first.load_state_dict({"seed": 8, "sampler_seed": 9, "position": 5})
    take(first, 1)
    # The streams of one loader do not share the sampler's seed.
    assert second.state_dict() == {"seed": 3, "sampler_seed": 3, "position": 3}
    assert same(take(iter(loader), 2), take(iter(loader), 2))
    assert same([next(second)], take(iter(loader), 4)[3:])


def test_seeds_make_different_streams(cfg: CfgNode, images: DomainDataset) -> None:
    first = next(stream(cfg, images))
    cfg.METABIN.SEED = 4
    second = next(stream(cfg, images))
    assert first["img_paths"] != second["img_paths"]
    # The meta-learning hook's loader has the base loader's seed and a sampler of its own.
    fixed = range(12)
    by_seed = []
    for seed in (4, 5):
        cfg.METABIN.SEED = seed
        by_seed.append(next(stream(cfg, images, fixed))["images"])
    assert not torch.equal(*by_seed)

    class Fixed:
        _seed = 7

        def __iter__(self) -> Iterator[int]:
            return iter(fixed)

    assert not torch.equal(next(stream(cfg, images, Fixed()))["images"], by_seed[1])


def test_without_a_configured_seed_the_stream_still_resumes(
    cfg: CfgNode, images: DomainDataset
) -> None:
    cfg.METABIN.SEED = -1
    first, second = stream(cfg, images), stream(cfg, images)
    expected = take(first, 3)
    state = dict(first.state_dict(), position=1)
    assert first.seed >= 0
    assert state != dict(second.state_dict(), position=1)
    second.load_state_dict(state)
    assert same(take(second, 2), expected[1:])


class Noise:
    """Random numbers."""

    def __getitem__(self, index: int) -> dict[str, float]:
        return {"python": random.random(), "numpy": np.random.rand(), "torch": torch.rand(1).item()}


def test_every_image_has_random_numbers_of_its_own(cfg: CfgNode) -> None:
    # Two batches of six images, each of them twice.
    batches = list(stream(cfg, Noise(), [0, 1, 2, 3, 4, 5] * 4))
    assert len(batches) == 2
    for generator in ("python", "numpy", "torch"):
        numbers = [number for batch in batches for number in batch[generator].tolist()]
        assert len(set(numbers)) == 24, generator


def test_ranks_share_the_images_of_one_process(cfg: CfgNode, images: DomainDataset) -> None:
    def batches(rank: int, world_size: int) -> ResumableBatches:
        sampler = DomainBalancedSampler(
            [item[1] for item in images.img_items],
            images.domains,
            batch_size=12,
            num_instances=2,
            seed=6,
            rank=rank,
            world_size=world_size,
        )
        cfg.SOLVER.IMS_PER_BATCH = 12 // world_size
        return stream(cfg, images, sampler)

    def by_path(*parts: Batch) -> dict[str, list[torch.Tensor]]:
        found: dict[str, list[torch.Tensor]] = {}
        for part in parts:
            for path, image in zip(part["img_paths"], part["images"], strict=True):
                found.setdefault(path, []).append(image)
        return dict(sorted(found.items()))

    # With one image left to an identity, its copies have to differ alike.
    images.img_items = [item for number, item in enumerate(images.img_items) if number % 8 != 1]
    images.domains = [item[2] for item in images.img_items]
    whole, *ranks = batches(0, 1), batches(0, 2), batches(1, 2)
    for number in range(6):
        batch, parts = next(whole), [next(rank) for rank in ranks]
        assert same(by_path(*parts), by_path(batch)), number


def test_a_balanced_stream_jumps_to_its_position(cfg: CfgNode, images: DomainDataset) -> None:
    asked: list[int] = []

    class Recording(DomainBalancedSampler):
        def batch(self, number: int) -> list[int]:
            asked.append(number)
            return super().batch(number)

    sampler = Recording(cfg, images)
    sampler.start_batch = 100
    batches = stream(cfg, images, sampler)
    batches.load_state_dict(dict(batches.state_dict(), position=5000))
    take(batches, 2)
    assert asked[-2:] == [5100, 5101]
    assert len(asked) <= 4
    assert sampler.start_batch == 100


def test_a_balanced_sampler_of_another_batch_size_resumes_too(
    cfg: CfgNode, images: DomainDataset
) -> None:
    sampler = DomainBalancedSampler(cfg, images)
    cfg.SOLVER.IMS_PER_BATCH = 8
    straight, resumed = stream(cfg, images, sampler), stream(cfg, images, sampler)
    expected = take(straight, 5)
    resumed.load_state_dict(dict(straight.state_dict(), position=2))
    assert same(take(resumed, 3), expected[2:])


def test_data_and_sampler_of_a_third_party(
    cfg: CfgNode, images: DomainDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shuffled:
        """An end, no seed, and draws from the process's generators at once."""

        def __init__(self, cfg: CfgNode, dataset: CommDataset) -> None:
            self.size = len(dataset)

        def __iter__(self) -> Iterator[int]:
            order = random.sample(range(self.size), self.size)
            return iter([*order, *np.random.permutation(self.size)])

    monkeypatch.setitem(SAMPLER_REGISTRY._obj_map, "Shuffled", Shuffled)
    given = CommDataset(images.img_items, images.transform)
    straight = stream(cfg, given, "Shuffled")
    before = capture()
    expected = list(straight)
    assert same(capture(), before)
    assert [len(batch["targets"]) for batch in expected] == [12] * 4
    assert "domains" not in expected[0]
    with pytest.raises(StopIteration):
        next(straight)
    assert straight.state_dict() == {"seed": 3, "sampler_seed": None, "position": 4}
    resumed = stream(cfg, given, "Shuffled", workers=2)
    resumed.load_state_dict(dict(straight.state_dict(), position=3))
    assert same(list(resumed), expected[3:])


class Failing:
    """Eight numbers, one of which cannot be read the first time."""

    failed = False

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, int]:
        if index == 5 and not self.failed:
            self.failed = True
            raise DatasetError("Image 5 is gone")
        return {"index": index}


def test_a_failed_batch_is_not_counted(cfg: CfgNode) -> None:
    cfg.SOLVER.IMS_PER_BATCH = 2
    batches = stream(cfg, Failing(), range(8))
    assert [batch["index"].tolist() for batch in take(batches, 2)] == [[0, 1], [2, 3]]
    with pytest.raises(DatasetError, match="Image 5 is gone"):
        next(batches)
    assert batches.position == 2
    assert [batch["index"].tolist() for batch in batches] == [[4, 5], [6, 7]]


def test_nothing_starts_before_the_first_batch_and_everything_ends(
    cfg: CfgNode, images: DomainDataset
) -> None:
    def workers() -> set[Any]:
        return set(multiprocessing.active_children()) - before

    before = set(multiprocessing.active_children())
    batches = stream(cfg, images, workers=1)
    batches.load_state_dict(dict(batches.state_dict(), position=1))
    assert not workers()
    next(batches)
    assert len(workers()) == 1
    batches.close()
    assert not workers()
    next(batches)
    assert len(workers()) == 1
    batches.load_state_dict(batches.state_dict())
    assert not workers()
    next(batches)
    assert len(workers()) == 1
    del batches
    assert not workers()


@pytest.mark.slow
def test_workers_outlive_the_signals_but_not_their_training() -> None:
    script = Path(__file__).with_name("signalled_loader.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert workers
        assert all(map(runs, workers))
        for number in (signal.SIGINT, signal.SIGTERM):
            os.killpg(process.pid, number)
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "the same batches\n"
        assert all(map(runs, workers))
        process.kill()
    # An idle worker looks after its parent every 5 seconds.
    wait_for_end(workers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "status", "says"),
    [
        ("exit", 0, ""),
        ("error", 1, "RuntimeError: on purpose"),
        ("child error", 1, "RuntimeError: on purpose"),
    ],
)
def test_a_process_with_running_workers_ends_with_them(end: str, status: int, says: str) -> None:
    script = Path(__file__).with_name("signalled_loader.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, str(script), end],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == status, process.stderr
    assert process.stderr.strip().endswith(says)
    assert "Exception ignored" not in process.stderr
    workers = [int(pid) for pid in process.stdout.split()]
    assert len(workers) == 2
    wait_for_end(workers)


def wait_for_end(pids: list[int]) -> None:
    """What a process closes when it ends is closed before it has ended."""
    deadline = time.monotonic() + 300
    while any(map(runs, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    # It may end between the opening and the reading.
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def test_spawned_workers_can_have_the_images(images: DomainDataset) -> None:
    seeded = SeededImages(images, StreamSeeds(1, 2))
    again = pickle.loads(pickle.dumps(seeded))
    draws = [Draw(0, 5, 0), Draw(0, 5, 1), Draw(1, 5, 0)]
    assert same(again.__getitems__(draws), seeded.__getitems__(draws))


@pytest.mark.parametrize("workers", [0, 2])
def test_on_cuda_the_batch_copied_ahead_is_not_counted(
    cfg: CfgNode, images: DomainDataset, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = take(stream(cfg, images), 5)
    fake_cuda(monkeypatch)
    threads = set(threading.enumerate())
    first, second = stream(cfg, images, workers=workers), stream(cfg, images, workers=workers)
    for batches in (first, second):
        batches._loader.device = torch.device("cuda", 0)
    before = capture()
    assert same(take(first, 2), expected[:2])
    assert first.position == 2
    # A thread that loads could meet the training at the generators.
    # One of another test may end in between.
    assert workers or set(threading.enumerate()) <= threads
    second.load_state_dict(first.state_dict())
    assert same(take(second, 3), expected[2:])
    assert same(capture(), before)


def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA streams that do nothing and a prefetcher that copies to the CPU."""

    class Stream:
        def __init__(self, device: torch.device) -> None:
            pass

        def wait_stream(self, other: Stream) -> None:
            pass

    def prefetcher(batches: Iterator[Batch], device: torch.device, depth: int) -> Any:
        assert device.type == "cuda"
        return DevicePrefetcher(batches, torch.device("cpu"), depth)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(resumable, "DevicePrefetcher", prefetcher)
