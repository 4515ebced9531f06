"""What in the lists of images would spoil a run."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

from metabin_plugin.data.balance import Balance, too_few_identities
from metabin_plugin.data.check.subsets import GALLERY, QUERY, TRAIN, Subset
from metabin_plugin.data.matches import unmatched_queries
from metabin_plugin.errors import DatasetError, MetaBINError
from metabin_plugin.text import shown


def repeated_images(subsets: Sequence[Subset]) -> Iterator[DatasetError]:
    """An error for each file that is listed more than once, by whatever path.

    A query image among the gallery images of its dataset is none: ``find_leaks`` looks at those.
    """
    listings: dict[str, list[tuple[Subset, str]]] = defaultdict(list)
    for subset in subsets:
        for item in subset.items:
            listings[os.path.realpath(item[0])].append((subset, item[0]))
    for found in listings.values():
        owners = [subset for subset, _ in found]
        if len(owners) > 1 and not _by_design(owners):
            yield DatasetError(
                f"Image {shown(found[0][1])} is listed {len(owners)} times: in "
                f"{', '.join(map(str, owners))}; keep one of them."
            )


def _by_design(owners: list[Subset]) -> bool:
    if len({owner.dataset for owner in owners}) > 1:
        return False
    names = [owner.name for owner in owners if not owner.whole]
    return len(set(names)) == len(names) and TRAIN not in names


def small_domains(
    domains: Mapping[str, int], batches: Iterable[Balance] | None
) -> Iterator[MetaBINError]:
    """An error for each domain, or for the batch, from which no balanced batch can be drawn.

    Args:
        domains: number of identities by name of the domain.
        batches: the balanced batches of the config; None if there is no config.
    """
    if batches is None:
        small = {name: count for name, count in domains.items() if count < 2}
        yield from (too_few_identities(name, count) for name, count in small.items())
        return
    for batch in batches if domains else ():
        try:
            batch.check_divisible(len(domains))
        except MetaBINError as fault:
            yield fault
        else:
            yield from batch.small_domains(domains)


def balanced_batches(cfg: CfgNode) -> list[Balance]:
    """The domain-balanced batches that a run in one process draws."""
    instances, node = cfg.DATALOADER.NUM_INSTANCE, cfg.METABIN
    sizes = {}
    if cfg.DATALOADER.SAMPLER_TRAIN == "DomainBalancedSampler":
        sizes["SOLVER.IMS_PER_BATCH"] = cfg.SOLVER.IMS_PER_BATCH
    if "MetaLearningHook" in node.HOOKS:
        key = "METABIN.IMS_PER_BATCH" if node.IMS_PER_BATCH else "SOLVER.IMS_PER_BATCH"
        sizes[key] = node.IMS_PER_BATCH or cfg.SOLVER.IMS_PER_BATCH
    return [Balance(size, instances, 1, key) for key, size in sizes.items()]


def single_images(subset: Subset) -> list[str]:
    """Paths of the images that are the only ones of their identity."""
    paths: dict[Any, list[str]] = defaultdict(list)
    for item in subset.items:
        paths[item[1]].append(item[0])
    return [found[0] for found in paths.values() if len(found) == 1]


def warnings(subsets: Sequence[Subset]) -> Iterator[str]:
    """A sentence for each kind of images that a run bears, but hardly learns or tests with."""
    by_name = {(subset.dataset, subset.name): subset for subset in subsets}
    for subset in subsets:
        if subset.name == TRAIN:
            yield from _count(
                f"{subset}: {{}} with one image, which is repeated in a batch, for example {{}}",
                "identities",
                single_images(subset),
            )
        gallery = by_name.get((subset.dataset, GALLERY))
        if subset.name == QUERY and gallery:
            unmatched = unmatched_queries(subset.items, gallery.items)
            # Without any match there is no evaluation, which is a problem.
            if len(unmatched) < len(subset.items):
                yield from _count(
                    f"{subset}: {{}} without a gallery image of the person from another camera, "
                    "which evaluation leaves out, for example {}",
                    "queries",
                    unmatched,
                )


def _count(sentence: str, noun: str, paths: list[str]) -> Iterator[str]:
    if paths:
        yield sentence.format(f"{len(paths)} {noun}", shown(paths[0]))
