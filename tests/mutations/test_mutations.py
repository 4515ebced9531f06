"""Files from elsewhere, at random: refused in a sentence or harmless, whatever they hold.

``MUTATIONS`` is the number of each kind; ``MUTATION_FIRST`` that of the first one. A failure names
its number, and its files stay in the test's folder. To repeat number 17 of the indexes:
``MUTATION_FIRST=17 MUTATIONS=1 pytest -s tests/mutations -k "refused and index]"``.
"""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from metabin_plugin.search.index_file import read_gallery
from tests.mutations.audit import Openings
from tests.mutations.given import EPOCHS, KINDS, Given, make_given
from tests.mutations.mutations import mutate
from tests.mutations.warm_process import LIMIT_SECONDS, Command, Outcome, WarmProcess

COUNT = int(os.environ.get("MUTATIONS", "6"))
FIRST = int(os.environ.get("MUTATION_FIRST", "0"))
# A config and a manifest may name any file to read.
_MAY_NAME_FILES = ("config", "manifest")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc"),
]


@pytest.fixture(scope="module")
def process() -> Iterator[WarmProcess]:
    with WarmProcess() as warm:
        yield warm


@pytest.fixture(scope="module")
def given(process: WarmProcess, tmp_path_factory: pytest.TempPathFactory) -> Given:
    return make_given(tmp_path_factory.mktemp("mutations"), process)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_taken(kind: str, given: Given, process: WarmProcess) -> None:
    for number in range(4):
        folder = given.root / "whole"
        path, command = given.command(kind, number, folder)
        shutil.copy(given.original(kind), path)
        before = seen(given)
        outcome = process.run(command)
        assert (outcome.status, faults(kind, outcome, folder)) == (0, []), outcome.err
        assert seen(given) == before
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_are_refused_or_harmless(
    kind: str, given: Given, process: WarmProcess
) -> None:
    original = given.original(kind).read_bytes()
    statuses: Counter[int] = Counter()
    failures, seconds = [], 0.0
    for number in range(FIRST, FIRST + COUNT):
        folder = given.root / f"{kind}{number}"
        path, command = given.command(kind, number, folder)
        what = mutate(kind, number, original, path, given.outside)
        before = seen(given)
        with Openings(str(given.outside)) as openings:
            outcome = process.run(command)
            opened = openings.names()
        statuses[outcome.status] += 1
        seconds += outcome.seconds
        found = faults(kind, outcome, folder)
        after = seen(given)
        if after != before:
            found.append(f"touched {sorted(set(before.items()) ^ set(after.items()))}")
            given.restore_outside()
        if opened and kind not in _MAY_NAME_FILES:
            found.append(f"opens outside/{opened[0]}")
        if found:
            line = " ".join(command.line[:2])
            failures += [f"{kind} {number} ({what[:100]}; {line}): {fault}" for fault in found]
        else:
            shutil.rmtree(folder)
    print(f"{COUNT} x {kind}: {dict(statuses)}, {seconds / COUNT:.2f} s each")
    assert not failures, "\n".join([f"{len(failures)} failures", *failures])


# Scripts that do what must not be done, and the start of what is then found.
MISDEEDS = {
    "open({outside!r} + '/notes.txt')": "touches open for reading: ",
    "open({outside!r} + '/new.txt', 'w')": "touches open for writing: ",
    "import os; os.rename({outside!r} + '/notes.txt', 'x')": "touches os.rename: ",
    "import os; os.listdir({outside!r})": "touches os.listdir: ",
    "import ctypes; ctypes.CDLL(None).open({outside!r}.encode() + b'/notes.txt', 0)": "opens",
    "import subprocess; subprocess.run(['true'])": "touches subprocess.Popen: ",
    "import socket; socket.create_connection(('127.0.0.1', 9))": "touches socket.connect: ",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "status -11",
    "raise SystemExit(3)": "status 3",
    "raise SystemExit(1)": "0 sentences",
    "raise SystemExit('error: one\\nerror: two')": "2 sentences",
    "raise SystemExit('error: one\\nand more')": "lines after the sentence",
    "raise SystemExit('error: \\x1b[31m')": "control character",
    "print('error: all is well', file=__import__('sys').stderr)": "status 0 with error: ",
    "raise ValueError('no')": "traceback: ValueError: no",
    "bytearray(3 << 30)": "traceback: MemoryError",
    "while True: pass": "longer than",
}


@pytest.mark.parametrize("script", MISDEEDS)
def test_what_must_not_be_done_is_found(
    tmp_path: Path, given: Given, process: WarmProcess, script: str
) -> None:
    path = tmp_path / "script.py"
    path.write_text(script.format(outside=str(given.outside)))
    with Openings(str(given.outside)) as openings:
        limit = 3 if script.startswith("while") else LIMIT_SECONDS
        command = Command([str(path)], str(tmp_path), [str(given.data)], limit=limit)
        outcome = process.run(command)
        found = [*faults("jpeg", outcome, tmp_path), *(f"opens {n}" for n in openings.names())]
    given.restore_outside()
    assert any(fault.startswith(MISDEEDS[script]) for fault in found), found


def seen(given: Given) -> dict[str, tuple[int, int, int]]:
    """Type, size and time of change of all that no command may change."""
    found = {}
    for folder in (given.root, given.data, given.outside):
        for path in [folder, *folder.iterdir()]:
            if path.parent != given.root or path in (given.data, given.outside):
                status = path.lstat()
                found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    found[str(given.root)] = (0, len(list(given.root.iterdir())), 0)
    return found


def faults(kind: str, outcome: Outcome, folder: Path) -> list[str]:
    """What is wrong with the end of a command, each in a line."""
    found = []
    if not outcome.in_time:
        return [f"longer than {LIMIT_SECONDS} s: {last_place(outcome)}"]
    if outcome.status not in (0, 1, 2):
        found.append(f"status {outcome.status}: {last_place(outcome)}")
    for text in (outcome.err, outcome.out):
        if "Traceback" in text:
            found.append(f"traceback: {last_line(text)}")
    sentences = re.findall(r"^error: .+$", outcome.err, re.MULTILINE)
    problems = re.findall(r"^problem: .+$", outcome.out, re.MULTILINE)
    if outcome.status == 0:
        found += result_faults(kind, folder)
        if sentences:
            found.append(f"status 0 with {sentences[0]}")
    elif not found and len(sentences) != 1 and not problems:
        found.append(f"{len(sentences)} sentences: {outcome.err[-200:]!r}")
    elif sentences and not outcome.err.rstrip().splitlines()[-1].startswith("error: "):
        found.append(f"lines after the sentence: {outcome.err[-200:]!r}")
    if control := _CONTROL.search(outcome.err):
        found.append(f"control character {control[0]!r} in {outcome.err[-200:]!r}")
    reading = "open for reading", "os.scandir", "os.listdir"
    for event in outcome.events:
        if kind not in _MAY_NAME_FILES or not event.startswith(reading):
            found.append(f"touches {event}")
    # The log and standard error may both have it.
    return list(dict.fromkeys(found))


def result_faults(kind: str, folder: Path) -> list[str]:
    """What is wrong with the files of a command that was content."""
    if kind == "checkpoint":
        final = torch.load(folder / "out" / "model_final.pth", weights_only=True)
        stands = (final["epoch"], final["progress"]["iteration"])
        return [] if stands == (EPOCHS - 1, EPOCHS) else [f"ends at epoch, iteration {stands}"]
    if kind in ("index", "index_by_camera"):
        return index_faults(folder)
    return []


def index_faults(folder: Path) -> list[str]:
    """What is wrong with the answer of an index that was taken, or with the index made of it."""
    content = (folder / "gallery.index").read_bytes()
    if zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
        return ["a damaged index was taken"]
    if not (folder / "found.csv").exists():
        read_gallery(folder / "gallery.index")
        return []
    with open(folder / "found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    strange = [row for row in rows if not math.isfinite(float(row["distance"]))]
    return [f"found {strange[0]}"] if strange else [] if rows else ["nothing was found"]


def last_line(text: str) -> str:
    """The exception that ends a traceback, and the last place in the project before it."""
    tail = text[text.rindex("Traceback") :]
    places = re.findall(r'File "\S*/(?:metabin_plugin|tools)/(\S+)", line (\d+)', tail)
    lines = re.findall(
        r"^[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning)\b.*$", tail, re.M
    )
    return f"{(lines or ['?'])[-1][:150]} [{':'.join(places[-1]) if places else '?'}]"


def last_place(outcome: Outcome) -> str:
    """The innermost places in Python where a command was."""
    found = re.findall(r'File "\S*/(\S+)", line (\d+) in (\S+)', outcome.places)
    return " < ".join(f"{file}:{line} {name}" for file, line, name in found[:4])
