"""Which domain every training image belongs to."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from metabin_plugin.config.keys import DOMAIN_RULE
from metabin_plugin.data.images import Source
from metabin_plugin.errors import ConfigError, DatasetError
from metabin_plugin.text import shown

_BYTES = 16
_WHOLE = "all"


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
    the order of their names. Where there are several datasets, identities and cameras that one of
    them numbers get its name in front: they are others than those of the same number elsewhere.

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
        items += _named_apart(name, dataset.train) if len(sources) > 1 else dataset.train
        if kind == "camera":
            labels = [str(item[2]) for item in dataset.train]
        else:
            labels = getattr(dataset, "train_domains", [name] * len(dataset.train))
        keys += [(position, label) for label in labels]
    order = sorted(set(keys))
    number = {key: index for index, key in enumerate(order)}
    return DomainLabels(items, [number[key] for key in keys], _names(order, sources))


def _named_apart(name: str, items: Sequence[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    for path, *labels in items:
        # Texts are what fastreid's own datasets make of them, with the dataset's name in front.
        yield path, *(label if isinstance(label, str) else f"{name}:{label}" for label in labels)


def shared_identities(sources: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, str, set[Any]]]:
    """The labels of identities that two datasets have in common, for each pair that has some.

    Args:
        sources: name and fastreid dataset of each.

    Yields:
        Both names, and the labels. Numbers are no labels in common, see ``label_domains``.
    """
    labels = [
        (name, {item[1] for item in dataset.train if isinstance(item[1], str)})
        for name, dataset in sources
    ]
    for (one, of_one), (other, of_other) in itertools.combinations(labels, 2):
        if of_one & of_other:
            yield one, other, of_one & of_other


def _names(order: Sequence[tuple[int, str]], sources: Sequence[tuple[str, Any]]) -> list[str]:
    uses = Counter(label for _, label in order)
    return [
        label if uses[label] == 1 else f"{sources[position][0]}:{label}"
        for position, label in order
    ]


def require_domains(dataset: Any, who: str, needed: str = "domains") -> None:
    """Refuse training images without domain labels.

    Args:
        dataset: any of fastreid's.
        who: key and value that need them, for the error text.
        needed: the attribute of a ``DomainDataset`` that is looked at.

    Raises:
        DatasetError: there is no such attribute.
    """
    if not hasattr(dataset, needed):
        raise DatasetError(
            f"{who}, but a {type(dataset).__name__} has no domain labels; give the loader a "
            "metabin_plugin.data.DomainDataset"
        )


def require_one_domain_each(dataset: Any) -> None:
    """Refuse training images of an identity in several domains.

    Args:
        dataset: a ``DomainDataset``.

    Raises:
        ConfigError: there is such an identity.
    """
    domains: dict[Any, int] = {}
    for item, domain in zip(dataset.img_items, dataset.domains, strict=True):
        first = domains.setdefault(item[1], domain)
        if first != domain:
            both = " and ".join(shown(dataset.domain_names[number]) for number in (first, domain))
            raise ConfigError(
                "METABIN.BASE_LOSSES has a loss that remembers each identity in one domain, but "
                f'{shown(str(item[1]))} is in {both}; set METABIN.DOMAIN "dataset", or leave '
                "the loss out"
            )


def training_record(dataset: Any) -> dict[str, Any]:
    """Describe a training set, without the folders that it is in.

    Args:
        dataset: a ``DomainDataset``, or any of fastreid's.

    Returns:
        ``people`` and ``domains``, which are numbers of them, ``order``, a digest of the people in
        the order of the classifier's rows, and ``sources``, a list: for each the ``name``, numbers
        of ``images`` and ``people``, and a digest of the file names, people, cameras and domains of
        its images. Plain values.
    """
    domains = getattr(dataset, "domains", [0] * len(dataset.img_items))
    return {
        "people": len(dataset.pids),
        "domains": len(set(domains)),
        "order": _digest(map(str, dataset.pids)),
        "sources": [
            {
                "name": source.label,
                "images": source.size,
                "people": len({dataset.img_items[index][1] for index in indices}),
                "digest": _digest(_described(dataset.img_items[i], domains[i]) for i in indices),
            }
            for source, indices in _parts(dataset)
        ],
    }


def check_record(record: Any) -> None:
    """Refuse what ``training_record`` does not return.

    Raises:
        ValueError: the text names the entry.
    """
    match record:
        case {"people": int(), "domains": int(), "order": str(), "sources": list(sources)}:
            pass
        case _:
            raise ValueError("is not a record of training data")
    for number, source in enumerate(sources):
        match source:
            case {"name": str(), "images": int(), "people": int(), "digest": str()}:
                pass
            case _:
                raise ValueError(f"sources[{number}] is not a record of a data set")


def record_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what two training sets differ.

    Args:
        then: record of the first.
        now: record of the second.

    Returns:
        Clauses; none if every classifier row, batch and domain means the same in both.
    """
    before, after = ([source["name"] for source in r["sources"]] for r in (then, now))
    if before != after:
        return [f"the data sets were {_listed(before)}, and are {_listed(after)}"]
    changes = [
        change
        for pair in zip(then["sources"], now["sources"], strict=True)
        for change in _source_changes(*pair)
    ]
    # Of data sets that are the same, where their people or domains are numbered otherwise.
    if not changes and then != now:
        changes.append(
            f"{then['people']} people in {then['domains']} domains were numbered otherwise than "
            f"the {now['people']} in {now['domains']} are"
        )
    return changes


def is_in_order_of_paths(dataset: Any, names: Sequence[str]) -> bool:
    """Whether the people have the numbers that version 0.1 gave them, by the paths of manifests.

    Args:
        dataset: the training set.
        names: ``DATASETS.NAMES`` of the run of version 0.1.
    """
    sources = getattr(dataset, "sources", [])
    if not sources:
        return True
    if len(sources) != len(names):
        return False
    then: dict[Any, str] = {}
    for name, (source, indices) in zip(names, _parts(dataset), strict=True):
        for index in indices:
            label = dataset.img_items[index][1]
            prefix = f"{source.label}:"
            own = name.lower().endswith(".csv") and str(label).startswith(prefix)
            then[label] = f"{name}:{str(label).removeprefix(prefix)}" if own else str(label)
    return sorted(dataset.pids, key=then.__getitem__) == list(dataset.pids)


def _parts(dataset: Any) -> Iterator[tuple[Source, range]]:
    sources = getattr(dataset, "sources", []) or [Source(_WHOLE, len(dataset.img_items))]
    start = 0
    for source in sources:
        yield source, range(start, start + source.size)
        start += source.size


def _described(item: Sequence[Any], domain: int) -> str:
    path, person, camera = item[:3]
    return f"{os.path.basename(str(path))}\t{person}\t{camera}\t{domain}"


def _digest(texts: Iterator[str]) -> str:
    digest = hashlib.blake2b(digest_size=_BYTES)
    for text in texts:
        digest.update(text.encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()


def _source_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    name = shown(now["name"])
    for what in ("people", "images"):
        if then[what] != now[what]:
            return [f"{name} had {then[what]} {what}, and has {now[what]}"]
    if then["digest"] != now["digest"]:
        return [f"{name} has other people, cameras, domains or file names, or another order"]
    return []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names)) or "none"
