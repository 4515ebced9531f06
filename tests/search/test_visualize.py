"""tools/visualize.py: which queries and galleries it shows, against loops, and what it writes."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metabin_plugin.cli.main import execute
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.errors import ConfigError, SearchError
from metabin_plugin.evaluation import Images
from metabin_plugin.search.ranked_lists import (
    FRAME,
    GAP,
    GREEN,
    IMAGE,
    RED,
    RankedLists,
    choose_queries,
    queries_of,
)
from tests.engine.tiny_data import CONFIGS, tiny_config, tiny_options


def random_lists(seed: int = 0) -> tuple[RankedLists, Images, Images]:
    """Seven queries and thirty gallery images of six people by two cameras; two equal images."""
    random = np.random.default_rng(seed)

    def side(count: int, people: int) -> Images:
        features = torch.from_numpy(random.normal(size=(count, 4))).float()
        return Images(features, random.integers(0, people, count), random.integers(0, 2, count))

    query, gallery = side(7, 8), side(30, 6)
    gallery.features[20] = gallery.features[10]
    return RankedLists(query, gallery, "euclidean"), query, gallery


def expected_list(query: Images, gallery: Images, number: int) -> list[tuple[int, float, bool]]:
    feature, person, camera = (column[number] for column in query)
    found = []
    for index, (other, identity, seen_by) in enumerate(zip(*gallery, strict=True)):
        if identity == person and seen_by == camera:
            continue
        distance = sum((a - b) ** 2 for a, b in zip(feature.tolist(), other.tolist(), strict=True))
        found.append((index, distance, bool(identity == person)))
    return sorted(found, key=lambda place: (round(place[1], 5), place[0]))


def test_lists_equal_a_loop_over_the_gallery() -> None:
    lists, query, gallery = random_lists()
    for number in range(7):
        expected = expected_list(query, gallery, number)
        found = lists.list_of(number, 12)
        assert [(p.index, p.right) for p in found] == [(i, right) for i, _, right in expected[:12]]
        assert [p.distance for p in found] == pytest.approx([d for _, d, _ in expected[:12]], 1e-4)
        assert len(lists.list_of(number, 99)) == len(expected)


def test_average_precisions_equal_a_loop_over_the_list() -> None:
    lists, query, gallery = random_lists()
    expected = []
    for number in range(7):
        hits = [right for _, _, right in expected_list(query, gallery, number)]
        ranks = [rank for rank, right in enumerate(hits, start=1) if right]
        terms = [(n + 1) / rank for n, rank in enumerate(ranks)]
        expected.append(sum(terms) / len(terms) if terms else math.nan)
    assert np.isnan(expected).any() and not np.isnan(expected).all()
    np.testing.assert_allclose(lists.average_precisions(), expected, rtol=1e-6)


def test_an_image_by_the_query_camera_is_no_match() -> None:
    features = torch.eye(3)
    query = Images(features[:1], np.array([1]), np.array([0]))
    gallery = Images(features[1:], np.array([1, 2]), np.array([0, 1]))
    assert np.isnan(RankedLists(query, gallery, "cosine").average_precisions()).tolist() == [True]


def test_queries_are_chosen_as_asked() -> None:
    precisions = np.array([0.5, np.nan, 0.1, 0.9, 0.3])
    assert choose_queries(precisions, 3, "spread") == [0, 2, 4]
    assert choose_queries(precisions, 3, "worst") == [2, 4, 0]
    assert choose_queries(precisions, 9, "worst") == [2, 4, 0, 3]
    assert choose_queries(precisions, 9, "spread") == [0, 1, 2, 3, 4]
    drawn = [choose_queries(np.zeros(100), 5, "random", seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 5
    with pytest.raises(SearchError, match="no query has a match"):
        choose_queries(np.full(3, np.nan), 2, "worst")


def test_queries_of_identities() -> None:
    identities = np.array([4, 7, 4, 2])
    assert queries_of(identities, [2, 4]) == [3, 0, 2]
    with pytest.raises(SearchError, match="no query shows 5; choose one of 2, 4, 7"):
        queries_of(identities, [2, 5])


def run(folder: Path, *options: str, dataset: str = "target.csv") -> list[dict[str, str]]:
    """Rows of the table that the tool leaves beside its figure."""
    weights = folder / "weights.pth"
    if not weights.exists():
        torch.manual_seed(0)
        torch.save({"model": MetaBINTrainer.build_model(tiny_config(folder)).state_dict()}, weights)
    arguments = ["--config-file", str(CONFIGS / "MetaBIN.yml"), "--dataset", str(folder / dataset)]
    arguments += ["--output", str(folder / "figure" / "ranked.png"), *options]
    execute(["ranked", *arguments, *tiny_options(folder), "MODEL.WEIGHTS", str(weights)])
    with (folder / "figure" / "ranked.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_figure_and_its_table(tmp_path: Path) -> None:
    rows = run(tmp_path, "--top", "3", "--queries", "2", "--which", "worst")
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 2
    precisions = [float(row["average_precision"]) for row in rows[::3]]
    assert precisions == sorted(precisions) and 0 < precisions[0] <= 1
    every = run(tmp_path, "--top", "3", "--queries", "99")
    assert precisions[0] == min(float(row["average_precision"]) for row in every)
    chosen = run(tmp_path, "--top", "3", "--ids", "3,1")
    assert [row["identity"] for row in chosen] == ["3"] * 3 + ["1"] * 3
    # Frames are of the table's colours; the file's name begins with the identity.
    with Image.open(tmp_path / "figure" / "ranked.png") as sheet:
        height = (sheet.height - GAP) // 2
        for number, row in enumerate(chosen):
            place = (
                GAP + (number % 3 + 1) * (IMAGE[0] + 2 * FRAME + GAP) + 2 * GAP + 1,
                GAP + number // 3 * height + 1,
            )
            right = Path(row["path"]).name.startswith(f"{row['identity']}_")
            assert row["right"] == str(int(right))
            assert sheet.getpixel(place) == (GREEN if right else RED)


@pytest.mark.slow
def test_what_users_get_wrong_is_said_in_one_sentence(tmp_path: Path) -> None:
    for words, options in (("--queries is 0", ["--queries", "0"]), ("--top is 0", ["--top", "0"])):
        with pytest.raises(SearchError, match=words):
            run(tmp_path, *options)
    with pytest.raises(SearchError, match=r"give one ending in \.png"):
        run(tmp_path, "--output", "ranked.csv")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    # The table beside the one would be in the place of the manifest.
    refusals = {
        "target.png": r"target\.png would put its numbers into \S+target\.csv, which is another",
        "target/0_1.png": r"target\S+ is a file that is read; give another",
    }
    for name, words in refusals.items():
        with pytest.raises(SearchError, match=words):
            run(tmp_path, "--output", str(tmp_path / name))
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(SearchError, match="no query shows 77"):
        run(tmp_path, "--ids", "77")
    weights = tmp_path / "weights.pth"
    arguments = ["--config-file", str(CONFIGS / "MetaBIN.yml"), "--dataset"]
    arguments += [str(tmp_path / "target.csv"), "--output", str(tmp_path / "x.png")]
    with pytest.raises(ConfigError, match=r"MODEL\.WEIGHTS is empty"):
        execute(["ranked", *arguments, *tiny_options(tmp_path)])
    assert weights.exists() and not (tmp_path / "x.png").exists()
