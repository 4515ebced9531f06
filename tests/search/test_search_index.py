"""Indexes against brute force, and their file."""

from __future__ import annotations

import json
import os
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search import draw_vectors
from metabin_plugin.errors import SearchError
from metabin_plugin.search.engine import build_index, plan_index, search_index, set_probes
from metabin_plugin.search.index_file import (
    MAGIC,
    NAMES_AS_JSON,
    Gallery,
    Header,
    Names,
    check_network,
    read_gallery,
    write_gallery,
)
from metabin_plugin.search.vectors import Comparable, NpyVectors, sample


class Rows:
    """Vectors in memory, in blocks of seven."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows.astype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape[0], self.rows.shape[1]

    def blocks(self):
        for start in range(0, len(self.rows), 7):
            yield self.rows[start : start + 7].copy()


def brute_force(gallery: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """Distances of every pair in float64."""
    gallery, queries = gallery.astype(np.float64), queries.astype(np.float64)
    if metric == "euclidean":
        return np.array([[((q - g) ** 2).sum() for g in gallery] for q in queries])
    return np.array([[1 - q @ g / np.sqrt((q @ q) * (g @ g)) for g in gallery] for q in queries])


def ready(rows: np.ndarray, metric: str) -> np.ndarray:
    return np.concatenate(list(Comparable(Rows(rows), metric).blocks()))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_flat_index_is_exact(metric: str) -> None:
    random = np.random.default_rng(1)
    gallery, queries = random.normal(size=(100, 9)), random.normal(size=(11, 9))
    # Of three directions and lengths, so that the metrics differ in what is near.
    gallery *= random.uniform(0.2, 5, size=(100, 1))
    plan = plan_index(100, 9)
    index = build_index(Comparable(Rows(gallery), metric), plan, metric)
    distances, rows = search_index(index, ready(queries, metric), 20, metric)
    expected = brute_force(gallery, queries, metric)
    np.testing.assert_array_equal(rows, np.argsort(expected, axis=1)[:, :20])
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :20], rtol=2e-4, atol=1e-5)


def test_equal_distances_are_in_the_order_of_the_gallery() -> None:
    gallery = np.tile([[1.0, 0.0], [0.0, 1.0]], (8, 1))
    index = build_index(Comparable(Rows(gallery), "cosine"), plan_index(16, 2), "cosine")
    _, rows = search_index(index, np.float32([[0.0, 1.0]]), 99, "cosine")
    assert rows[0].tolist() == [*range(1, 16, 2), *range(0, 16, 2)]


@pytest.mark.parametrize(("kind", "least"), [("ivf", 0.9), ("ivf-pq", 0.5)])
def test_approximate_indexes_find_most_neighbours(kind: str, least: float, tmp_path: Path) -> None:
    files = draw_vectors(tmp_path, 4000, 32, 50)
    gallery, queries = map(np.load, files)
    exact = np.argsort(brute_force(gallery, queries[:20], "cosine"), axis=1)[:, :10]
    vectors = Comparable(NpyVectors(files[:1]), "cosine")
    plan = plan_index(4000, 32, kind, code_bytes=8 if kind == "ivf-pq" else None)
    index = build_index(vectors, plan, "cosine")
    assert index.nprobe == plan.probes == 10

    def found() -> float:
        _, rows = search_index(index, ready(queries[:20], "cosine"), 10, "cosine")
        return float(np.mean([len({*a} & {*b}) for a, b in zip(rows, exact, strict=True)])) / 10

    planned = found()
    assert least <= planned <= 1
    set_probes(index, 1)
    assert found() < planned


def test_a_list_with_few_entries_leaves_places_empty() -> None:
    # Two far groups of forty; one list of two is looked at.
    gallery = np.repeat([[1.0, 0.0], [0.0, 1.0]], 40, axis=0)
    plan = plan_index(80, 2, "ivf", lists=2, probes=1)
    index = build_index(Comparable(Rows(gallery), "cosine"), plan, "cosine")
    distances, rows = search_index(index, np.float32([[0.0, 1.0]]), 50, "cosine")
    assert rows[0].tolist() == [*range(40, 80), *[-1] * 10]
    assert np.isinf(distances[0, 40:]).all() and np.isfinite(distances[0, :40]).all()


@pytest.mark.parametrize("probes", [0, 3])
def test_probes_that_an_index_cannot_have_are_refused(probes: int) -> None:
    rows = np.random.default_rng(0).normal(size=(80, 2))
    for kind, words in (("ivf", "has 2 lists"), ("flat", "no lists, being flat")):
        plan = plan_index(80, 2, kind)
        index = build_index(Comparable(Rows(rows), "euclidean"), plan, "euclidean")
        with pytest.raises(SearchError, match=words):
            set_probes(index, probes)


def test_a_sample_has_distinct_rows_in_order() -> None:
    rows = np.arange(100.0)[:, None]
    drawn = sample(Rows(rows), 40)[:, 0]
    assert len(drawn) == 40 and (np.diff(drawn) > 0).all()
    # From every place of a block, not from its start on.
    assert drawn.max() > 90 and not set(range(0, 100, 7)) <= set(drawn)
    np.testing.assert_array_equal(sample(Rows(rows), 100), rows)


def some_gallery(kind: str = "ivf", metric: str = "cosine") -> Gallery:
    count = 300 if kind == "ivf-pq" else 80
    rows = np.random.default_rng(2).normal(size=(count, 4))
    plan = plan_index(count, 4, kind, code_bytes=2 if kind == "ivf-pq" else None)
    index = build_index(Comparable(Rows(rows), metric), plan, metric)
    names = [f"a/{number}.jpg" for number in range(count - 2)]
    names += ["ü 日本.png", "not\udcffutf8.png"]
    header = Header(metric, str(plan), "/gallery", "MODEL: {}", [0.5, -0.25, 1.0, 2.0])
    return Gallery(header, names, index)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf-pq"])
def test_an_index_is_read_as_it_was_written(kind: str, metric: str, tmp_path: Path) -> None:
    gallery = some_gallery(kind, metric)
    write_gallery(tmp_path / "g.index", gallery)
    read = read_gallery(tmp_path / "g.index")
    assert (read.header, list(read.names)) == (gallery.header, gallery.names)
    queries = np.eye(4, dtype=np.float32)
    for one, other in zip(
        search_index(gallery.index, queries, 9, metric),
        search_index(read.index, queries, 9, metric),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert read.path(3) == "/gallery/a/3.jpg"
    assert read.path(3, "/moved") == "/moved/a/3.jpg"
    assert [path.name for path in tmp_path.iterdir()] == ["g.index"]


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf-pq"])
def test_a_file_whose_names_are_json_is_read(kind: str, tmp_path: Path) -> None:
    path, gallery = tmp_path / "g.index", some_gallery(kind)
    write_gallery(path, gallery)
    content = path.read_bytes()
    start = len(MAGIC)
    for _ in range(2):
        start += 8 + int.from_bytes(content[start : start + 8], "little")
    end = start + 8 + int.from_bytes(content[start : start + 8], "little")
    names = json.dumps(gallery.names).encode()
    former = NAMES_AS_JSON + content[len(MAGIC) : start]
    former += len(names).to_bytes(8, "little") + names + content[end:-4]
    path.write_bytes(former + zlib.crc32(former).to_bytes(4, "little"))
    read = read_gallery(path)
    assert (read.header, list(read.names)) == (gallery.header, gallery.names)
    write_gallery(path, read)
    assert path.read_bytes() == content


def test_a_file_of_a_former_version_has_no_threshold(tmp_path: Path) -> None:
    path = tmp_path / "g.index"
    gallery = some_gallery()
    write_gallery(path, gallery)
    content = path.read_bytes()
    former = content.replace(b', "threshold": null, "calibration": ""}', b"}")
    length = len(b', "threshold": null, "calibration": ""')
    assert len(content) - len(former) == length
    # The length of the header stands behind the file's first line, a checksum at the end.
    size = int.from_bytes(content[len(MAGIC) : len(MAGIC) + 8], "little") - length
    former = MAGIC + size.to_bytes(8, "little") + former[len(MAGIC) + 8 : -4]
    path.write_bytes(former + zlib.crc32(former).to_bytes(4, "little"))
    read = read_gallery(path)
    assert (read.header, list(read.names)) == (gallery.header, gallery.names)
    assert read.header.threshold is None


def test_a_table_of_names_is_a_sequence_of_texts() -> None:
    texts = ["", "a", "ü 日本", "not\udcffutf8", "", "a\nb"]
    table = Names.of(iter(texts))
    assert len(table) == 6 and list(table) == texts
    assert [table[row] for row in range(-6, 6)] == texts * 2
    assert table[1:5:2] == texts[1:5:2] and table[4:99] == texts[4:]
    assert "ü 日本" in table and "b" not in table
    for row in (6, -7):
        with pytest.raises(IndexError):
            table[row]
    assert list(Names.of([])) == [] and Names.of(table) is table
    # Over more than one block.
    many = [f"{number}" for number in range(40_000)]
    assert list(Names.of(many)) == many


def test_names_take_their_bytes_and_eight_more(tmp_path: Path) -> None:
    count, path = 50_000, tmp_path / "g.index"
    gallery = some_gallery("flat")
    gallery.index.reset()
    gallery.index.add(np.ones((count, 4), np.float32))
    names = [f"camera {number % 9}/person {number // 9}/{number}.jpg" for number in range(count)]
    text = sum(len(name.encode()) for name in names)
    header = Header("cosine", folder="/gallery")
    write_gallery(path, Gallery(header, names, gallery.index))
    tracemalloc.start()
    read = read_gallery(path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(read.names) == names
    # Python's strings, of 49 bytes and their letters, would take three times as much.
    assert text + 8 * count <= held < text + 8 * count + 2**20
    # A chunk of the file, and what says where the names start, once more.
    assert peak < held + 8 * count + 4 * 2**20


def test_identifiers_are_no_paths() -> None:
    gallery = some_gallery()
    gallery = Gallery(Header("cosine"), gallery.names, gallery.index)
    assert gallery.path(3, "/moved") == "a/3.jpg"


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.index"
    write_gallery(path, some_gallery())
    content = path.read_bytes()
    for place in [17, 30, len(content) // 2, len(content) - 5, len(content) - 1]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(SearchError, match="is damaged or cut short"):
            read_gallery(path)
    for length in [18, 100, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(SearchError, match="is damaged or cut short"):
            read_gallery(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.index"
    with pytest.raises(SearchError, match="No such file"):
        read_gallery(path)
    path.write_bytes(b"metabin-search 1\n")
    with pytest.raises(SearchError, match="a former version; index the gallery anew"):
        read_gallery(path)
    for content in (b"", b"PK\x03\x04", b"metabin-search 5\n"):
        path.write_bytes(content)
        with pytest.raises(SearchError, match="is no index of this tool"):
            read_gallery(path)
    gallery = some_gallery()
    for names in (gallery.names[:-1], [*gallery.names, "one more"]):
        write_gallery(path, Gallery(gallery.header, names, gallery.index))
        with pytest.raises(SearchError, match="not one name for each of its rows"):
            read_gallery(path)
    write_gallery(path, Gallery(Header("hamming"), gallery.names, gallery.index))
    with pytest.raises(SearchError, match="was not written by"):
        read_gallery(path)


def test_a_full_disk_leaves_the_former_index(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "g.index"
    path.write_bytes(b"former")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SearchError, match="cannot be written"):
        write_gallery(path, some_gallery())
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"former"]


def test_features_of_another_network_are_refused() -> None:
    feature = np.random.default_rng(0).normal(size=64)
    header = Header("cosine", probe=feature.tolist())
    check_network(header, feature)
    # Rounding to half precision is no other network.
    check_network(header, feature.astype(np.float16).astype(np.float64))
    for other in (feature * 1.1, feature[::-1], np.full(64, np.nan)):
        with pytest.raises(SearchError, match="features of other weights"):
            check_network(header, other)
    with pytest.raises(SearchError, match="features of 64 values, and this network gives 63"):
        check_network(header, feature[1:])


def test_rows_without_direction_or_number_are_refused(tmp_path: Path) -> None:
    rows = np.ones((30, 3), np.float32)
    rows[17] = 0
    assert len(list(Comparable(Rows(rows), "euclidean").blocks())) == 5
    with pytest.raises(SearchError, match=r"feature 17 \(from 0\) is zero"):
        list(Comparable(Rows(rows), "cosine").blocks())
    for value in (np.nan, np.inf):
        rows[17, 1] = value
        with pytest.raises(SearchError, match="feature 17 "):
            list(Comparable(Rows(rows), "euclidean").blocks())


def test_rows_of_several_files_come_in_order(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40_000, 2)).astype(np.float32)
    paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
    np.save(paths[0], rows[:30_000])
    np.save(paths[1], rows[30_000:])
    vectors = NpyVectors(paths)
    assert vectors.shape == (40_000, 2)
    blocks = list(vectors.blocks())
    assert max(map(len, blocks)) < 20_000
    np.testing.assert_array_equal(np.concatenate(blocks), rows)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_files_without_features_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.npy"
    with pytest.raises(SearchError, match="No such file"):
        NpyVectors([path])
    path.write_bytes(b"no array")
    with pytest.raises(SearchError, match="cannot be read as an array"):
        NpyVectors([path])
    for array in (np.zeros(3), np.zeros((0, 3)), np.array([["a"]])):
        np.save(path, array)
        with pytest.raises(SearchError, match="give rows of numbers"):
            NpyVectors([path])
    for header in (
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 2)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 1)}",
        "{'descr': '<x\\x1b', 'fortran_order': False, 'shape': (1, 1)}",
        "[" * 500,
        "-" * 5000 + "1",
        "",
    ):
        content = header.encode().ljust(1000) + b"\n"
        start = b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little")
        path.write_bytes(start + content + bytes(8))
        with pytest.raises(SearchError) as caught:
            NpyVectors([path])
        assert str(caught.value).isprintable()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SearchError, match="Not a regular file"):
        NpyVectors([path])
    path.unlink()
    # Reading objects would run the code that the file names.
    np.save(path, np.array([[print]]), allow_pickle=True)
    with pytest.raises(SearchError, match="cannot be read as an array"):
        NpyVectors([path])
    np.savez(tmp_path / "several.npz", a=np.zeros((2, 2)))
    with pytest.raises(SearchError, match="holds several arrays"):
        NpyVectors([tmp_path / "several.npz"])
