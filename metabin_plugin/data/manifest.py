"""A dataset described by a CSV file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastreid.data.datasets.bases import ImageDataset

from metabin_plugin.data.manifest_rows import Row, read_rows
from metabin_plugin.errors import DatasetError

TrainItem = tuple[str, str, str]
TestItem = tuple[str, int, int]


class ManifestDataset(ImageDataset):
    """Images listed in a CSV file with the columns ``path,pid,camid[,domain][,subset]``.

    Paths are relative to the file's folder; identities (``pid``) and cameras (``camid``) are any
    labels; ``subset`` is ``train`` (the default), ``query`` or ``gallery``. With a ``domain``
    column, an identity or camera is a label *within* its domain. The file is used by naming it in
    ``DATASETS.NAMES`` or ``DATASETS.TESTS``.

    Training labels begin with ``manifest``, so those of two manifests never collide. The
    identities and cameras of query and gallery are numbers, the same in both. fastreid's
    ``combineall`` turns all rows into training rows, an image of several subsets once.

    Args:
        manifest: path of the file: absolute, relative to the working directory, or to ``root``.
        root: the folder that holds all datasets.
        **kwargs: passed on to fastreid's ``ImageDataset``.

    Attributes:
        dataset_name: the file's name without ``.csv``.
        train_domains: domain of each training image: its ``domain``, or ``dataset_name``.

    Raises:
        DatasetError: the file or one of its images is missing, or a line is faulty.
    """

    def __init__(self, manifest: str, root: str = "datasets", **kwargs: Any) -> None:
        self.manifest = manifest
        self.dataset_name = Path(manifest).stem
        self._rows = read_rows(_find(manifest, root))
        self._use_for_training([row for row in self._rows if row.subset == "train"])
        tested = [row for row in self._rows if row.subset != "train"]
        identities = _number((row.domain, row.pid) for row in tested)
        cameras = _number((row.domain, row.camid) for row in tested)
        test: dict[str, list[TestItem]] = {"query": [], "gallery": []}
        for row in tested:
            identity = identities[row.domain, row.pid]
            test[row.subset].append((row.path, identity, cameras[row.domain, row.camid]))
        super().__init__(self._train, test["query"], test["gallery"], **kwargs)

    def combine_all(self) -> None:
        """Make training images of all rows."""
        first: dict[str, Row] = {}
        for row in self._rows:
            first.setdefault(row.path, row)
        self._use_for_training(list(first.values()))

    def _use_for_training(self, rows: list[Row]) -> None:
        self._train = [self._train_item(row) for row in rows]
        self.train_domains = [row.domain or self.dataset_name for row in rows]

    def _train_item(self, row: Row) -> TrainItem:
        prefix = f"{self.manifest}:{row.domain}:"
        return row.path, prefix + row.pid, prefix + row.camid


def _find(manifest: str, root: str) -> Path:
    # Joining an absolute path to the root gives the path itself.
    candidates = (Path(manifest), Path(root) / manifest)
    for path in candidates:
        if path.exists():
            return path
    if candidates[0].is_absolute():
        raise DatasetError(f"Manifest {manifest} does not exist; correct its path in DATASETS.")
    raise DatasetError(
        f"Manifest {manifest} is neither in the working directory nor in the datasets root {root}; "
        "correct its path in DATASETS or set FASTREID_DATASETS."
    )


def _number(labels: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    return {label: number for number, label in enumerate(sorted(set(labels)))}
