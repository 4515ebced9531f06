"""``engine.launch`` works with CUDA and NCCL only, and knows nothing of ``torchrun``."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from metabin_plugin.compat.data_loader import available_cpus
from metabin_plugin.compat.ranks import run_ranks
from metabin_plugin.compat.rebinding import rebind
from metabin_plugin.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """Where a process stands: its machine, its rank there, and how to meet the others."""

    local_rank: int
    local_size: int
    machine: int
    machines: int
    url: str

    @property
    def rank(self) -> int:
        """Rank among all processes."""
        return self.machine * self.local_size + self.local_rank

    @property
    def world_size(self) -> int:
        """Number of processes on all machines."""
        return self.machines * self.local_size


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
) -> Any:
    """Run ``main_func(*args)`` in this process, or in several: NCCL on CUDA, gloo on CPU.

    Under ``torchrun`` the processes are there already, and the numbers are its own. Otherwise this
    process starts them, passes SIGTERM and Ctrl-C on, and ends all of them when one fails.

    Args:
        main_func: What to run; importable, since other processes import it.
        num_gpus_per_machine: Processes on each machine; one GPU each where there are any.
        num_machines: Number of machines, each of which calls this function.
        machine_rank: This machine's number.
        dist_url: Where the processes meet, e.g. ``tcp://127.0.0.1:8686``; None or ``auto`` picks a
            free port of this machine.
        args: Arguments of ``main_func``.

    Returns:
        What ``main_func`` returns when it ran in this process; None otherwise.

    Raises:
        ConfigError: Fewer GPUs than processes, or several machines without ``dist_url``.
        MetaBINError: What ``main_func`` raised in another process, or that such a process died.
        ProcessRaisedException: ``main_func`` raised anything else in another process.
        SystemExit: A signal ended the processes; with 128 and its number.
    """
    if dist.is_torchelastic_launched():
        with process_group(_torchrun_place()):
            return main_func(*args)
    if num_machines * num_gpus_per_machine <= 1:
        return main_func(*args)
    url = _meeting_point(dist_url, num_machines)
    # Pickled here, so that each child registers the plugin before it unpickles names of fastreid.
    call = pickle.dumps((main_func, args))
    places = [
        Place(rank, num_gpus_per_machine, machine_rank, num_machines, url)
        for rank in range(num_gpus_per_machine)
    ]
    run_ranks(
        _distributed_worker,
        args=(places, call, mp.get_start_method()),
        count=num_gpus_per_machine,
        first=places[0].rank,
    )
    return None


def _distributed_worker(
    local_rank: int, places: list[Place], call: bytes, start_method: str
) -> None:
    from metabin_plugin import register

    # A spawned process would spawn its data loaders' workers too, each importing PyTorch anew:
    # seconds for every pass over the data, where the parent's own way (fork, on Linux) takes none.
    mp.set_start_method(start_method, force=True)
    register()
    with process_group(places[local_rank]):
        main_func, args = pickle.loads(call)
        main_func(*args)


@contextmanager
def process_group(place: Place) -> Iterator[None]:
    """Join the process group, and the machine's own group that fastreid keeps, for a while.

    Args:
        place: This process's place among the others.

    Raises:
        ConfigError: There are fewer GPUs than processes on this machine.
    """
    from fastreid.utils import comm

    backend = _prepare_device(place)
    dist.init_process_group(
        backend, init_method=place.url, world_size=place.world_size, rank=place.rank
    )
    for machine in range(place.machines):
        first = machine * place.local_size
        group = dist.new_group(list(range(first, first + place.local_size)))
        if machine == place.machine:
            comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()
    yield
    # Not after an error: the other processes may be waiting in a collective for ever.
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    dist.destroy_process_group()


def _prepare_device(place: Place) -> str:
    if not torch.cuda.is_available():
        # Each process would use every CPU, and they would get into each other's way.
        torch.set_num_threads(max(1, available_cpus() // place.local_size))
        return "gloo"
    gpus = torch.cuda.device_count()
    if place.local_size > gpus:
        raise ConfigError(
            f"--num-gpus asks for {place.local_size} processes, but this machine has {gpus} GPUs; "
            "ask for no more than that, or hide them with CUDA_VISIBLE_DEVICES= to train on CPU."
        )
    # Before the first collective: NCCL binds each process to the device that is current then.
    torch.cuda.set_device(place.local_rank)
    return "nccl"


def _meeting_point(url: str | None, num_machines: int) -> str:
    if url is not None and url != "auto":
        return url
    if num_machines > 1:
        raise ConfigError(
            f"--dist-url is {url!r}, which cannot join {num_machines} machines; give all of them "
            "the same tcp://HOST:PORT of machine 0."
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def _torchrun_place() -> Place:
    local_size = int(os.environ["LOCAL_WORLD_SIZE"])
    return Place(
        local_rank=int(os.environ["LOCAL_RANK"]),
        local_size=local_size,
        machine=int(os.environ["GROUP_RANK"]),
        machines=int(os.environ["WORLD_SIZE"]) // local_size,
        url="env://",
    )


def repair_launch() -> None:
    """``launch`` asserts CUDA and hard-codes NCCL, so that there is no distributed run on CPU."""
    import fastreid.engine

    rebind(fastreid.engine.launch, launch)
