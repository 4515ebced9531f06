"""Which domain every training image belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from metabin_plugin.config.keys import DOMAIN_RULE


class DomainLabels(NamedTuple):
    """The training images of several datasets, with their domains.

    Attributes:
        img_items: one ``(path, identity, camera)`` for each image.
        domains: domain of each image, an index in [0, K).
        domain_names: names of the K domains.
    """

    img_items: list[Sequence[Any]]
    domains: list[int]
    domain_names: list[str]


def label_domains(sources: Sequence[tuple[str, Any]], kind: str = "dataset") -> DomainLabels:
    """Join the training images of the source datasets and number their domains.

    Domains of different datasets are always different ones. Those of one dataset are numbered in
    the order of their names.

    Args:
        sources: name and fastreid dataset of every entry of ``DATASETS.NAMES``. A dataset with an
            attribute ``train_domains``, the name of the domain of each training image, brings its
            own domains.
        kind: ``"dataset"`` or ``"camera"``, the value of ``METABIN.DOMAIN``.

    Returns:
        The images in the order of the sources, and their domains.

    Raises:
        ConfigError: ``kind`` is not one of the two.
    """
    DOMAIN_RULE.check("METABIN.DOMAIN", kind)
    items: list[Sequence[Any]] = []
    keys: list[tuple[int, str]] = []
    for position, (name, dataset) in enumerate(sources):
        items += dataset.train
        if kind == "camera":
            labels = [str(item[2]) for item in dataset.train]
        else:
            labels = getattr(dataset, "train_domains", [name] * len(dataset.train))
        keys += [(position, label) for label in labels]
    order = sorted(set(keys))
    number = {key: index for index, key in enumerate(order)}
    return DomainLabels(items, [number[key] for key in keys], _names(order, sources))


def _names(order: Sequence[tuple[int, str]], sources: Sequence[tuple[str, Any]]) -> list[str]:
    uses = Counter(label for _, label in order)
    return [
        label if uses[label] == 1 else f"{sources[position][0]}:{label}"
        for position, label in order
    ]
