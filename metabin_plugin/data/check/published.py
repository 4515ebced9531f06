"""What was counted beside what was published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tabulate import tabulate

from metabin_plugin.data.benchmark_counts import PAPER_SOURCES, PAPER_SUM, PUBLISHED, Count
from metabin_plugin.data.check.faults import TRAIN, Subset

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
