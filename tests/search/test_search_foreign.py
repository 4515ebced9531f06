"""Index files that come from someone else: whatever they say, an answer or one sentence."""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from metabin_plugin.cli.main import execute
from metabin_plugin.errors import SearchError
from metabin_plugin.search.engine import search_index
from metabin_plugin.search.index_file import (
    MAGIC,
    NAMES_AS_JSON,
    Gallery,
    Header,
    Layout,
    read_gallery,
    write_gallery,
)
from metabin_plugin.search.ranked_lists import Tile, draw_sheet
from tests.campaigns import tries
from tests.search.test_search_index import some_gallery

KINDS = ("flat", "ivf", "ivf-pq")
LONGEST = 4


def parts_of(path: Path, gallery: Gallery) -> list[Any]:
    """Header, sizes, table of names and arrays of an index."""
    write_gallery(path, gallery)
    layout = Layout.of(gallery.index)
    arrays = path.read_bytes()[-4 - layout.size : -4]
    names = table(list(gallery.names))
    return [asdict(gallery.header), asdict(layout), names, bytearray(arrays)]


def table(names: Sequence[str], starts: Sequence[int] = ()) -> bytes:
    """What a file has of names: where each starts, in 8 bytes, where the last ends, and all."""
    texts = [name.encode(errors="surrogateescape") for name in names]
    starts = starts or list(accumulate(map(len, texts), initial=0))
    return b"".join([*(struct.pack("<q", start) for start in starts), *texts])


def put_together(path: Path, parts: list[Any], magic: bytes = MAGIC) -> None:
    """Write an index of any parts, with the right lengths and sum."""
    content = bytearray(magic)
    for part in parts[:-1]:
        text = part if isinstance(part, bytes) else json.dumps(part).encode()
        content += len(text).to_bytes(8, "little") + text
    content += parts[-1]
    path.write_bytes(content + zlib.crc32(content).to_bytes(4, "little"))


def place(parts: list[Any], name: str) -> int:
    """Where an array starts among the arrays."""
    start = 0
    for array, (dtype, shape) in Layout(**parts[1]).arrays.items():
        if array == name:
            return start
        start += dtype.itemsize * int(np.prod(shape))
    raise KeyError(name)


def put(parts: list[Any], name: str, number: int, value: int | float) -> None:
    dtype, _ = Layout(**parts[1]).arrays[name]
    start = place(parts, name) + number * dtype.itemsize
    parts[-1][start : start + dtype.itemsize] = np.array(value, dtype).tobytes()


HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "metric": ({"metric": "hamming"}, "another metric"),
    "metric as list": ({"metric": ["cosine"]}, "another metric"),
    "folder as list": ({"folder": ["a"]}, "a text of its header is not a text"),
    "no folder that can be": ({"folder": "/a\0b"}, "no path can have the name of its folder"),
    "config as number": ({"config": 3}, "a text of its header is not a text"),
    "half a surrogate pair": ({"folder": "\ud800"}, "a text of its header is not a text"),
    "probe as text": ({"probe": "0123"}, "its probe is not a list of numbers"),
    "probe of texts": ({"probe": ["0"] * 4}, "its probe is not a list of numbers"),
    "probe of no numbers": ({"probe": [float("nan")] * 4}, "its probe is not a list of numbers"),
    "probe of infinite numbers": ({"probe": [float("inf")] * 4}, "its probe is not a list of"),
    "probe of another length": ({"probe": [0.5] * 5}, "its probe has another length"),
    "threshold as text": ({"threshold": "0.5"}, "its threshold is not a number"),
    "threshold as truth": ({"threshold": True}, "its threshold is not a number"),
    "threshold of no number": ({"threshold": float("nan")}, "its threshold is not a number"),
    "calibration as number": ({"calibration": 3}, "a text of its header is not a text"),
    "another field": ({"code": "print()"}, "unexpected keyword"),
}


@pytest.mark.parametrize("fault", HEADERS)
def test_a_header_of_another_kind_is_refused(tmp_path: Path, fault: str) -> None:
    change, words = HEADERS[fault]
    parts = parts_of(tmp_path / "g.index", some_gallery())
    parts[0] |= change
    refuse(tmp_path / "g.index", parts, words)


NAMES: dict[str, tuple[Any, str]] = {
    "numbers": (list(range(80)), "a name in it is not a text"),
    "nothing": ([None] * 80, "a name in it is not a text"),
    "half surrogate pairs": (["\ud800"] * 80, "a name in it is not a text"),
    "a text": ("x" * 80, "not one name for each"),
    "a mapping": ({str(number): "" for number in range(80)}, "not one name for each"),
    "too few": (["x"] * 79, "not one name for each"),
    "too many": (["x"] * 81, "not one name for each"),
}
PATHS: dict[str, tuple[list[str], str]] = {
    "an absolute path": (["x"] * 79 + ["/etc/passwd"], "leads out of the gallery's folder"),
    "one behind empty names": ([""] * 79 + ["/etc/passwd"], "leads out of the gallery's folder"),
    "a path to above": (["a/../../x.png", *"x" * 79], "leads out of the gallery's folder"),
    "escapes": (["../\x1b[2J"] * 80, r"\x1b[2J"),
}
TABLES: dict[str, bytes] = {
    "too few": table(["x"] * 79),
    "too many": table(["x"] * 81),
    "nothing": b"",
    "a start too few": table(["x"] * 80)[:640],
    "none from the first byte on": table(["x"] * 80, [1, *range(1, 81)]),
    "an end before its start": table(["x"] * 80, [0, 5, 3, *range(3, 81)]),
    "an end below zero": table(["x"] * 80, [0, -1, *range(2, 81)]),
    "an end behind the last": table(["x"] * 80, [*range(79), 81, 80]),
    "an end behind the table": table(["x"] * 80, [*range(80), 2**62]),
    "bytes behind the last": table(["x"] * 80) + b"x",
}


@pytest.mark.parametrize("fault", [*NAMES, *PATHS])
def test_names_of_another_kind_are_refused(tmp_path: Path, fault: str) -> None:
    names, words = (NAMES | PATHS)[fault]
    parts = parts_of(tmp_path / "g.index", some_gallery())
    refuse(tmp_path / "g.index", [*parts[:2], names, parts[3]], words, NAMES_AS_JSON)


@pytest.mark.parametrize("fault", [*PATHS, *TABLES])
def test_tables_of_names_that_lie_are_refused(tmp_path: Path, fault: str) -> None:
    parts = parts_of(tmp_path / "g.index", some_gallery())
    names, words = PATHS.get(fault, ([], "not one name for each"))
    parts[2] = TABLES[fault] if fault in TABLES else table(names)
    refuse(tmp_path / "g.index", parts, words)


def test_dots_and_colons_in_names_lead_nowhere(tmp_path: Path) -> None:
    names = ["a..b.jpg", "c:1.jpg", "d\\e.jpg", "", *"x" * 76]
    parts = parts_of(tmp_path / "g.index", some_gallery())
    put_together(tmp_path / "g.index", [*parts[:2], table(names), parts[3]])
    assert list(read_gallery(tmp_path / "g.index").names) == names


SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "another kind": ("ivf", {"kind": "hnsw"}),
    "lists in another file": ("ivf", {"kind": "ilod"}),
    "kind as list": ("ivf", {"kind": ["ivf"]}),
    "no vectors": ("flat", {"count": 0}),
    "negative": ("flat", {"count": -80, "dimension": -4}),
    "huge": ("flat", {"count": 2**62}),
    "huger": ("flat", {"count": 10**100}),
    "half": ("flat", {"count": 80.5}),
    "truth": ("ivf", {"lists": True}),
    "text": ("flat", {"dimension": "4"}),
    "one vector more": ("flat", {"count": 81}),
    "other lengths": ("flat", {"dimension": 5}),
    "flat with lists": ("flat", {"lists": 2}),
    "flat with codes": ("flat", {"code_bytes": 4}),
    "no lists": ("ivf", {"lists": 0, "probes": 0}),
    "more lists than vectors": ("ivf", {"lists": 81}),
    "no probes": ("ivf", {"probes": 0}),
    "more probes than lists": ("ivf", {"probes": 3}),
    "codes without bytes": ("ivf-pq", {"code_bytes": 0}),
    "codes that do not divide": ("ivf-pq", {"code_bytes": 3}),
    "codes longer than vectors": ("ivf-pq", {"code_bytes": 8}),
    "another field": ("flat", {"file": "/etc/passwd"}),
}


@pytest.mark.parametrize("fault", SIZES)
def test_sizes_that_no_index_has_are_refused(tmp_path: Path, fault: str) -> None:
    kind, change = SIZES[fault]
    parts = parts_of(tmp_path / "g.index", some_gallery(kind))
    parts[1] |= change
    refuse(tmp_path / "g.index", parts, "was not written by `index`")


@pytest.mark.parametrize(
    ("kind", "name", "number", "value", "words"),
    [
        ("flat", "codes", 7, np.nan, "not finite"),
        ("flat", "codes", 319, np.inf, "not finite"),
        ("ivf", "codes", 319, -np.inf, "not finite"),
        ("ivf", "centres", 0, np.nan, "not finite"),
        ("ivf-pq", "parts", 1023, np.nan, "not finite"),
        ("ivf", "numbers", 3, -7, "hold each entry once"),
        ("ivf", "numbers", 3, 80, "hold each entry once"),
        ("ivf", "numbers", 3, 2**62, "hold each entry once"),
        ("ivf", "lengths", 0, -1, "other lengths"),
        ("ivf", "lengths", 1, 2**62, "other lengths"),
        ("ivf-pq", "lengths", 1, 299, "other lengths"),
    ],
)
def test_arrays_that_no_index_has_are_refused(
    tmp_path: Path, kind: str, name: str, number: int, value: float, words: str
) -> None:
    parts = parts_of(tmp_path / "g.index", some_gallery(kind))
    put(parts, name, number, value)
    refuse(tmp_path / "g.index", parts, words)


def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    parts = parts_of(tmp_path / "g.index", some_gallery())
    start = place(parts, "numbers")
    parts[-1][start : start + 8] = parts[-1][start + 8 : start + 16]
    refuse(tmp_path / "g.index", parts, "hold each entry once")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff", b"null", b'"text"', b"3"],
)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_no_json_of_ours_is_refused(tmp_path: Path, text: bytes, which: int) -> None:
    parts = parts_of(tmp_path / "g.index", some_gallery())
    parts[which] = text
    for magic in (MAGIC, NAMES_AS_JSON):
        refuse(tmp_path / "g.index", parts, "was not written by `index`", magic)


@pytest.mark.parametrize("length", [2**62, 2**64 - 1, 10**6])
def test_a_length_beyond_the_end_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "g.index"
    content = MAGIC + length.to_bytes(8, "little") + b"{}"
    path.write_bytes(content + zlib.crc32(content).to_bytes(4, "little"))
    with pytest.raises(SearchError, match="a length in it goes beyond its end"):
        read_gallery(path)


@pytest.mark.parametrize("kind", KINDS)
def test_no_part_of_an_index_is_enough(tmp_path: Path, kind: str) -> None:
    parts = parts_of(tmp_path / "g.index", some_gallery(kind))
    for arrays in (b"", parts[-1][:-1], parts[-1] + b"\0"):
        refuse(tmp_path / "g.index", [*parts[:-1], arrays], "its index takes")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "g.index")
    with pytest.raises(SearchError, match=r"cannot be read \(Not a regular file\)"):
        read_gallery(tmp_path / "g.index")


def refuse(path: Path, parts: list[Any], words: str, magic: bytes = MAGIC) -> None:
    put_together(path, parts, magic)
    start = time.process_time()
    with pytest.raises(SearchError) as caught:
        read_gallery(path)
    assert words in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert time.process_time() - start < LONGEST


@settings(max_examples=tries(50, 150))
@given(st.data())
def test_any_bytes_in_the_place_of_others_give_an_answer_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.index"
    kind = data.draw(st.sampled_from(KINDS))
    parts = parts_of(path, GALLERIES.setdefault(kind, some_gallery(kind)))
    put_together(path, parts)
    content = bytearray(path.read_bytes()[:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(len(MAGIC), len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content + zlib.crc32(content).to_bytes(4, "little"))
    try:
        gallery = read_gallery(path)
    except SearchError as error:
        assert str(error).isprintable()
    else:
        queries = np.eye(4, dtype=np.float32)
        _, rows = search_index(gallery.index, queries, 9, gallery.header.metric)
        assert rows.max() < len(gallery.names) and rows.min() >= -1


GALLERIES: dict[str, Gallery] = {}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_distances_beyond_all_numbers_are_no_fault_of_the_command(
    tmp_path: Path, metric: str, suffix: str
) -> None:
    # The vectors are finite.
    gallery = some_gallery("flat", metric)
    gallery.index.reset()
    gallery.index.add(np.full((2, 4), 3e38, np.float32))
    index, found = tmp_path / "g.index", tmp_path / f"f.{suffix}"
    write_gallery(index, Gallery(Header(metric), ["a", "b"], gallery.index))
    np.save(tmp_path / "q.npy", np.ones((3, 4)))
    execute(["query", str(index), str(tmp_path / "q.npy"), "--output", str(found)])
    assert "inf" not in found.read_text() and "a" not in found.read_text().split()


@pytest.mark.parametrize("is_given", [False, True], ids=["named by the index", "given by the user"])
def test_no_images_of_another_folder_are_opened_for_an_index(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_given: bool,
) -> None:
    folder, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    index, sheet = folder / "g.index", folder / "f.png"
    header = Header("cosine", folder=str(elsewhere))
    gallery = some_gallery("flat", "cosine")
    names = [f"{number}.png" for number in range(gallery.index.ntotal)]
    write_gallery(index, Gallery(header, names, gallery.index))
    np.save(folder / "q.npy", np.ones((1, 4)))
    opened: list[str] = []

    def read(path: str) -> Image.Image:
        opened.append(path)
        return Image.new("RGB", (4, 8))

    monkeypatch.setattr("metabin_plugin.search.ranked_lists.read_rgb", read)
    monkeypatch.chdir(folder)
    command = ["query", str(index), str(folder / "q.npy"), "--output", str(folder / "f.csv")]
    execute([*command, *(["--gallery-folder", str(elsewhere)] if is_given else [])])
    assert bool(opened) is is_given
    assert sheet.exists() is is_given
    assert ("add --gallery-folder" in capsys.readouterr().out) is not is_given


def test_a_long_name_is_soon_on_the_sheet() -> None:
    before = time.process_time()
    draw_sheet([[Tile("", ("query", "x" * 100_000))]])
    assert time.process_time() - before < 5
