"""The training images of all source datasets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastreid.utils import comm
from yacs.config import CfgNode

from metabin_plugin.data.domains import DomainDataset, Source, label_domains
from metabin_plugin.data.lookup import build_nonempty_dataset
from metabin_plugin.data.manifest import ManifestDataset
from metabin_plugin.errors import ConfigError, DatasetError


def build_train_set(cfg: CfgNode, transforms: Any, **kwargs: Any) -> DomainDataset:
    """Join the training images of ``DATASETS.NAMES`` and label their domains.

    Args:
        cfg: a fastreid config; one without ``METABIN.DOMAIN`` has datasets as domains.
        transforms: what turns a PIL image into a tensor.
        **kwargs: passed on to the datasets, ``combineall`` for example.

    Returns:
        The images in fastreid's order. Their labels do not depend on where the data are.

    Raises:
        DatasetError: a dataset is unknown, missing or without training images, or all images are of
            one identity.
        ConfigError: no dataset is named, or ``METABIN.DOMAIN`` has an unknown value.
    """
    if not cfg.DATASETS.NAMES:
        raise ConfigError("DATASETS.NAMES is empty; name at least one dataset to train on.")
    sources = []
    for name in cfg.DATASETS.NAMES:
        dataset = build_nonempty_dataset(name, ["train"], key="DATASETS.NAMES", **kwargs)
        if comm.is_main_process():
            dataset.show_train()
        sources.append((name, dataset))
    labels = _distinguish(sources)
    kind = cfg.METABIN.DOMAIN if "METABIN" in cfg else "dataset"
    train_set = DomainDataset(*label_domains(sources, kind), transform=transforms)
    train_set.sources = [
        Source(label, len(dataset.train))
        for label, (_, dataset) in zip(labels, sources, strict=True)
    ]
    if train_set.num_classes < 2:
        raise DatasetError(
            "The training images of DATASETS.NAMES show one identity, but at least 2 are needed to "
            "tell people apart; add images of others."
        )
    return train_set


def _distinguish(sources: Sequence[tuple[str, Any]]) -> list[str]:
    """Keep manifests apart that have the same name in different folders; the label of each source.

    Their number in ``DATASETS.NAMES`` does it, as folders may be renamed.
    """
    labels: dict[Path, str] = {}
    taken = {dataset.dataset_name for _, dataset in sources if isinstance(dataset, ManifestDataset)}
    first: set[str] = set()
    found = []
    for name, dataset in sources:
        if not isinstance(dataset, ManifestDataset):
            found.append(name)
            continue
        # One that is named twice has the same people twice.
        file, stem = dataset.file.resolve(), dataset.dataset_name
        if file not in labels:
            numbered = (f"{stem}#{number}" for number in itertools.count(2))
            labels[file] = next(n for n in numbered if n not in taken) if stem in first else stem
            first.add(stem)
            taken.add(labels[file])
        dataset.distinguish(labels[file])
        found.append(labels[file])
    return found
