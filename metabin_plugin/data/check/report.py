"""The report on the data of a config, or on named datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

from tabulate import tabulate
from yacs.config import CfgNode

from metabin_plugin.data.benchmark_counts import PAPER_SOURCES, PAPER_SUM, PUBLISHED, Count
from metabin_plugin.data.build import require_matches
from metabin_plugin.data.check.faults import (
    TRAIN,
    Collection,
    Subset,
    balanced_batches,
    collect_configured,
    collect_named,
    repeated_images,
    single_images,
    small_domains,
    warnings,
)
from metabin_plugin.data.check.images import Picture, read_pictures
from metabin_plugin.data.check.leaks import contradictions, find_leaks
from metabin_plugin.data.domains import DomainLabels
from metabin_plugin.data.sampler import Balance
from metabin_plugin.errors import DatasetError, MetaBINError
from metabin_plugin.text import shown

_BESIDE = ("Dataset", "Subset", "Images", "published", "Identities", "published")

Comparison = tuple[str, str, Count, Count]


_HEADERS = (
    "Dataset",
    "Subset",
    "Images",
    "Identities",
    "with one image",
    "Cameras",
    "Domains",
    "Width",
    "Height",
)


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
    return tabulate(rows, headers=_BESIDE, tablefmt="pipe", intfmt=",")


def differences(compared: Sequence[Comparison]) -> Iterator[str]:
    """A sentence for each count that is not the published one."""
    for dataset, name, counted, published in compared:
        if counted != published:
            yield (
                f"{dataset} ({name}): {_text(counted)}, but {_text(published)} were published, so "
                "results do not compare; check that the release is complete and the right one"
            )


def _count(subset: Subset) -> Count:
    return Count(len({item[1] for item in subset.items}), len(subset.items))


def _text(count: Count) -> str:
    return f"{count.images:,} images of {count.identities:,} identities"


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        table: Markdown table with a row for each subset; width and height are the smallest, median
            and largest in pixels.
        published: Markdown table with the counts beside the published ones; empty if nothing was
            published on any of the subsets.
        problems: what would stop or spoil training, a sentence each.
        warnings: what would not.
        unreadable: paths of the images that cannot be read.
    """

    table: str
    published: str
    problems: list[str]
    warnings: list[str]
    unreadable: list[str]


def check_configured(cfg: CfgNode, workers: int = 0) -> Report:
    """Check the data that a config trains and evaluates on.

    Args:
        cfg: the config; its keys are taken to be right.
        workers: number of processes that read images; 0 reads in this one.
    """
    collection = collect_configured(cfg)
    batches: list[Balance] | None = balanced_batches(cfg)
    # The share of a domain in a batch is known only when all domains are.
    if batches and len(collection.sources) < len(cfg.DATASETS.NAMES):
        batches = None
    return _report(collection, cfg.METABIN.DOMAIN, batches, workers)


def check_named(names: Sequence[str], workers: int = 0) -> Report:
    """Check all images of datasets and manifests.

    Args:
        names: registered names and paths of manifests.
        workers: number of processes that read images; 0 reads in this one.
    """
    return _report(collect_named(names), "dataset", None, workers)


def _report(
    collection: Collection, kind: str, batches: list[Balance] | None, workers: int
) -> Report:
    subsets = collection.subsets
    labels = collection.label(kind)
    listed = collection.paths()
    pictures, unreadable = read_pictures(listed, workers)
    problems: list[MetaBINError] = [
        *collection.problems,
        *unreadable,
        *repeated_images(subsets),
        *_unscorable(collection),
        *find_leaks(collection, pictures),
        *small_domains(_identities_by_domain(labels), batches),
    ]
    domains = _domains_by_dataset(collection, labels)
    rows = [_row(subset, domains.get(subset.dataset, 0), pictures) for subset in subsets]
    compared = compare(subsets)
    return Report(
        tabulate(rows, headers=_HEADERS, tablefmt="pipe"),
        table(compared) if compared else "",
        [str(problem) for problem in problems],
        [*warnings(subsets), *contradictions(collection, pictures), *differences(compared)],
        [path for path in dict.fromkeys(listed) if path not in pictures],
    )


def _identities_by_domain(labels: DomainLabels) -> dict[str, int]:
    identities: list[set[Any]] = [set() for _ in labels.domain_names]
    for item, domain in zip(labels.img_items, labels.domains, strict=True):
        identities[domain].add(item[1])
    return {name: len(found) for name, found in zip(labels.domain_names, identities, strict=True)}


def _domains_by_dataset(collection: Collection, labels: DomainLabels) -> dict[str, int]:
    counts, start = {}, 0
    for name, dataset in collection.sources:
        end = start + len(dataset.train)
        counts[name] = len(set(labels.domains[start:end]))
        start = end
    return counts


def _unscorable(collection: Collection) -> Iterator[DatasetError]:
    for name, splits in collection.splits.items():
        try:
            require_matches(name, splits)
        except DatasetError as error:
            yield error


def _row(subset: Subset, domains: int, pictures: Mapping[str, Picture]) -> list[Any]:
    readable = [pictures[item[0]].size for item in subset.items if item[0] in pictures]
    widths, heights = zip(*readable, strict=True) if readable else ((), ())
    return [
        shown(subset.dataset),
        subset.name,
        len(subset.items),
        len({item[1] for item in subset.items}),
        len(single_images(subset)),
        len({item[2] for item in subset.items}),
        # Only training images have domains.
        domains if subset.name == TRAIN else "",
        _range(widths),
        _range(heights),
    ]


def _range(values: Sequence[int]) -> str:
    return f"{min(values)} / {median_low(values)} / {max(values)}" if values else ""
