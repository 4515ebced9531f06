"""Results of a target with several splits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

STD_SUFFIX = "_std"


class SplitResults(OrderedDict[str, float]):
    """Mean of each metric over the splits under its name, and its deviation under ``<name>_std``.

    It is as flat as fastreid's table and event storage want it.

    Attributes:
        splits: the metrics of each split.
    """

    splits: Sequence[Mapping[str, float]] = ()

    @property
    def mean(self) -> dict[str, float]:
        """Mean of each metric."""
        return {name: self[name] for name in self.splits[0]}

    @property
    def std(self) -> dict[str, float]:
        """Sample standard deviation (n - 1) of each metric."""
        return {name: self[name + STD_SUFFIX] for name in self.splits[0]}


def over_splits(splits: Sequence[Mapping[str, float]]) -> SplitResults:
    """Summarize the metrics of at least two splits."""
    names = list(splits[0])
    values = {name: np.array([float(split[name]) for split in splits]) for name in names}
    results = SplitResults((name, float(values[name].mean())) for name in names)
    results.update((name + STD_SUFFIX, float(values[name].std(ddof=1))) for name in names)
    results.splits = splits
    return results
