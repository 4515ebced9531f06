"""A dataset described by a CSV file."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastreid.data.datasets.bases import ImageDataset

from metabin_plugin.data.manifest_rows import Row, read_rows, stop
from metabin_plugin.data.splits import NUM_SPLITS, single_shot_split
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import name_on_disk

TrainItem = tuple[str, str, str]
TestItem = tuple[str, int, int]
TestSplit = tuple[list[TestItem], list[TestItem]]


class ManifestDataset(ImageDataset):
    """Images listed in a CSV file with the columns ``path,pid,camid[,domain][,subset]``.

    Paths are relative to the file's folder; identities (``pid``) and cameras (``camid``) are any
    labels; ``subset`` is ``train`` (the default), ``query``, ``gallery`` or ``test``. With a
    ``domain`` column, an identity or camera is a label *within* its domain. The file is used by
    naming it in ``DATASETS.NAMES`` or ``DATASETS.TESTS``.

    Rows of ``query`` and ``gallery`` are one split. From rows of ``test``, which a file has
    instead, ten single-shot splits are drawn (``single_shot_split``): half of the people seen by
    two cameras, one image of each against one from another camera and against all images of people
    seen by one camera only. In a domain with one camera, people with two images are drawn. The
    same rows in the same order always give the same splits.

    Rows of ``pid`` -1 are junk, which is used nowhere. Rows of ``pid`` 0 whose files are named as
    Market-1501's distractors, ``0000_c1s1_000151_01.jpg``, are only ever gallery images; with any
    other file name, 0 is a person (``nobody``).

    Training labels begin with ``dataset_name``, wherever the file is; ``distinguish`` keeps those
    of two manifests of one name apart. The identities and cameras of query and gallery are numbers,
    the same in both. fastreid's ``combineall`` turns all rows into training rows, an image of
    several subsets once.

    Args:
        manifest: path of the file: absolute, relative to the working directory, or to ``root``.
        root: the folder that holds all datasets.
        on_fault: what is called with the fault of each faulty row, which is then left out; by
            default it is raised.
        **kwargs: passed on to fastreid's ``ImageDataset``.

    Attributes:
        file: path of the file that was found.
        dataset_name: the file's name without ``.csv``.
        train_domains: domain of each training image: its ``domain``, or ``dataset_name``.
        splits: one pair of query items and gallery items, or ten; ``query`` and ``gallery`` are
            the first. In the ten, the cameras are 0 for queries and 1 for the gallery.

    Raises:
        DatasetError: the file or one of its images is missing, a line is faulty, or nobody in the
            ``test`` rows has two images that can be compared.
    """

    def __init__(
        self,
        manifest: str,
        root: str = "datasets",
        on_fault: Callable[[DatasetError], None] = stop,
        **kwargs: Any,
    ) -> None:
        self.manifest = manifest
        self.dataset_name = self._label = Path(manifest).stem
        self.file = find_manifest(manifest, root)
        self._rows = read_rows(self.file, on_fault)
        self._use_for_training([row for row in self._rows if row.subset == "train"])
        tested = [row for row in self._rows if row.subset != "train"]
        identities = _number([(row.domain, row.pid) for row in tested])
        cameras = _number([(row.domain, row.camid) for row in tested])
        items = list(zip([row.path for row in tested], identities, cameras, strict=True))
        self.splits = (
            self._draw(tested, items)
            if any(row.subset == "test" for row in tested)
            else [_split_by_column(tested, items)]
        )
        super().__init__(self._train, *self.splits[0], **kwargs)

    def distinguish(self, label: str) -> None:
        """Begin the training labels with another text than ``dataset_name``.

        Args:
            label: the text.
        """
        cut, self._label = len(self._label), label
        self._train = [
            (path, label + person[cut:], label + camera[cut:])
            for path, person, camera in self.train
        ]

    def combine_all(self) -> None:
        """Make training images of all rows but the distractors."""
        first: dict[str, Row] = {}
        for row in self._rows:
            if not row.is_distractor:
                first.setdefault(row.path, row)
        self._use_for_training(list(first.values()))

    def shared_people(self) -> list[str]:
        """Labels of the people that training rows and test rows of the file show, in order."""
        people = [row for row in self._rows if not row.is_distractor]
        trained, tested = (
            {(row.domain, row.pid) for row in people if (row.subset == "train") is train}
            for train in (True, False)
        )
        return [f"{domain}:{pid}" if domain else pid for domain, pid in sorted(trained & tested)]

    def _use_for_training(self, rows: list[Row]) -> None:
        self._train = [self._train_item(row) for row in rows]
        self.train_domains = [row.domain or self.dataset_name for row in rows]

    def _draw(self, rows: list[Row], items: list[TestItem]) -> list[TestSplit]:
        identities, cameras = _comparable(rows)
        splits = []
        for index in range(NUM_SPLITS):
            positions = single_shot_split("manifest", index, identities, cameras)
            query, gallery = ([items[i][:2] for i in side] for side in positions)
            splits.append(([(*q, 0) for q in query], [(*g, 1) for g in gallery]))
        if not splits[0][0]:
            raise DatasetError(
                f"Manifest {self.manifest} has {len(items)} test images, but nobody in them was "
                "seen by two cameras, nor twice by the only one; add images or name a query and a "
                "gallery."
            )
        return splits

    def _train_item(self, row: Row) -> TrainItem:
        prefix = f"{self._label}:{row.domain}:"
        return row.path, prefix + row.pid, prefix + row.camid


def find_manifest(manifest: str, root: str) -> Path:
    """The path of a manifest that is named relative to the working directory or to a root.

    Raises:
        DatasetError: it is in neither.
    """
    path = name_on_disk(manifest)
    # Joining an absolute path to the root gives the path itself.
    candidates = (Path(path), Path(root) / path)
    for candidate in candidates:
        # Unlike Path.exists, this takes names that no file can have.
        if os.path.exists(candidate):
            return candidate
    if candidates[0].is_absolute():
        raise DatasetError(f"Manifest {manifest} does not exist; correct its path in DATASETS.")
    raise DatasetError(
        f"Manifest {manifest} is neither in the working directory nor in the datasets root {root}; "
        "correct its path in DATASETS or set FASTREID_DATASETS."
    )


def _number(labels: Sequence[tuple[str, ...]]) -> list[int]:
    number = {label: index for index, label in enumerate(sorted(set(labels)))}
    return [number[label] for label in labels]


def _comparable(rows: list[Row]) -> tuple[list[int], list[int]]:
    """Numbers of identity and camera by which the splits are drawn.

    Images of one identity and different cameras are a match. In a domain with one camera any two
    are, so each image has its own there; each distractor has an identity of its own.
    """
    of_domain: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if not row.is_distractor:
            of_domain[row.domain].add(row.camid)
    lone = {domain for domain, cameras in of_domain.items() if len(cameras) == 1}
    own = [str(number) if row.is_distractor else "" for number, row in enumerate(rows)]
    shots = [str(number) if row.domain in lone else "" for number, row in enumerate(rows)]
    identities = [(row.domain, row.pid, which) for row, which in zip(rows, own, strict=True)]
    cameras = [(row.domain, row.camid, which) for row, which in zip(rows, shots, strict=True)]
    return _number(identities), _number(cameras)


def _split_by_column(rows: list[Row], items: list[TestItem]) -> TestSplit:
    named = list(zip(rows, items, strict=True))
    return (
        [item for row, item in named if row.subset == "query"],
        [item for row, item in named if row.subset == "gallery"],
    )
