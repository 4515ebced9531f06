"""Counts beside the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from metabin_plugin.data.benchmark_counts import PAPER_SOURCES, PAPER_SUM, PUBLISHED, Count
from metabin_plugin.data.check import check_named
from metabin_plugin.data.check.faults import Subset
from metabin_plugin.data.check.report import compare, differences, table
from metabin_plugin.data.datasets import FURTHER_SOURCES, OWN_SPLITS, SOURCES, TARGETS


def subset(dataset: str, name: str, count: Count, missing: int = 0) -> Subset:
    """Images of which each shows the next person."""
    items = [(f"{i}.jpg", i % count.identities, 0) for i in range(count.images - missing)]
    return Subset(dataset, name, items)


def published_subsets(missing: int = 0) -> list[Subset]:
    return [
        subset(name, "train", PUBLISHED[name]["train"], missing * (name == "DG_CUHK02"))
        for name in PAPER_SOURCES
    ]


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]


def test_the_parts_of_the_paper_sum_up() -> None:
    train = [PUBLISHED[source]["train"] for source in PAPER_SOURCES]
    assert (sum(c.identities for c in train), sum(c.images for c in train)) == (18530, 121765)
    assert Count(18530, 121765) == PAPER_SUM
    # All images without the false detections and distractors of the test folder.
    test_folder, false_detections, distractors = 19732, 3819, 2798
    all_images = 12936 + 3368 + test_folder - false_detections - distractors
    assert PUBLISHED["DG_Market1501"]["train"].images == all_images
    assert PUBLISHED["DG_Market1501_Split"]["gallery"].images == test_folder - false_detections


def test_the_own_splits_part_the_whole() -> None:
    for split in OWN_SPLITS:
        counts = PUBLISHED[split.__name__]
        whole = PUBLISHED[split.__name__.removesuffix("_Split")]["train"]
        distractors = 2798 if "Market" in split.__name__ else 0
        assert sum(count.images for count in counts.values()) == whole.images + distractors
        people = counts["train"].identities + counts["gallery"].identities
        assert people == whole.identities + (distractors > 0)


def test_every_dataset_has_published_counts() -> None:
    everything = {*SOURCES, *TARGETS, *FURTHER_SOURCES, *OWN_SPLITS}
    assert {dataset.__name__ for dataset in everything} == PUBLISHED.keys()
    assert [dataset.__name__ for dataset in SOURCES] == list(PAPER_SOURCES)


def test_the_sum_is_shown_beside_the_papers() -> None:
    compared = compare(published_subsets())
    assert not list(differences(compared))
    rows = cells(table(compared))
    assert rows[0] == ["DG_CUHK02", "train", "7,264", "7,264", "1,816", "1,816"]
    assert rows[-1] == ["the paper's sources", "train", "121,765", "121,765", "18,530", "18,530"]


def test_a_missing_image_is_told() -> None:
    part, total = differences(compare(published_subsets(missing=1)))
    assert "DG_CUHK02 (train): 7,263 images of 1,816 identities, but 7,264 images of" in part
    assert "sources (train): 121,764 images" in total


def test_only_all_five_are_summed_up() -> None:
    compared = compare(published_subsets()[1:])
    assert [dataset for dataset, *_ in compared] == list(PAPER_SOURCES[1:])
    assert not compare([Subset("own.csv", "train", [("a.jpg", "1", "1")])])


def test_a_difference_is_a_warning_of_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_image
) -> None:
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    folder = tmp_path / "cuhk_sysu/cropped_images"
    for number, name in enumerate(("p1_s1_1.jpg", "p1_s2_2.jpg", "p2_s1_1.jpg", "p2_s2_2.jpg")):
        write_image(folder / name, number)
    report = check_named(["DG_CUHKSYSU"])
    assert not report.problems
    (warning,) = report.warnings
    assert "4 images of 2 identities, but 34,574 images of 11,934 identities" in warning
    assert cells(report.published) == [["DG_CUHKSYSU", "train", "4", "34,574", "2", "11,934"]]


def test_nothing_is_compared_for_own_data(tmp_path: Path, write_image) -> None:
    lines = ["path,pid,camid,subset"]
    for identity in range(2):
        for camera in range(2):
            name = write_image(tmp_path / f"{identity}_{camera}.jpg", 2 * identity + camera).name
            lines.append(f"{name},{identity},{camera},train")
    manifest = tmp_path / "own.csv"
    manifest.write_text("\n".join(lines))
    report = check_named([str(manifest)])
    assert report.published == ""
    assert not report.problems and not report.warnings
