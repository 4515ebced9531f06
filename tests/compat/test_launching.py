from __future__ import annotations

import socket
import warnings

import pytest
import torch
import torch.distributed as dist
from fastreid.engine import defaults, launch
from fastreid.utils import comm

from metabin_plugin.compat import launching
from metabin_plugin.compat.launching import Place, process_group
from metabin_plugin.errors import ConfigError


@pytest.fixture
def no_cuda(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield
    torch.set_num_threads(threads)


def test_one_process_is_this_one():
    assert launch(lambda a, b: (a, b, dist.is_initialized()), 1, args=(1, 2)) == (1, 2, False)


def test_torchrun_processes_join_on_their_own(no_cuda, monkeypatch):
    url = launching._meeting_point("auto", 1)
    variables = {
        "TORCHELASTIC_RUN_ID": "test",
        "LOCAL_RANK": 0,
        "LOCAL_WORLD_SIZE": 1,
        "GROUP_RANK": 0,
        "RANK": 0,
        "WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": url.rsplit(":", 1)[1],
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    assert launch(lambda: (dist.get_backend(), comm.get_local_rank()), 1) == ("gloo", 0)
    assert not dist.is_initialized()


def test_ranks_count_through_the_machines():
    places = [Place(rank, 2, machine, 3, "tcp://h:1") for machine in range(3) for rank in range(2)]
    assert [place.rank for place in places] == [0, 1, 2, 3, 4, 5]
    assert {place.world_size for place in places} == {6}


@pytest.mark.parametrize("url", [None, "auto"])
def test_several_machines_need_an_address(url):
    with pytest.raises(ConfigError, match="--dist-url"):
        launch(print, 1, num_machines=2, dist_url=url)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank is 2 of 2 machines"),
        ({"num_machines": 2, "machine_rank": -1}, "--machine-rank is -1 of 2 machines"),
        # Or each of two machines would train alone.
        ({"machine_rank": 1}, "--machine-rank is 1 of 1 machines"),
        ({"num_machines": 0}, "--num-machines is 0; give 1 or more"),
        ({"num_gpus_per_machine": -1, "num_machines": 2}, "--num-gpus is -1; give 1 or more"),
        ({"num_gpus_per_machine": 0, "num_machines": 2}, "--num-gpus is 0; give 1 or more"),
    ],
)
def test_a_number_that_no_machine_has_is_refused(numbers, words):
    """Without that the other machines wait for it."""
    with pytest.raises(ConfigError, match=words):
        launch(print, **{"num_gpus_per_machine": 1, "dist_url": "tcp://a:1", **numbers})


def test_no_gpu_is_one_process():
    assert launch(lambda: dist.is_initialized(), 0) is False


@pytest.mark.parametrize(
    "url", ["machine:99", "tcp://machine", "tcp://machine:", "tcp://machine:x", "tcp://:9", ""]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match=r"--dist-url is .*; give tcp://HOST:PORT"):
        launch(print, 2, dist_url=url)


def test_an_address_that_is_taken_is_a_sentence(no_cuda):
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"--dist-url is '{url}', .*in use.*; ") as caught:
            process_group(Place(0, 2, 0, 1, url)).__enter__()
    # Else it would count as what follows from another rank's failure.
    assert not launching.peer_is_gone(caught.value)


def test_a_given_address_is_kept():
    assert launching._meeting_point("tcp://machine:99", 2) == "tcp://machine:99"


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes, but this machine has 1 GPUs"):
        launching._prepare_device(Place(1, 2, 0, 1, "tcp://h:1"))


def test_each_process_takes_its_gpu_before_it_talks(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert launching._prepare_device(Place(1, 2, 0, 1, "tcp://h:1")) == "nccl"
    assert chosen == [1]


def test_a_model_on_cpu_is_wrapped_without_a_gpu(no_cuda, tmp_path):
    with process_group(Place(0, 1, 0, 1, f"file://{tmp_path / 'meeting'}")):
        model = torch.nn.Linear(2, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # As DefaultTrainer calls it.
            wrapped = defaults.DistributedDataParallel(
                model, device_ids=[0], broadcast_buffers=False
            )
        wrapped(torch.ones(1, 2)).sum().backward()
    assert isinstance(wrapped, torch.nn.parallel.DistributedDataParallel)
    assert not wrapped.broadcast_buffers
    assert model.weight.grad.tolist() == [[1.0, 1.0]]
