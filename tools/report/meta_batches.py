"""The meta-train mini-batches that a training draws (Algorithm 1, lines 8 and 10)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from fastreid.config import CfgNode
from fastreid.data.transforms import build_transforms
from torch import Tensor

from metabin_plugin.data import DomainBalancedSampler, build_reid_train_loader, build_train_set
from metabin_plugin.errors import ConfigError
from metabin_plugin.meta import split_domains

MetaBatch = dict[str, Tensor]


class MetaTrainBatches:
    """The same meta-train mini-batches at every iteration over them.

    Each is drawn as a training draws it: ``METABIN.IMS_PER_BATCH`` augmented images, balanced over
    the domains, of which ``NUM_META_TRAIN`` random domains are kept.

    Args:
        cfg: the config of a training; a negative ``METABIN.SEED`` counts as 0.
        count: how many.

    Attributes:
        num_identities: identities in the training data.

    Raises:
        ConfigError: the training data has too few domains for the split, or a batch cannot be
            balanced over them.
        DatasetError: training data is missing or unusable.
    """

    def __init__(self, cfg: CfgNode, count: int) -> None:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.METABIN.SEED = self._seed = max(cfg.METABIN.SEED, 0)
        cfg.SOLVER.IMS_PER_BATCH = cfg.METABIN.IMS_PER_BATCH or cfg.SOLVER.IMS_PER_BATCH
        self._count, self._num_meta_train = count, cfg.METABIN.NUM_META_TRAIN
        dataset = build_train_set(cfg, build_transforms(cfg, is_train=True))
        self._num_domains, self.num_identities = dataset.num_domains, dataset.num_classes
        if not 1 <= self._num_meta_train < self._num_domains:
            raise ConfigError(
                f"METABIN.NUM_META_TRAIN is {self._num_meta_train} of the {self._num_domains} "
                "domains of DATASETS.NAMES; choose one that leaves a domain to meta-test"
            )
        sampler = DomainBalancedSampler(cfg, dataset)
        self._loader = build_reid_train_loader(cfg, train_set=dataset, sampler=sampler)

    def __iter__(self) -> Iterator[MetaBatch]:
        """Yield ``images`` (N, 3, H, W), RGB from 0 to 255, ``targets`` and ``domains`` (N,)."""
        for number, batch in enumerate(itertools.islice(self._loader, self._count)):
            kept, _ = split_domains(self._num_domains, self._num_meta_train, self._seed, number)
            rows = torch.isin(batch["domains"].cpu(), torch.tensor(kept))
            yield {n: batch[n][rows.to(batch[n].device)] for n in ("images", "targets", "domains")}
