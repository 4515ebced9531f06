"""What meta-learning hooks share: domain split, inner step size, and rows of a batch by domain."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.engine import DefaultTrainer
from fastreid.utils import comm
from torch import Tensor

from metabin_plugin.data.sampler import stream_seed
from metabin_plugin.errors import ConfigError, DatasetError
from metabin_plugin.meta import split_domains, triangular


class Episodes:
    """Domain split and inner step size of each iteration, functions of the seed and its number.

    Args:
        cfg: the config with the METABIN node.
        trainer: a trainer that already has its data loader.
        batch_size: images in the mini-batch that is split.
        batch_key: the config key of that size, for messages.

    Attributes:
        seed: of the domain splits; what a checkpoint has to hold.

    Raises:
        ConfigError: the domains, or the images of each, do not suffice for the split.
    """

    def __init__(
        self, cfg: CfgNode, trainer: DefaultTrainer, batch_size: int, batch_key: str
    ) -> None:
        node = cfg.METABIN
        self.seed = stream_seed(cfg)
        self.num_domains = trainer.data_loader.dataset.num_domains
        self._num_meta_train = node.NUM_META_TRAIN
        self._inner_lr_range = (node.INNER_LR.LOW, node.INNER_LR.HIGH)
        self._period = max(1, round(node.INNER_LR.PERIOD * trainer.iters_per_epoch))
        self._knows_order = False
        _check_split(self._num_meta_train, self.num_domains, node.DOMAIN)
        _check_sides(self._num_meta_train, self.num_domains, batch_size, batch_key)

    def split(self, iteration: int) -> tuple[list[int], list[int]]:
        """Meta-train and meta-test domains of an iteration (Algorithm 1, line 8)."""
        return split_domains(self.num_domains, self._num_meta_train, self.seed, iteration)

    def inner_lr(self, iteration: int) -> float:
        """beta of Eq. 9 at an iteration; the first one is a step above the low end."""
        return triangular(iteration + 1, self._period, *self._inner_lr_range)

    def check_order(self, labels: Tensor) -> None:
        """Refuse a mini-batch without equally many images of each domain, one domain by one.

        Only the first batch is looked at, for to look is to wait for the device.

        Args:
            labels: domain of each image (N,).

        Raises:
            DatasetError: the images are not in this order.
        """
        if self._knows_order:
            return
        per_domain, rest = divmod(len(labels), self.num_domains)
        expected = torch.arange(self.num_domains).repeat_interleave(per_domain)
        if rest or not torch.equal(labels.cpu(), expected):
            raise DatasetError(
                "the mini-batch for METABIN.HOOKS does not hold equally many images of each "
                "domain, in the order of the domains; draw it with DATALOADER.SAMPLER_TRAIN "
                "DomainBalancedSampler"
            )
        self._knows_order = True

    def select(self, batch: Mapping[str, Any], domains: Collection[int]) -> dict[str, Any]:
        """Rows of some domains.

        Rows are known by their place: to look for labels would be to wait for the device.

        Args:
            batch: a tensor or list of N entries for each name, in the order of the domains.
            domains: numbers of the domains.

        Returns:
            The entries of these domains.
        """
        return {name: self._rows(values, domains) for name, values in batch.items()}

    def _rows(self, values: Any, domains: Collection[int]) -> Any:
        if isinstance(values, Tensor):
            parts = values.chunk(self.num_domains)
            return torch.cat([parts[d] for d in domains])
        size = len(values) // self.num_domains
        return [value for d in domains for value in values[d * size : (d + 1) * size]]


def mean_over_processes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean over the processes, in one collective for all tensors.

    Args:
        tensors: the same names and shapes in each process.
    """
    if comm.get_world_size() == 1:
        return tensors
    mean = torch.cat([tensor.flatten() for tensor in tensors.values()])
    torch.distributed.all_reduce(mean)
    mean /= comm.get_world_size()
    parts = mean.split([tensor.numel() for tensor in tensors.values()])
    return {
        name: part.view_as(tensor)
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }


def _check_split(num_meta_train: int, num_domains: int, domain: str) -> None:
    if num_domains < 2:
        raise ConfigError(
            f"METABIN.DOMAIN {domain!r}: the training data has {num_domains} domain(s), and "
            "meta-learning needs at least 2; add a data set to DATASETS.NAMES, or set "
            'METABIN.DOMAIN "camera" for a single source'
        )
    if not 1 <= num_meta_train < num_domains:
        raise ConfigError(
            f"METABIN.NUM_META_TRAIN is {num_meta_train} of {num_domains} domains; choose 1 to "
            f"{num_domains - 1}, so that meta-train and meta-test both have one"
        )


def _check_sides(num_meta_train: int, num_domains: int, size: int, key: str) -> None:
    per_domain = size // num_domains // comm.get_world_size()
    if min(num_meta_train, num_domains - num_meta_train) * per_domain < 2:
        raise ConfigError(
            f"{key} is {size}, which leaves one image in each process to meta-train or meta-test; "
            "raise it, for both need 2"
        )
