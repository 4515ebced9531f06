from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from metabin_plugin.cli.outcome import AGAIN, run_cli, sentence
from metabin_plugin.errors import ConfigError, DatasetError, MetaBINError, user_error


def test_an_error_of_the_user_is_one_sentence_and_status_1(capsys):
    with pytest.raises(SystemExit) as end, run_cli():
        raise ConfigError("METABIN.X is 3; give 2.")
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: METABIN.X is 3; give 2.\n"


def test_other_errors_and_success_pass():
    with pytest.raises(ZeroDivisionError), run_cli():
        _ = 1 / 0
    with run_cli():
        pass


def test_a_name_in_a_sentence_does_nothing_to_a_terminal(capsys):
    with pytest.raises(SystemExit), run_cli():
        raise DatasetError("image \x1b[2J\x9b31m\udcff\r.png is empty; restore it.")
    said = capsys.readouterr().err
    assert said == "error: image \\x1b[2J\\x9b31m\\udcff\\r.png is empty; restore it.\n"


@pytest.mark.parametrize("words", [(), ("nothing is lost",)])
def test_ctrl_c_ends_with_how_to_go_on_and_its_status(capsys, words):
    with pytest.raises(SystemExit) as end, run_cli(*words):
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == f"\nstopped; {(*words, AGAIN)[0]}\n"


class Broken(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        raise DatasetError("images/3.png: cannot be read; restore it.")


def test_an_error_from_a_loaders_worker_is_its_sentence(capsys):
    with pytest.raises(SystemExit), run_cli():
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert capsys.readouterr().err == "error: images/3.png: cannot be read; restore it.\n"


def test_a_sentence_of_its_own_is_left_alone():
    assert sentence(MetaBINError("one: two")) == "one: two"


@pytest.mark.parametrize("text", ["", "ValueError: x", "metabin_plugin.errors.NoSuch: x"])
def test_other_tracebacks_hold_no_user_error(text):
    assert user_error(f"Traceback (most recent call last):\n{text}") is None


class GalleryError(MetaBINError):
    """An error of somebody else's project."""


def test_errors_of_other_modules_are_known_too():
    text = f"Traceback ...\n{__name__}.GalleryError: a: b\n"
    error = user_error(text)
    assert type(error) is GalleryError
    assert str(error) == "a: b"


def test_a_traceback_gives_back_the_error_it_ends_with():
    text = "-- Process 0 terminated:\nTraceback ...\nmetabin_plugin.errors.DatasetError: a: b\n"
    error = user_error(text)
    assert type(error) is DatasetError
    assert str(error) == "a: b"


@pytest.mark.parametrize(("error", "has_traceback"), [(ConfigError("k"), False), (OSError(), True)])
def test_the_trainers_log_has_no_traceback_of_a_users_error(error, has_traceback):
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logger = logging.getLogger("metabin_plugin.engine.trainer")
    logger.addHandler(handler)
    try:
        with pytest.raises((SystemExit, OSError)), run_cli():
            try:
                raise error
            except Exception:
                logger.exception("Exception during training:")
                raise
    finally:
        logger.removeHandler(handler)
    assert ("Traceback" in log.getvalue()) == has_traceback
    assert f"Exception during training: {error}" in log.getvalue() or has_traceback


PRINTING = """
import logging, sys
from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.errors import ConfigError

with run_cli():
    logging.basicConfig(stream=sys.stdout)
    # More than a pipe and Python's buffers hold.
    for number in range(3000):
        logging.error("%d %s", number, 30 * "x")
        print(number, 30 * "x", file=sys.stderr)
    open(sys.argv[1], "w", encoding="utf-8").write("done")
    raise ConfigError("METABIN.X is 3; give 2.")
"""


@pytest.mark.parametrize(
    ("unbuffered", "gone"),
    [([], ("stdout",)), (["-u"], ("stdout",)), (["-u"], ("stdout", "stderr"))],
)
def test_a_command_whose_reader_has_gone_does_its_work_in_silence(
    tmp_path: Path, unbuffered: list[str], gone: tuple[str, ...]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    errors = writer if "stderr" in gone else subprocess.PIPE
    command = [sys.executable, *unbuffered, "-c", PRINTING, str(tmp_path / "work")]
    ended = subprocess.run(command, stdout=writer, stderr=errors, check=False, timeout=300)
    os.close(writer)
    assert (tmp_path / "work").read_text() == "done"
    assert ended.returncode == 1
    if "stderr" not in gone:
        lines = ended.stderr.decode().splitlines()
        assert lines[-1] == "error: METABIN.X is 3; give 2."
        # Nothing about the other stream.
        assert len(lines) == 3001


def test_what_the_locale_cannot_express_is_escaped() -> None:
    script = 'from metabin_plugin.cli.outcome import run_cli\nwith run_cli(): print("日\\udcc3")'
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, rb"\u65e5\udcc3")
