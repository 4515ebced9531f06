"""Common part of the benchmark's source and target datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from fastreid.data.datasets.bases import ImageDataset

from metabin_plugin.data.datasets.scan import Release
from metabin_plugin.data.splits import NUM_SPLITS, Split, cross_camera_split

TrainItem = tuple[str, str, str]
TestItem = tuple[str, int, int]


class Shot(NamedTuple):
    """One image of a target dataset.

    Attributes:
        path: the image file.
        identity: number of the person, as the splits and the evaluation use it.
        camera: 0 if it can only be a query, 1 if it can only be in the gallery; 0 where the
            dataset has no cameras.
        train_identity: name of the person, unique within the dataset.
        train_camera: name of the camera, unique within the dataset.
    """

    path: str
    identity: int
    camera: int
    train_identity: str
    train_camera: str


class BenchmarkDataset(ImageDataset):
    """A dataset whose ``train`` list is all of its images, whatever its own partition.

    Attributes:
        release: what it looks like on disk.
        dataset_name: prefix of its identities and cameras, so that several sources never collide.
    """

    release: ClassVar[Release]
    dataset_name: ClassVar[str]

    def combine_all(self) -> None:
        """Do nothing: ``train`` holds all images already."""

    def train_item(self, path: str, identity: str, camera: str) -> TrainItem:
        """Return a training item with prefixed identity and camera."""
        return path, f"{self.dataset_name}_{identity}", f"{self.dataset_name}_{camera}"


class SourceDataset(BenchmarkDataset):
    """A source domain: training images only.

    Args:
        root: the folder that holds all datasets.
        **kwargs: passed on to fastreid's ``ImageDataset``.

    Raises:
        DatasetError: if a folder is missing or empty, or a file name cannot be parsed.
    """

    def __init__(self, root: str = "datasets", **kwargs: Any) -> None:
        super().__init__(self.read(Path(root).expanduser()), [], [], **kwargs)

    def read(self, root: Path) -> list[TrainItem]:
        """Return all images under the datasets root ``root``."""
        raise NotImplementedError


class TargetDataset(BenchmarkDataset):
    """An unseen target: ten single-shot splits; ``query`` and ``gallery`` are split 0.

    Args:
        root: the folder that holds all datasets.
        **kwargs: passed on to fastreid's ``ImageDataset``.

    Attributes:
        splits: ten pairs of query items and gallery items.

    Raises:
        DatasetError: if a folder is missing or empty, or a file name cannot be parsed.
    """

    splits: list[tuple[list[TestItem], list[TestItem]]]

    def __init__(self, root: str = "datasets", **kwargs: Any) -> None:
        shots = self.read(Path(root).expanduser())
        self.splits = [self._items(shots, index) for index in range(NUM_SPLITS)]
        train = [self.train_item(s.path, s.train_identity, s.train_camera) for s in shots]
        super().__init__(train, *self.splits[0], **kwargs)

    def read(self, root: Path) -> list[Shot]:
        """Return all images under the datasets root ``root``."""
        raise NotImplementedError

    def split(self, shots: list[Shot], index: int) -> Split:
        """Return the positions of the query and gallery shots of split ``index``."""
        raise NotImplementedError

    def _items(self, shots: list[Shot], index: int) -> tuple[list[TestItem], list[TestItem]]:
        query, gallery = self.split(shots, index)
        return (
            [(shots[i].path, shots[i].identity, 0) for i in query],
            [(shots[i].path, shots[i].identity, 1) for i in gallery],
        )


class CrossCameraTarget(TargetDataset):
    """A target whose queries are seen by one camera and whose gallery by another."""

    def split(self, shots: list[Shot], index: int) -> Split:
        """Return half of the paired identities, camera 0 against camera 1."""
        identities = [s.identity for s in shots]
        return cross_camera_split(self.dataset_name, index, identities, [s.camera for s in shots])
