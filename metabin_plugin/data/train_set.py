"""The training images of all source datasets."""

from __future__ import annotations

from typing import Any

from fastreid.utils import comm
from yacs.config import CfgNode

from metabin_plugin.data.domains import DomainDataset, label_domains
from metabin_plugin.data.lookup import build_nonempty_dataset
from metabin_plugin.errors import ConfigError, DatasetError


def build_train_set(cfg: CfgNode, transforms: Any, **kwargs: Any) -> DomainDataset:
    """Join the training images of ``DATASETS.NAMES`` and label their domains.

    Args:
        cfg: a fastreid config; one without ``METABIN.DOMAIN`` has datasets as domains.
        transforms: what turns a PIL image into a tensor.
        **kwargs: passed on to the datasets, ``combineall`` for example.

    Returns:
        The images in fastreid's order.

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
    kind = cfg.METABIN.DOMAIN if "METABIN" in cfg else "dataset"
    train_set = DomainDataset(*label_domains(sources, kind), transform=transforms)
    if train_set.num_classes < 2:
        raise DatasetError(
            "The training images of DATASETS.NAMES show one identity, but at least 2 are needed to "
            "tell people apart; add images of others."
        )
    return train_set
