"""What a domain-balanced batch asks of the config and of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metabin_plugin.errors import ConfigError, DatasetError, MetaBINError
from metabin_plugin.text import shown


@dataclass(frozen=True)
class Balance:
    """Sizes of a domain-balanced batch.

    Attributes:
        batch_size: images in the global batch, over all ranks.
        num_instances: images of each identity.
        world_size: number of processes.
        batch_key: config key of ``batch_size``, for the error texts.
    """

    batch_size: int
    num_instances: int
    world_size: int
    batch_key: str

    def slots(self, num_domains: int) -> int:
        """Return the number of identities of each domain in the global batch."""
        return self.batch_size // (num_domains * self.num_instances)

    def check_divisible(self, num_domains: int) -> None:
        """Raise ConfigError unless all ranks get the same number of identities of each domain."""
        if self.num_instances < 1:
            raise ConfigError(
                f"DATALOADER.NUM_INSTANCE is {self.num_instances}; set it to 1 or more."
            )
        unit = num_domains * self.num_instances * self.world_size
        if self.batch_size < 1 or self.batch_size % unit:
            below = self.batch_size // unit * unit
            choices = f"{below} or {below + unit}" if below > 0 else str(unit)
            raise ConfigError(
                f"{self.batch_key} is {self.batch_size}, but it must be a multiple of {unit} = "
                f"{num_domains} domains x {self.num_instances} (DATALOADER.NUM_INSTANCE) x "
                f"{self.world_size} processes; set it to {choices}."
            )

    def check_identities(self, counts: Mapping[str, int]) -> None:
        """Raise an error unless every domain has enough identities for a batch.

        Args:
            counts: number of identities by name of the domain.

        Raises:
            DatasetError: a domain has one identity, so nothing to tell it from.
            ConfigError: a domain has fewer identities than a batch needs.
        """
        for fault in self.small_domains(counts):
            raise fault

    def small_domains(self, counts: Mapping[str, int]) -> Iterator[MetaBINError]:
        """Give the errors of all domains that ``check_identities`` would refuse.

        Args:
            counts: number of identities by name of the domain.
        """
        slots = self.slots(len(counts))
        for name, count in counts.items():
            if count < 2:
                yield too_few_identities(name, count)
            elif count < slots:
                yield ConfigError(
                    f"{self.batch_key} {self.batch_size} with DATALOADER.NUM_INSTANCE "
                    f"{self.num_instances} needs {slots} identities of each of the {len(counts)} "
                    f'domains, but domain "{shown(name)}" has {count}; lower the first or raise '
                    "the second."
                )


def too_few_identities(name: str, count: int) -> DatasetError:
    """The error of a domain with less than two identities, whatever the batch."""
    return DatasetError(
        f'Domain "{shown(name)}" has {count} identity in its training images, but at least 2 are '
        "needed; remove it from DATASETS.NAMES or add images of other people."
    )


def group_images(identities: Sequence[Any], domains: Sequence[Any]) -> list[list[np.ndarray]]:
    """Group image indices by domain and, within it, by identity, both in sorted order.

    Args:
        identities: identity of every image.
        domains: domain of every image.

    Returns:
        For each domain and each of its identities, the indices of its images.

    Raises:
        DatasetError: there are no images, or the two sequences differ in length.
    """
    if len(identities) != len(domains):
        raise DatasetError(
            f"There are {len(identities)} identities but {len(domains)} domains; give one of each "
            "for every image."
        )
    if not len(identities):
        raise DatasetError("There are no training images; name a dataset in DATASETS.NAMES.")
    groups: dict[Any, dict[Any, list[int]]] = {}
    for index, (identity, domain) in enumerate(zip(identities, domains, strict=True)):
        groups.setdefault(domain, {}).setdefault(identity, []).append(index)
    return [
        [np.array(images) for _, images in sorted(groups[domain].items())]
        for domain in sorted(groups)
    ]
