from __future__ import annotations

import contextlib
import os
import threading

import pytest
import torch
from fastreid.config import get_cfg
from fastreid.data import build, build_reid_test_loader, data_utils
from torch.utils.data import DataLoader, Dataset

from metabin_plugin.compat.data import DeviceDataLoader, DevicePrefetcher


class Counting(Dataset):
    """Ten numbers; remembers which were asked for, and can fail at one."""

    def __init__(self, fails_at: int = -1) -> None:
        self.asked: list[int] = []
        self.fails_at = fails_at

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, object]:
        self.asked.append(index)
        if index == self.fails_at:
            raise OSError("the image is gone")
        return {"images": torch.tensor([float(index)]), "img_paths": str(index)}


def loader_of(dataset: Dataset, **kwargs) -> DeviceDataLoader:
    return DeviceDataLoader(0, dataset=dataset, batch_size=2, **kwargs)


def values(batches) -> list[list[float]]:
    return [batch["images"].flatten().tolist() for batch in batches]


ALL = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0], [8.0, 9.0]]


def test_it_takes_the_place_of_data_loader_x():
    assert data_utils.DataLoaderX is DeviceDataLoader
    assert build.DataLoaderX is DeviceDataLoader


def test_cpu_iteration_is_synchronous(no_cuda):
    dataset = Counting()
    threads = set(threading.enumerate())
    loader = loader_of(dataset)
    batches = iter(loader)
    assert dataset.asked == []
    next(batches)
    assert dataset.asked == [0, 1]
    # One of another test may end in between.
    assert set(threading.enumerate()) <= threads


def test_it_keeps_length_and_dataset_and_can_be_iterated_again(no_cuda):
    dataset = Counting()
    loader = loader_of(dataset)
    assert len(loader) == 5
    assert loader.dataset is dataset
    assert values(loader) == values(loader) == ALL


def test_memory_is_pinned_for_cuda_only(no_cuda, monkeypatch):
    assert not loader_of(Counting(), pin_memory=True).pin_memory
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    loader = loader_of(Counting(), pin_memory=True)
    assert loader.pin_memory
    assert loader.device == torch.device("cuda", 0)
    # Where MODEL.DEVICE has put the network.
    loader.use_device(torch.device("cuda:1"))
    assert loader.device == torch.device("cuda", 1)
    loader.use_device(torch.device("cpu"))
    assert not loader.pin_memory
    assert values(loader) == ALL


def test_workers_are_capped_at_the_cpus_of_this_process(no_cuda, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert loader_of(Counting(), num_workers=8).num_workers == 2
    assert loader_of(Counting(), num_workers=1).num_workers == 1
    assert loader_of(Counting()).num_workers == 0


def test_a_loader_from_a_config_serves_its_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    loader, _ = build_reid_test_loader(cfg, test_set=Counting(), num_query=1)
    assert loader.device == torch.device("cpu")


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def fake_cuda(monkeypatch):
    """CUDA streams that do nothing, so that the CUDA path runs on any machine."""

    class Stream:
        def __init__(self, device: torch.device) -> None:
            pass

        def wait_stream(self, other: Stream) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)


def prefetch(dataset: Dataset, depth: int = 10) -> DevicePrefetcher:
    return DevicePrefetcher(iter(DataLoader(dataset, batch_size=2)), torch.device("cpu"), depth)


@pytest.mark.parametrize("depth", [0, 10])
def test_prefetching_keeps_batches_and_their_order(fake_cuda, depth):
    batches = prefetch(Counting(), depth)
    first = next(batches)
    assert first["img_paths"] == ["0", "1"]
    assert [first["images"].flatten().tolist(), *values(batches)] == ALL
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize("depth", [0, 10])
@pytest.mark.parametrize("fails_at", [0, 5])
def test_a_failing_loader_raises_where_the_training_waits(fake_cuda, fails_at, depth):
    batches = prefetch(Counting(fails_at), depth)
    with pytest.raises(OSError, match="the image is gone"):
        values(batches)
    with pytest.raises(OSError, match="the image is gone"):
        next(batches)


def test_an_exit_in_the_thread_ends_the_wait_for_it(fake_cuda):
    class Exiting(Counting):
        def __getitem__(self, index: int) -> dict[str, object]:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        values(prefetch(Exiting()))


def test_without_a_store_the_training_loads_one_batch_ahead(fake_cuda):
    dataset = Counting()
    threads = set(threading.enumerate())
    batches = prefetch(dataset, depth=0)
    assert dataset.asked == [0, 1]
    next(batches)
    assert dataset.asked == [0, 1, 2, 3]
    assert set(threading.enumerate()) <= threads


def test_dropping_the_prefetcher_ends_its_thread(fake_cuda):
    threads = set(threading.enumerate())
    batches = prefetch(Counting(), depth=1)
    next(batches)
    (own,) = set(threading.enumerate()) - threads
    del batches
    own.join(300)
    assert not own.is_alive()
