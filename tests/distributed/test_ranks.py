"""Processes that end together, whatever ends the first of them."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from fastreid.utils import comm
from torch.multiprocessing import ProcessRaisedException

from metabin_plugin.compat import launching
from metabin_plugin.compat.launching import Place, process_group
from metabin_plugin.errors import DatasetError, LaunchError
from tests.processes import context, start

HANDLERS = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forked ranks and short grace; afterwards no handler and no process may be left."""
    server = context()
    monkeypatch.setattr(launching.multiprocessing, "get_context", lambda _: server)
    monkeypatch.setattr(launching, "GRACE_SECONDS", 1.0)
    yield
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == HANDLERS


def leave_pid(rank: int, folder: Path) -> None:
    (folder / f"pid{rank}.part").write_text(str(os.getpid()))
    (folder / f"pid{rank}.part").rename(folder / f"pid{rank}")


def pids(folder: Path, count: int) -> list[int]:
    """Process ids of the ranks, once they have left them."""
    paths = [folder / f"pid{rank}" for rank in range(count)]
    wait_until(lambda: all(path.exists() for path in paths))
    return [int(path.read_text()) for path in paths]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def stubborn(rank: int, folder: Path, fault: str) -> None:
    """Rank 1 fails; rank 0 waits for it in a collective, or asleep, and ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave_pid(rank, folder)
    if fault == "before joining":
        if rank == 1:
            raise RuntimeError("no luck")
        time.sleep(600)
    with process_group(Place(rank, 2, 0, 1, f"file://{folder / 'meeting'}")):
        dist.barrier()
        if rank == 1:
            fail(fault)
        if fault == "while others sleep":
            time.sleep(600)
        dist.barrier()


def fail(fault: str) -> None:
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "exit":
        os._exit(7)
    if fault == "user":
        raise DatasetError("the folder is missing; create it")
    raise RuntimeError("no luck")


@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        ("killed", LaunchError, "rank 1 was killed by SIGKILL without reporting"),
        ("exit", LaunchError, "rank 1 ended with status 7 without reporting"),
        ("user", DatasetError, "^the folder is missing; create it$"),
        ("error", ProcessRaisedException, "rank 1 failed(.|\n)*RuntimeError: no luck"),
        ("while others sleep", ProcessRaisedException, "RuntimeError: no luck"),
        ("before joining", ProcessRaisedException, "RuntimeError: no luck"),
    ],
)
def test_a_failing_rank_ends_the_others_with_its_error(
    tmp_path: Path, fault: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        launching.run_ranks(stubborn, (tmp_path, fault), count=2, first=0)
    assert not any(is_running(pid) for pid in pids(tmp_path, 2))


def test_ranks_are_counted_over_all_machines(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="rank 5 was killed"):
        launching.run_ranks(stubborn, (tmp_path, "killed"), count=2, first=4)


def two_errors(rank: int, folder: Path) -> None:
    leave_pid(rank, folder)
    if rank == 0:
        other = pids(folder, 2)[1]
        wait_until(lambda: not is_running(other))
    raise DatasetError(f"rank {rank} has no data; find some")


def test_the_error_is_that_of_the_rank_which_failed_first(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"^rank 1 has no data"):
        launching.run_ranks(two_errors, (tmp_path,), count=2, first=0)


def test_success_returns(tmp_path: Path) -> None:
    launching.run_ranks(leave_pid, (tmp_path,), count=3, first=0)
    assert len(set(pids(tmp_path, 3))) == 3


def polite(rank: int, folder: Path, status: int) -> None:
    """Ends with a status after SIGTERM, and counts the signals it gets."""
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stops.append(1))
    leave_pid(rank, folder)
    while not stops:
        time.sleep(0.02)
    time.sleep(0.5)
    (folder / f"signals{rank}").write_text(str(len(stops)))
    raise SystemExit(status)


def parent(folder: Path, work: Callable[..., None], *args: Any) -> None:
    """What a test sends signals to; leaves the status that ``run_ranks`` asked for."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    forks = launching.multiprocessing.get_context("fork")
    with mock.patch.object(launching.multiprocessing, "get_context", return_value=forks):
        try:
            launching.run_ranks(work, (folder, *args), count=2, first=0)
        except SystemExit as end:
            (folder / "status").write_text(str(end.code))
            raise


@pytest.fixture
def started_parent() -> Iterator[Callable[..., Any]]:
    processes = []

    def start_parent(*args: Any) -> Any:
        processes.append(start(parent, *args))
        return processes[-1]

    yield start_parent
    for process in processes:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_each_rank_once_and_its_status_is_kept(
    tmp_path: Path, started_parent: Callable[..., Any], number: int
) -> None:
    process = started_parent(tmp_path, polite, 128 + signal.SIGTERM)
    children = pids(tmp_path, 2)
    # A terminal's Ctrl-C reaches the whole process group.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    process.join(300)
    assert process.exitcode == 128 + number
    assert (tmp_path / "status").read_text() == str(128 + number)
    assert [(tmp_path / f"signals{rank}").read_text() for rank in range(2)] == ["1", "1"]
    assert not any(is_running(pid) for pid in children)


def stopped_while_starting(folder: Path, number: int) -> None:
    """A parent that hears a signal when it has started one of two ranks."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)

    class Rank(launching.multiprocessing.get_context("fork").Process):  # type: ignore[misc]
        def start(self) -> None:
            rank = self._args[0]
            super().start()
            pids(folder, rank + 1)
            if rank == 0:
                # A terminal's Ctrl-C reaches the whole process group.
                (os.killpg if number == signal.SIGINT else os.kill)(os.getpid(), number)

    forks = mock.Mock(Process=Rank)
    with mock.patch.object(launching.multiprocessing, "get_context", return_value=forks):
        launching.run_ranks(polite, (folder, 128 + signal.SIGTERM), count=2, first=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_the_starts_of_two_ranks_reaches_both(tmp_path: Path, number: int) -> None:
    process = start(stopped_while_starting, tmp_path, number)
    process.join(30)
    process.kill()
    process.join()
    assert process.exitcode == 128 + number
    assert [(tmp_path / f"signals{rank}").read_text() for rank in range(2)] == ["1", "1"]


def test_a_run_that_just_succeeds_when_it_is_stopped_has_succeeded(
    tmp_path: Path, started_parent: Callable[..., Any]
) -> None:
    process = started_parent(tmp_path, polite, 0)
    pids(tmp_path, 2)
    os.kill(process.pid, signal.SIGTERM)
    process.join(300)
    assert process.exitcode == 0


def test_a_rank_that_was_stopped_by_itself_ends_the_run_like_a_signal(
    tmp_path: Path, started_parent: Callable[..., Any]
) -> None:
    process = started_parent(tmp_path, polite, 128 + signal.SIGTERM)
    for pid in pids(tmp_path, 2):
        os.kill(pid, signal.SIGTERM)
    process.join(300)
    assert process.exitcode == 128 + signal.SIGTERM


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, which it neither ignores nor dies of."""
    (mask,) = re.findall(
        r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
    )
    return bool(int(mask, 16) >> number - 1 & 1)


def deaf(rank: int, folder: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: (folder / f"heard{rank}").touch())
    leave_pid(rank, folder)
    time.sleep(600)


def test_a_second_signal_ends_everything_at_once(
    tmp_path: Path, started_parent: Callable[..., Any]
) -> None:
    process = started_parent(tmp_path, deaf)
    children = pids(tmp_path, 2)
    os.kill(process.pid, signal.SIGTERM)
    wait_until(lambda: all((tmp_path / f"heard{rank}").exists() for rank in range(2)))
    assert process.is_alive()
    wait_until(lambda: catches(process.pid, signal.SIGINT))
    os.kill(process.pid, signal.SIGINT)
    process.join(300)
    assert process.exitcode == 128 + signal.SIGINT
    assert not any(is_running(pid) for pid in children)


def first_stops(rank: int, folder: Path) -> None:
    """Rank 0 ends at once after SIGTERM; rank 1 waits for it, as in a collective on a GPU."""
    if rank == 0:
        polite(rank, folder, 128 + signal.SIGTERM)
    deaf(rank, folder)


def first_writes(rank: int, folder: Path) -> None:
    """Rank 1 ends at once after SIGTERM; rank 0 is long about its checkpoint."""
    if rank == 1:
        polite(rank, folder, 128 + signal.SIGTERM)
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stops.append(1))
    leave_pid(rank, folder)
    wait_until(lambda: bool(stops))
    # Longer than the grace, which rank 1 takes half a second of.
    time.sleep(4)
    (folder / "checkpoint").write_text("whole")
    raise SystemExit(128 + signal.SIGTERM)


def test_ranks_that_hang_when_the_first_has_stopped_are_ended(
    tmp_path: Path, started_parent: Callable[..., Any]
) -> None:
    process = started_parent(tmp_path, first_stops)
    children = pids(tmp_path, 2)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    assert not any(is_running(pid) for pid in children)


def test_a_first_rank_that_still_writes_is_waited_for(
    tmp_path: Path, started_parent: Callable[..., Any]
) -> None:
    process = started_parent(tmp_path, first_writes)
    pids(tmp_path, 2)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    assert (tmp_path / "checkpoint").read_text() == "whole"


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_others_wait_for_a_long_evaluation_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """PyTorch's own limits are 10 minutes with NCCL and 30 with gloo."""
    with process_group(Place(0, 1, 0, 1, f"file://{tmp_path / 'meeting'}")):
        with monkeypatch.context() as patched:
            patched.setattr(dist, "get_backend", lambda _group=None: backend)
            gathering = comm._get_global_gloo_group()
        assert (gathering is dist.group.WORLD) == (backend == "gloo")
        for group in (dist.group.WORLD, comm._LOCAL_PROCESS_GROUP, gathering):
            found = group._get_backend(torch.device("cpu"))
            assert found.options._timeout >= timedelta(hours=1)
        assert comm._get_global_gloo_group() is gathering
    # Another run's group is another.
    with process_group(Place(0, 1, 0, 1, f"file://{tmp_path / 'another meeting'}")):
        assert comm._get_global_gloo_group() is dist.group.WORLD


def test_ranks_do_not_outlive_their_parent(
    tmp_path: Path, started_parent: Callable[..., Any]
) -> None:
    process = started_parent(tmp_path, deaf)
    children = pids(tmp_path, 2)
    process.kill()
    wait_until(lambda: not any(is_running(pid) for pid in children))
