"""The ten partitions that come with GRID."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metabin_plugin.data.datasets.scan import Release
from metabin_plugin.data.mat_file import read_mat
from metabin_plugin.data.splits import NUM_SPLITS
from metabin_plugin.errors import DatasetError


def read_partitions(release: Release, path: Path, paired: Sequence[int]) -> list[list[int]]:
    """Read GRID's own partitions of the paired identities into training and testing.

    Args:
        release: GRID, for the error texts.
        path: ``features_and_partitions.mat``. Its ``trainIdxAll`` is a cell array with a struct
            for each partition, whose ``personIdx`` are the training identities.
        paired: the identities that both sides have.

    Returns:
        For each partition the identities that are not for training, in ascending order.

    Raises:
        DatasetError: the file cannot be read or has not ten partitions of these identities.
    """
    cells = read_mat(release, path, ["trainIdxAll"])["trainIdxAll"]
    try:
        partitions = [{int(person) for person in cell["personIdx"]} for cell in cells]
    # The variable is not of the shape it has in the release.
    except (IndexError, KeyError, OverflowError, TypeError, ValueError):
        partitions = []
    people = set(paired)
    if len(partitions) != NUM_SPLITS or not all(part < people for part in partitions):
        raise DatasetError(
            f"{release.title}: {path} does not part the {len(people)} pairs of its images in ten "
            "ways; restore the file or the images, or remove it to use the seeded splits."
        )
    return [sorted(people - part) for part in partitions]
