"""How many identities and images the datasets have, as published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tabulate import tabulate

from metabin_plugin.data.check.faults import TRAIN, Subset


class Count(NamedTuple):
    """Size of a list of images."""

    identities: int
    images: int


# The paper (section 4) publishes the sum of its sources; the parts are those of the benchmark that
# it uses (Song et al., CVPR 2019). Those of MSMT17 and of CUHK03's new protocol are the line counts
# of the lists in their releases. The persons of Market-1501's gallery are those of its queries and
# the distractors' identity 0.
PUBLISHED: Mapping[str, Mapping[str, Count]] = {
    "DG_CUHK02": {"train": Count(1816, 7264)},
    "DG_CUHK03": {"train": Count(1467, 14097)},
    "DG_Market1501": {"train": Count(1501, 29419)},
    "DG_DukeMTMC": {"train": Count(1812, 36411)},
    "DG_CUHKSYSU": {"train": Count(11934, 34574)},
    "DG_VIPeR": {"train": Count(632, 1264)},
    "DG_PRID": {"train": Count(934, 1134)},
    "DG_GRID": {"train": Count(1025, 1275)},
    "DG_iLIDS": {"train": Count(119, 476)},
    "DG_MSMT17": {"train": Count(4101, 126441)},
    "DG_CUHK03_Labeled": {"train": Count(1467, 14096)},
    "DG_Market1501_Split": {
        "train": Count(751, 12936),
        "query": Count(750, 3368),
        "gallery": Count(751, 15913),
    },
    "DG_DukeMTMC_Split": {
        "train": Count(702, 16522),
        "query": Count(702, 2228),
        "gallery": Count(1110, 17661),
    },
    "DG_MSMT17_Split": {
        "train": Count(1041, 32621),
        "query": Count(3060, 11659),
        "gallery": Count(3060, 82161),
    },
    "DG_CUHK03_Split": {
        "train": Count(767, 7365),
        "query": Count(700, 1400),
        "gallery": Count(700, 5332),
    },
    "DG_CUHK03_Labeled_Split": {
        "train": Count(767, 7368),
        "query": Count(700, 1400),
        "gallery": Count(700, 5328),
    },
}

# The five sources of the paper, and their sum as it gives it.
PAPER_SOURCES = ("DG_CUHK02", "DG_CUHK03", "DG_Market1501", "DG_DukeMTMC", "DG_CUHKSYSU")
PAPER_SUM = Count(18530, 121765)


_HEADERS = ("Dataset", "Subset", "Images", "published", "Identities", "published")

Comparison = tuple[str, str, Count, Count]


def compare(subsets: Sequence[Subset]) -> list[Comparison]:
    """Dataset, subset, what was counted and what was published, where anything was published.

    If all of the paper's sources are there, their sum is the last entry.
    """
    compared = [
        (subset.dataset, subset.name, _count(subset), PUBLISHED[subset.dataset][subset.name])
        for subset in subsets
        if subset.name in PUBLISHED.get(subset.dataset, {})
    ]
    # Of the sources, training images alone are published.
    counted = {dataset: count for dataset, _, count, _ in compared}
    if all(source in counted for source in PAPER_SOURCES):
        sources = [counted[source] for source in PAPER_SOURCES]
        total = Count(sum(c.identities for c in sources), sum(c.images for c in sources))
        compared.append(("the paper's sources", TRAIN, total, PAPER_SUM))
    return compared


def table(compared: Sequence[Comparison]) -> str:
    """Markdown table of the comparison."""
    rows = [
        (dataset, name, counted.images, published.images, counted.identities, published.identities)
        for dataset, name, counted, published in compared
    ]
    return tabulate(rows, headers=_HEADERS, tablefmt="pipe", intfmt=",")


def differences(compared: Sequence[Comparison]) -> Iterator[str]:
    """A sentence for each count that is not the published one."""
    for dataset, name, counted, published in compared:
        if counted != published:
            yield (
                f"{dataset} ({name}): {_text(counted)}, but {_text(published)} were published, so "
                "results do not compare; check that the release is complete and the right one."
            )


def _count(subset: Subset) -> Count:
    return Count(len({item[1] for item in subset.items}), len(subset.items))


def _text(count: Count) -> str:
    return f"{count.images:,} images of {count.identities:,} identities"
