"""Running commands a few at a time."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from metabin_plugin.errors import ConfigError
from papertables.runs import Ended, Job, JobQueue, lock
from tests.processes import apart

# Waits until as many have begun as should run together, and notes how many are running.
COUNTING = """
import pathlib, sys, time
folder, name, together = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
running = folder / f"{name}.running"
running.touch()
(folder / f"{name}.begun").touch()
deadline = time.monotonic() + 300
while len(list(folder.glob("*.begun"))) < together and time.monotonic() < deadline:
    time.sleep(0.02)
time.sleep(0.1)
(folder / f"{name}.count").write_text(str(len(list(folder.glob("*.running")))))
running.unlink()
"""
# Leaves as training does when it is stopped.
STOPPABLE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
print("ready", flush=True)
time.sleep(600)
"""


def job(folder: Path, name: str, code: str, *arguments: object) -> Job:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return Job(name, command, folder / name / "run.log")


def run(jobs: list[Job], slots: int = 1, threads: int = 1) -> tuple[JobQueue, dict[str, Ended]]:
    queue = JobQueue(slots, threads, jobs[0].log.parents[1])
    ended: dict[str, Ended] = {}
    queue.run(jobs, lambda job: True, lambda job, how: ended.update({job.name: how}))
    return queue, ended


def test_statuses_logs_and_the_others_go_on(tmp_path: Path) -> None:
    queue, ended = run(
        [
            job(tmp_path, "bad", "import sys; print('out'); sys.exit('reason')"),
            job(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
            job(tmp_path, "good", "print('fine')"),
        ]
    )
    assert {name: how.status for name, how in ended.items()} == {"bad": 1, "killed": -9, "good": 0}
    assert (tmp_path / "bad" / "run.log").read_text().split() == ["out", "reason"]
    assert (tmp_path / "good" / "run.log").read_text() == "fine\n"
    assert queue.stopped_by == 0


def test_a_log_is_continued(tmp_path: Path) -> None:
    for word in ("first", "second"):
        run([job(tmp_path, "one", f"print('{word}')")])
    assert (tmp_path / "one" / "run.log").read_text() == "first\nsecond\n"


@pytest.mark.parametrize("slots", [1, 2])
def test_as_many_run_at_a_time_as_there_are_slots(tmp_path: Path, slots: int) -> None:
    names = ["one", "two", "three", "four"]
    jobs = [job(tmp_path, name, COUNTING, tmp_path, name, slots) for name in names]
    started: list[str] = []

    def start(job: Job) -> bool:
        started.append(job.name)
        return True

    JobQueue(slots, 1, tmp_path).run(jobs, start, lambda job, how: None)
    assert started == names
    assert max(int((tmp_path / f"{name}.count").read_text()) for name in names) == slots


def test_a_job_that_is_not_wanted_any_more_is_left_out(tmp_path: Path) -> None:
    jobs = [job(tmp_path, name, "print('ran')") for name in ("one", "two")]
    ended: list[str] = []
    queue = JobQueue(1, 1, tmp_path)
    queue.run(jobs, lambda job: job.name == "two", lambda job, how: ended.append(job.name))
    assert ended == ["two"]
    assert not jobs[0].log.exists()
    assert queue.elsewhere == []


def run_in_thread(queue: JobQueue, jobs: list[Job], ended: list[str]) -> threading.Thread:
    """Signals are heard in the main thread alone, so the caller ignores them."""
    thread = threading.Thread(
        target=queue.run, args=(jobs, lambda job: True, lambda job, how: ended.append(job.name))
    )
    thread.start()
    return thread


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_free(path: Path) -> bool:
    if (held := lock(path)) is not None:
        held.release()
    return held is not None


# Ends when it is told to.
WAITING = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / "begun").touch()
while not (folder / "go").exists():
    time.sleep(0.02)
"""


def test_a_job_that_another_queue_runs_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("papertables.runs._STOP_SIGNALS", ())
    first: list[str] = []
    both = [job(tmp_path, "one", WAITING, tmp_path), job(tmp_path, "two", "pass")]
    thread = run_in_thread(JobQueue(1, 1, tmp_path), both, first)
    wait_until((tmp_path / "begun").exists)
    # With a second slot, which the first does not have.
    second, ended = run(both, slots=2)
    assert [job.name for job in second.elsewhere] == ["one"]
    assert list(ended) == ["two"]
    (tmp_path / "go").touch()
    thread.join()
    # Whether a job is wanted is for the caller to say: here it always is.
    assert first == ["one", "two"]


def test_queues_on_one_folder_share_the_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("papertables.runs._STOP_SIGNALS", ())
    first, second = [], []  # type: list[str], list[str]
    thread = run_in_thread(
        JobQueue(1, 1, tmp_path), [job(tmp_path, "one", WAITING, tmp_path)], first
    )
    wait_until((tmp_path / "begun").exists)
    other = run_in_thread(JobQueue(1, 1, tmp_path), [job(tmp_path, "two", "pass")], second)
    time.sleep(1)
    assert not (tmp_path / "two" / "run.log").exists()
    (tmp_path / "go").touch()
    thread.join()
    other.join()
    assert (first, second) == (["one"], ["two"])


def test_a_process_whose_queue_was_killed_keeps_its_lock(tmp_path: Path) -> None:
    code = f"""
import pathlib, sys
from papertables.runs import Job, JobQueue
folder = pathlib.Path({str(tmp_path)!r})
one = Job("one", [sys.executable, "-c", {WAITING!r}, str(folder)], folder / "one" / "run.log")
JobQueue(1, 1, folder).run([one], lambda job: True, lambda job, how: None)
"""
    paths = os.pathsep.join(sys.path)
    queue = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths})
    wait_until((tmp_path / "begun").exists)
    queue.kill()
    queue.wait()
    path = tmp_path / "one" / "run.lock"
    assert not is_free(path)
    (tmp_path / "go").touch()
    wait_until(lambda: is_free(path))


def two_that_hold(folder: Path) -> dict[str, Ended]:
    """Jobs that hold nothing, and 256 MiB more than this process."""
    more = 2**10 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 2**28
    hungry = f"import time; held = b'1' * {more}; time.sleep(0.3)"
    return run([job(folder, "modest", "pass"), job(folder, "hungry", hungry)])[1]


def test_memory_and_time_are_those_of_the_process(tmp_path: Path) -> None:
    # A process begins as a copy of the one that starts it, whose memory counts: of a small one.
    ended, _ = apart(two_that_hold, tmp_path)
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    _, computed = run([job(tmp_path, "busy", busy)])
    taken = ended["hungry"].resident_mib - ended["modest"].resident_mib
    assert 240 < taken < 300
    assert ended["hungry"].seconds >= 0.3
    assert 0.5 <= computed["busy"].cpu_seconds <= computed["busy"].seconds + 0.1


@pytest.mark.parametrize(("own", "threads"), [(None, "3"), ("7", "7")])
def test_threads_are_divided_unless_the_user_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, threads: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    run([job(tmp_path, "one", "import os; print(os.environ['OMP_NUM_THREADS'])")], threads=3)
    assert (tmp_path / "one" / "run.log").read_text() == f"{threads}\n"


def are_ready(logs: list[Path]) -> bool:
    return all(log.exists() and "ready" in log.read_text() for log in logs)


def send_when_ready(logs: list[Path], number: int, sent: Path | None = None) -> None:
    wait_until(lambda: are_ready(logs))
    os.kill(os.getpid(), number)
    if sent is not None:
        sent.touch()


@contextmanager
def disposition(number: int, handler: signal.Handlers) -> Iterator[None]:
    former = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, former)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, -1)]
)
def test_a_signal_is_passed_on_and_nothing_more_is_started(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    jobs = [job(tmp_path, name, STOPPABLE) for name in ("one", "two", "three")]
    sender = threading.Thread(target=send_when_ready, args=([j.log for j in jobs[:2]], number))
    # Under nohup it is ignored, here and in the jobs.
    with disposition(number, signal.SIG_DFL):
        sender.start()
        queue, ended = run(jobs, slots=2)
        sender.join()
        assert signal.getsignal(number) == signal.SIG_DFL
    assert {name: how.status for name, how in ended.items()} == {"one": status, "two": status}
    assert queue.stopped_by == number


def test_a_signal_reaches_a_job_that_is_being_started(tmp_path: Path) -> None:
    """Or the job would be trained to its end, and Ctrl-C seem to have no effect."""
    one = job(tmp_path, "one", "import time; time.sleep(20)")
    ended: dict[str, Ended] = {}

    def start(_job: Job) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return True

    queue = JobQueue(1, 1, tmp_path)
    queue.run([one], start, lambda job, how: ended.update({job.name: how}))
    assert ended["one"].status == -signal.SIGTERM
    assert queue.stopped_by == signal.SIGTERM


def test_what_runs_is_stopped_where_the_queue_cannot_go_on(tmp_path: Path) -> None:
    """It would go on unseen, deaf to Ctrl-C, and keep its slot."""
    jobs = [job(tmp_path, "one", STOPPABLE), job(tmp_path, "two", "pass")]
    jobs += [job(tmp_path, "three", STOPPABLE)]
    ended: dict[str, Ended] = {}

    def end(job: Job, how: Ended) -> None:
        if job.name == "two":
            wait_until(lambda: are_ready([jobs[0].log]))
            raise ConfigError("there is no space left")
        ended[job.name] = how

    queue = JobQueue(2, 1, tmp_path)
    with pytest.raises(ConfigError, match="no space left"):
        queue.run(jobs, lambda job: True, end)
    assert {name: how.status for name, how in ended.items()} == {"one": 143}
    locks = [*tmp_path.glob("slot*.lock"), *tmp_path.glob("*/run.lock")]
    assert len(locks) == 4 and all(map(is_free, locks))


def test_a_job_that_cannot_be_started_keeps_no_slot(tmp_path: Path) -> None:
    one = job(tmp_path, "one", "pass")

    def start(_job: Job) -> bool:
        raise ConfigError("it has other settings now")

    with pytest.raises(ConfigError, match="other settings"):
        JobQueue(1, 1, tmp_path).run([one], start, lambda job, how: None)
    assert is_free(tmp_path / "slot0.lock") and is_free(tmp_path / "one" / "run.lock")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_ignored_signal_stays_ignored(tmp_path: Path, number: signal.Signals) -> None:
    # It ends after the signal was sent, however slow the machine is.
    one = job(tmp_path, "one", f"print('ready', flush=True)\n{WAITING}", tmp_path)
    go = tmp_path / "go"
    sender = threading.Thread(target=send_when_ready, args=([one.log], number, go))
    with disposition(number, signal.SIG_IGN):
        sender.start()
        queue, ended = run([one])
        sender.join()
    assert ended["one"].status == 0
    assert queue.stopped_by == 0
