"""Any file as a manifest: it loads and its images can be read, or one sentence says why not."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metabin_plugin.data import ManifestDataset, ReadableDataset, label_domains
from metabin_plugin.errors import DatasetError

PATHS = ["a.jpg", "b, c.jpg", "dir/d.jpg", "é ü.jpg", "e.jpg", "broken.jpg"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_image: Callable[..., Path]) -> Path:
    """A folder with images, one of them broken, an empty file, a loop and a dangling link."""
    folder = tmp_path_factory.mktemp("manifests")
    for path in PATHS:
        write_image(folder / path)
    (folder / "broken.jpg").write_bytes(b"text")
    (folder / "empty.jpg").touch()
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    return folder


COLUMNS = ["path", "pid", "camid", "domain", "subset"]
names = st.sampled_from([*COLUMNS, "", " pid", "PATH", "\ufeffpath"])
columns = st.just(COLUMNS) | st.lists(names, max_size=7)
values = st.sampled_from(
    [
        *PATHS,
        *("dir", "..", ".", "/", "empty.jpg", "dangling.jpg", "loop.jpg", "dir/../a.jpg"),
        *("absent.jpg", "a.jpg/x.jpg", "../absent.jpg", "/etc", "{folder}/a.jpg", "x" * 5000),
        *("train", "query", "gallery", "test", "Train", "-1", "1e400", str(10**40), "0", " 1 ", ""),
        *(["a\0.jpg"] if sys.version_info >= (3, 11) else []),
        *("a\nb", "\r", '"', "'", ",", "\u2028", "\x85"),
    ]
)
good_rows = st.tuples(
    st.sampled_from(PATHS),
    st.sampled_from(["1", "-1", "anna", str(10**40)]),
    st.sampled_from(["1", "left"]),
    st.sampled_from(["day", "night"]),
    st.sampled_from(["", "train", "query", "gallery"]),
).map(list)
# Python 3.10 writes no NUL into a table; `spoiled` has some.
NO_NUL = st.characters(blacklist_characters="\0")
rows = good_rows | st.lists(values | st.text(NO_NUL, max_size=4), max_size=7)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """CSV text with any columns, cells, delimiter, quoting, line ends and encoding."""
    delimiter, end = draw(st.sampled_from(",,,,;\t")), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    lines = [draw(columns), *draw(st.lists(rows, max_size=5))]
    quoted = io.StringIO(newline="")
    csv.writer(quoted, delimiter=delimiter, lineterminator=end).writerows(lines)
    unquoted = end.join(delimiter.join(line) for line in lines)
    text = draw(st.sampled_from([quoted.getvalue(), quoted.getvalue(), unquoted]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16"]))
    return text.encode(encoding, "replace")


@st.composite
def nearly_good(draw: st.DrawFn) -> bytes:
    """A table of good rows with at most one other among them."""
    lines = draw(st.lists(good_rows, max_size=5, unique_by=lambda row: (row[0], row[4])))
    if draw(st.booleans()):
        for line in lines:
            line[4] = line[4] and line[4].replace("query", "test").replace("gallery", "test")
    lines += draw(st.lists(rows, max_size=1))
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *draw(st.permutations(lines))])
    return text.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8-sig"])))


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A table with some bytes put into it."""
    table = draw(nearly_good() | tables())
    place = draw(st.integers(0, len(table)))
    byte = draw(st.binary(max_size=4) | st.sampled_from([b"\0", b'"', b"\n", b"\xff", b","]))
    return table[:place] + byte + table[place:]


def check(folder: Path, content: bytes) -> None:
    manifest = folder / "any.csv"
    manifest.write_bytes(content.replace(b"{folder}", str(folder).encode()))
    try:
        dataset = ManifestDataset(str(manifest))
        label_domains([("any", dataset)])
    except DatasetError as error:
        check_sentence(str(error), "any.csv")
        words = (", line ", "column", "no rows", "test images, but nobody")
        assert any(word in str(error) for word in words), error
        return
    for query, gallery in dataset.splits:
        assert len({path for path, _, _ in query}) == len(query)
        assert len({path for path, _, _ in gallery}) == len(gallery)
    for items, relabel in ((dataset.train, True), (dataset.query + dataset.gallery, False)):
        images = ReadableDataset(items, relabel=relabel)
        for index, (path, _, _) in enumerate(items):
            try:
                assert images[index]["images"].mode == "RGB"
                assert type(images[index]["targets"]) is type(images[index]["camids"]) is int
            except DatasetError as error:
                check_sentence(str(error), path)
                assert path.endswith("broken.jpg")


def check_sentence(sentence: str, name: str) -> None:
    assert name in sentence
    assert len(sentence.splitlines()) == 1
    assert len(sentence) < 1000


@given(nearly_good() | tables() | spoiled() | st.binary(max_size=40))
@example("path,pid,camid\na.jpg,1,1\nb,2,2\n".encode("utf-16"))
@example(b"\xef\xbb\xbfpath,pid,camid\r\na.jpg,-1,1\r\n")
def test_any_file_loads_or_is_refused(folder: Path, content: bytes) -> None:
    check(folder, content)


@pytest.mark.exhaustive
@pytest.mark.slow
@settings(max_examples=1200)
@given(nearly_good() | tables() | spoiled() | st.binary(max_size=200))
def test_many_more_files_load_or_are_refused(folder: Path, content: bytes) -> None:
    check(folder, content)


@given(st.lists(good_rows, min_size=1, unique_by=lambda row: (row[0], row[4] or "train")))
def test_a_good_table_keeps_every_row_but_junk(folder: Path, table: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([COLUMNS, *table])
    (folder / "good.csv").write_text(text.getvalue(), encoding="utf-8")
    dataset = ManifestDataset(str(folder / "good.csv"))
    for subset, items in (
        ("train", dataset.train),
        ("query", dataset.query),
        ("gallery", dataset.gallery),
    ):
        expected = [row for row in table if (row[4] or "train") == subset and row[1] != "-1"]
        assert [item[0] for item in items] == [str(folder / row[0]) for row in expected]
        people = [(row[3], row[1]) for row in expected]
        pairs = {(person, item[1]) for person, item in zip(people, items, strict=True)}
        assert len(pairs) == len(set(people)) == len({item[1] for item in items})
