"""MATLAB files that were damaged or made to do harm: a sentence or data, no crash, no hang."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

import crop_cuhk_sysu
from metabin_plugin.data.datasets import DG_CUHKSYSU, DG_CUHK03_Split, mat_files, mat_reader
from metabin_plugin.data.datasets.small_targets import DG_GRID, read_partitions
from metabin_plugin.errors import DatasetError
from tests.campaigns import tries
from tests.data.datasets.test_own_splits import CUHK03_NAMES, cuhk03
from tests.data.datasets.test_targets import partitions, write_partitions
from tests.processes import within
from tests.tools.test_crop_cuhk_sysu import PEOPLE, write_person_mat

Reader = tuple[Path, Callable[[], Any]]


def person_mat(folder: Path) -> Reader:
    path = folder / "annotation" / "Person.mat"
    write_person_mat(path, PEOPLE)
    return path, lambda: crop_cuhk_sysu.read_boxes(path)


def grid_partitions(folder: Path) -> Reader:
    path = write_partitions(folder, partitions(people=20, training=10))
    return path, lambda: read_partitions(DG_GRID.release, path, range(1, 21))


def cuhk03_protocol(folder: Path) -> Reader:
    cuhk03(folder)
    path = folder / "cuhk03" / "cuhk03_new_protocol_config_detected.mat"
    return path, lambda: DG_CUHK03_Split(root=str(folder))


FILES = (person_mat, grid_partitions, cuhk03_protocol)


def changed(content: bytes, seed: int) -> bytes:
    draw = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        # Of the text in the header nothing is read.
        place = draw.randrange(124, len(damaged))
        damaged[place] = draw.choice((0, 1, 127, 255, draw.randrange(256)))
    return bytes(damaged[: draw.randrange(len(damaged))] if seed % 8 == 7 else damaged)


def reads_or_refuses(reader: Reader, variants: Iterable[bytes]) -> None:
    path, read = reader
    refused = 0
    for content in variants:
        path.write_bytes(content)
        with within(20, mat_files._PATIENCE):
            try:
                read()
            except DatasetError as error:
                refused += 1
                assert path.name in str(error)
    assert refused


@pytest.mark.parametrize("make", FILES)
def test_damaged_files_are_refused_or_read(tmp_path: Path, make: Callable[[Path], Reader]) -> None:
    reader = make(tmp_path)
    content = reader[0].read_bytes()
    reads_or_refuses(reader, (changed(content, seed) for seed in range(6)))


@pytest.mark.slow
@pytest.mark.parametrize("make", FILES)
def test_many_damaged_files_are_refused_or_read(
    tmp_path: Path, make: Callable[[Path], Reader]
) -> None:
    reader = make(tmp_path)
    content = reader[0].read_bytes()
    reads_or_refuses(reader, (changed(content, seed) for seed in range(6, 6 + tries(12, 70))))


@pytest.mark.parametrize(("place", "value"), [(860, 1), (672, 255), (1481, 255)])
def test_bytes_that_crash_the_parser(tmp_path: Path, place: int, value: int) -> None:
    path, read = person_mat(tmp_path)
    content = bytearray(path.read_bytes())
    content[place] = value
    reads_or_refuses((path, read), [bytes(content)])


def test_a_small_file_that_unfolds_to_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "Person.mat"
    savemat(path, {"Person": np.zeros((2**12, 2**12))}, do_compression=True)
    assert path.stat().st_size < 2**20
    with within(20, mat_files._PATIENCE), pytest.raises(DatasetError, match="damaged"):
        mat_files.read_mat(DG_CUHKSYSU.release, path, ["Person"])


def test_values_are_plain(tmp_path: Path) -> None:
    path = tmp_path / "some.mat"
    cells = np.empty((1, 3), dtype=object)
    cells[0] = ["a", np.array([[1, 2]]), {"b": 2.5}]
    savemat(path, {"one": 3, "cells": cells, "names": {"x": "y"}, "table": np.eye(2)})
    found = mat_files.read_mat(DG_CUHKSYSU.release, path, ["one", "cells", "names", "table"])
    assert found == {
        "one": 3,
        "cells": ["a", [1, 2], {"b": 2.5}],
        "names": {"x": "y"},
        "table": [[1, 0], [0, 1]],
    }


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"query_idx": [0]}, "0 in query_idx"),
        ({"query_idx": [-1]}, "-1 in query_idx"),
        ({"gallery_idx": [len(CUHK03_NAMES) + 1]}, "10 in gallery_idx"),
        ({"gallery_idx": [1.5]}, "1.5 in gallery_idx"),
        ({"train_idx": "abc"}, "abc in train_idx"),
        ({"filelist": 5, "train_idx": [1]}, "lists the image 5"),
        ({"filelist": 5}, "entries 1 to 1"),
        ({"filelist": "\x1b[31m", "train_idx": [1]}, r"'\x1b[31m'"),
    ],
)
def test_a_protocol_that_lists_what_is_not_there(
    tmp_path: Path, lists: dict[str, Any], words: str
) -> None:
    path, read = cuhk03_protocol(tmp_path)
    names = np.empty((len(CUHK03_NAMES), 1), dtype=object)
    names[:, 0] = CUHK03_NAMES
    good = {"filelist": names, "train_idx": [2], "query_idx": [3], "gallery_idx": [4]}
    savemat(path, {**good, **lists})
    with pytest.raises(DatasetError) as caught:
        read()
    assert words in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "Person.mat")
    with pytest.raises(DatasetError, match=r"Person\.mat cannot be read \(Not a regular file\)"):
        mat_files.read_mat(DG_CUHKSYSU.release, tmp_path / "Person.mat", ["Person"])


READERS = {
    "crashes": "import os; os.abort()",
    "hangs": "import time; time.sleep(600)",
    "says nothing": "",
    "stops in a line": "print('{\"na', end='')",
    "stops in the bytes": 'print(\'{"name": "x", "bytes": 100}\')',
    "says something else": "print('[1, 2]')",
    "names a place elsewhere": 'print(\'{"name": "../x", "value": 1, "bytes": 0}\')',
    "says too much": f"print('1' * {mat_reader.MOST_CHARACTERS + 100})",
}


@pytest.mark.parametrize("script", READERS.values(), ids=READERS)
def test_whatever_the_reading_process_does_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    _, read = person_mat(tmp_path)
    reader = tmp_path / "reader.py"
    reader.write_text(script)
    monkeypatch.setattr(mat_reader, "__file__", str(reader))
    monkeypatch.setattr(mat_files, "_PATIENCE", 3)
    # What hangs sleeps for longer.
    with within(60, 600), pytest.raises(DatasetError, match=r"Person\.mat is damaged or no MATLAB"):
        read()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit less")
def test_the_reading_process_can_open_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = person_mat(tmp_path)
    source = Path(mat_reader.__file__).read_text()
    opens = f'open({str(path)!r}, "rb")'
    reader = tmp_path / "reader.py"
    monkeypatch.setattr(mat_reader, "__file__", str(reader))
    for line, works in ((f"{opens}; _confine()", True), (f"_confine(); {opens}", False)):
        reader.write_text(source.replace("_confine()\n    layout", f"{line}\n    layout"))
        assert line in reader.read_text()
        if works:
            assert len(read()) == 2
        else:
            with pytest.raises(DatasetError):
                read()
