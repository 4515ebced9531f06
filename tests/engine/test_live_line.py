"""The line of progress: on a terminal one that is written over, in files and pipes none."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import pty
import re
import shutil
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest
from fastreid.utils.events import EventStorage

from metabin_plugin.engine.log import LiveLine, fitting, line_parts, live_lines
from tests.engine.noisy_run import noisy_options, noisy_trainer
from tests.engine.tiny_data import tiny_options
from tests.processes import run_script

WIDTH = 70


class Terminal:
    """A pseudo-terminal, and what is written to it."""

    def __init__(self) -> None:
        self._reading, self.writing = pty.openpty()
        fcntl.ioctl(self.writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
        self._written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def text(self) -> str:
        """All that was written; ends the terminal."""
        os.close(self.writing)
        self._reader.join()
        os.close(self._reading)
        return self._written.decode()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._reading, 4096)
            except OSError:
                # How Linux reports that the other end is closed.
                return
            self._written += part


def screen(text: str) -> list[str]:
    """Lines that a terminal without end shows in the end."""
    lines, column = [""], 0
    for token in re.findall(r"\x1b\[[\d;]*[A-Za-z]|.", text, re.DOTALL):
        if token == "\r":
            column = 0
        elif token == "\n":
            lines.append("")
            column = 0
        elif token == "\x1b[K":
            lines[-1] = lines[-1][:column]
        elif not token.startswith("\x1b"):
            lines[-1] = lines[-1][:column] + token + lines[-1][column + 1 :]
            column += 1
    return lines


@contextmanager
def logging_to(stream: TextIO) -> Iterator[logging.StreamHandler[TextIO]]:
    """fastreid's logger writing to a stream alone."""
    logger, handler = logging.getLogger("fastreid"), logging.StreamHandler(stream)
    former, level = logger.handlers[:], logger.level
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.handlers[:] = former
        logger.setLevel(level)


def written_by_a_training(folder: Path, with_line: bool) -> str:
    terminal = Terminal()
    with (
        open(terminal.writing, "w", closefd=False) as stream,
        logging_to(stream),
    ):
        trainer = noisy_trainer(
            noisy_options(folder, SOLVER__MAX_EPOCH=2, METABIN__KEEP_MEMORY=False)
        )
        line = trainer.hook(LiveLine)
        line._seconds = 0.0
        if not with_line:
            trainer._hooks.remove(line)
        trainer.train()
    shutil.rmtree(folder / "out")
    return terminal.text()


def comparable(lines: list[str]) -> list[str]:
    """Without what differs from run to run."""
    return [re.sub(r"[\d.:]+(e-\d+)?", "#", line) for line in lines]


def test_the_log_on_a_terminal_is_as_without_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    plain, live = (written_by_a_training(tmp_path, with_line) for with_line in (False, True))
    assert "\x1b" not in plain
    assert comparable(screen(live)) == comparable(screen(plain))
    shown = re.findall(r"\r(epoch [^\x1b\r\n]+)\x1b\[K", live)
    assert len(shown) == 10
    assert all(len(line) < WIDTH for line in shown)
    assert re.fullmatch(
        r"epoch 1/2  iter 1/10  loss [\d.]+  meta-train [\d.]+  meta-test [\d.]+", shown[0]
    )
    assert re.match(r"epoch 2/2  iter 9/10  0:00:\d\d left  loss [\d.]+  meta-train ", shown[8])
    # The evaluation at the end writes its table where the line was.
    assert screen(live)[-1] == ""


@pytest.mark.parametrize("kind", ["file", "closed", "none", "dumb terminal"])
def test_nothing_but_a_terminal_gets_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TERM", "dumb" if kind == "dumb terminal" else "xterm")
    terminal = Terminal()
    place = terminal.writing if kind == "dumb terminal" else tmp_path / "log.txt"
    with open(place, "w", closefd=isinstance(place, Path)) as stream, logging_to(stream):
        if kind == "closed":
            stream.close()
        if kind == "none":
            logging.getLogger("fastreid").handlers.clear()
        assert live_lines() == []
    terminal.text()


def test_the_terminal_among_the_logs_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with (
        open(terminal.writing, "w", closefd=False) as stream,
        logging_to(stream) as handler,
    ):
        logging.getLogger("fastreid").handlers.insert(0, logging.StreamHandler(io.StringIO()))
        (line,) = live_lines()
        assert line._handler is handler
        monkeypatch.setattr("fastreid.utils.comm.is_main_process", lambda: False)
        assert live_lines() == []
    terminal.text()


def test_a_terminal_that_is_closed_ends_no_training() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no such terminal")

    line = LiveLine(logging.StreamHandler(Gone()), seconds=0)
    line._show(["text"])
    line.after_train()


def test_the_line_says_how_far_how_long_and_how_well() -> None:
    with EventStorage() as storage:
        assert line_parts(storage, 1, 5000) == ["iter 1/5,000"]
        for value in (1.0, 2.0, 300.0):
            storage.put_scalars(total_loss=value, time=value, loss_cls=9.0)
        storage.put_scalars(mtrain_loss_scatter=1.25, mtrain_loss_triplet=0.5)
        storage.put_scalar("mtest_loss_triplet", 0.25)
        first = ["iter 1,400/5,000", "2:00:00 left", "loss 2"]
        last = ["meta-train 1.75", "meta-test 0.25"]
        assert line_parts(storage, 1400, 5000) == first + last
        storage.put_scalar("Rank-1", 45.25)
        storage.put_scalar("mAP", 30)
        accuracies = ["Rank-1 45.2", "mAP 30.0"]
        assert line_parts(storage, 1400, 5000) == first + accuracies + last
    with EventStorage() as storage:
        for target, value in (("north.csv", 40), ("south.csv", 50)):
            storage.put_scalar(f"{target}/Rank-1", value)
            storage.put_scalar(f"{target}/Rank-10", 99)
        assert line_parts(storage, 5, 10) == ["iter 5/10", "Rank-1 45.0 (mean of 2)"]


def test_losses_that_are_computed_no_more_are_not_shown() -> None:
    """With METABIN.FREEZE_AFTER the meta step ends before the training does."""
    with EventStorage() as storage:
        storage.put_scalars(mtrain_loss_scatter=1.25, mtest_loss_triplet=0.25)
        for storage.iter in range(100):
            storage.put_scalar("total_loss", 2.0)
        assert line_parts(storage, 100, 5000) == ["iter 100/5,000", "loss 2"]


def test_numbers_are_not_cut_short() -> None:
    parts = ["epoch 1/2", "loss 2.345"]
    assert fitting(parts, 21) == "epoch 1/2  loss 2.345"
    assert fitting(parts, 20) == "epoch 1/2"
    assert fitting(parts, 5) == "epoch"


def test_it_is_not_shown_more_often_than_it_can_be_read() -> None:
    class Trainer:
        storage, iter, max_iter, epoch, max_epoch = EventStorage(), 0, 9, 0, 1

    stream = io.StringIO()
    line = LiveLine(logging.StreamHandler(stream), seconds=1000)
    line.trainer = Trainer()
    for Trainer.iter in range(9):
        line.after_step()
    assert stream.getvalue() == "\repoch 1/1  iter 1/9\x1b[K"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_the_command_line(tmp_path: Path, kind: str) -> None:
    terminal, piped = Terminal(), bytearray()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: piped.extend(pipe.read_bytes()), daemon=True)
    reader.start()
    done = run_script(
        *("tools/train_net.py", "--config-file", "configs/MetaBIN-demo.yml"),
        *(*tiny_options(tmp_path), "METABIN.ITERS_PER_EPOCH", "3"),
        settings={"TERM": "xterm"},
        output=os.ttyname(terminal.writing) if kind == "terminal" else str(pipe),
    )
    assert done.returncode == 0, done.stderr
    if kind == "pipe":
        reader.join()
    written, read = terminal.text(), piped.decode()
    lines = screen(written if kind == "terminal" else read)
    log = (tmp_path / "out" / "log.txt").read_text()
    for text in (log, read):
        assert "\r" not in text
        assert "\x1b[K" not in text
        assert " left  " not in text
    assert bool(re.findall(r"\repoch [^\x1b\r\n]+ left [^\x1b\r\n]+\x1b\[K", written)) == (
        kind == "terminal"
    )
    # Whatever is in the file is on the screen, line by line; fastreid colours its tables in both.
    log = re.sub(r"\x1b\[[\d;]*m", "", log)
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    shown = [re.sub(r"^\[.*?\]: ", "", line).strip() for line in lines]
    kept = [re.sub(r"^\[.*?\] [\w.]+ [A-Z]+: ", "", line).strip() for line in log.splitlines()]
    missing = [line for line in kept if not any(line in other for other in shown)]
    assert missing == []
