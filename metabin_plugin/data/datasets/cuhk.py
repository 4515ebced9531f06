"""CUHK02, CUHK03 and CUHK-SYSU, and the folders of images that are made of the last two once.

What makes them, ``tools/extract_cuhk03.py`` and ``tools/crop_cuhk_sysu.py``, may be broken off and
started again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from metabin_plugin.data.benchmark_counts import PUBLISHED, Count
from metabin_plugin.data.datasets.base import (
    OwnSplit,
    OwnSplitDataset,
    Release,
    SourceDataset,
    TestItem,
    TrainItem,
    require_images,
    scan_folder,
)
from metabin_plugin.data.datasets.mat_files import read_mat
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import replace_file
from metabin_plugin.text import shown

# How the user gets the images that a tool had not made.
GO_ON = "the same command goes on where it stopped"


class DG_CUHK02(SourceDataset):
    """All images of CUHK02 (1,816 identities, 7,264 images).

    Persons are numbered anew in each camera pair, so pair and number together are the identity.

    Reference: Li and Wang, Locally Aligned Feature Transforms across Views, CVPR 2013.
    """

    release = Release(
        title="CUHK02",
        layout="cuhk02/Dataset/P1/cam1/001_045.png (P1 to P5, cam1 and cam2)",
        home_page="CUHK Person Re-identification Datasets, Xiaogang Wang",
    )
    dataset_name = "cuhk02"

    def read(self, root: Path) -> list[TrainItem]:
        """Return the images of the ten folders."""
        pattern = re.compile(r"(\d+)_")
        items = []
        for pair in range(1, 6):
            for camera in (1, 2):
                folder = root / "cuhk02" / "Dataset" / f"P{pair}" / f"cam{camera}"
                for path, match in scan_folder(self.release, folder, ".png", pattern):
                    identity = f"P{pair}_{int(match[1])}"
                    items.append(self.train_item(path, identity, f"P{pair}_cam{camera}"))
        return items


_CUHK02_HOME = "CUHK Person Re-identification Datasets, Xiaogang Wang"

# Where people unpack the release under the datasets root.
_CUHK03_ORIGINALS = ("cuhk03/cuhk03_release", "cuhk03", "cuhk03_release")
MAT_FILE = "cuhk-03.mat"
_CUHK03_NAME = re.compile(r"(\d+)_(\d+)_([12])_\d+\.")


def images_folder(root: Path, boxes: str) -> Path:
    """Folder of the extracted ``detected`` or ``labeled`` images."""
    return root / "cuhk03" / f"images_{boxes}"


def image_names(release: Release, root: Path, boxes: str) -> Iterator[tuple[str, int, int, int]]:
    """Iterate over path, camera pair, person and view (1 or 2) of the extracted images.

    Raises:
        DatasetError: if they are not extracted, or a name cannot be parsed.
    """
    folder = images_folder(root, boxes)
    originals = (root / place / MAT_FILE for place in _CUHK03_ORIGINALS)
    require_images(release, folder, originals, "extract_cuhk03.py", root)
    for path, match in scan_folder(release, folder, ".png", _CUHK03_NAME):
        pair, person, view = (int(number) for number in match.groups())
        yield path, pair, person, view


def train_labels(pair: int, person: int, view: int) -> tuple[str, str]:
    """Name of a person, who is numbered anew in each camera pair, and of the camera."""
    return f"P{pair}_{person}", f"P{pair}_cam{view}"


class DG_CUHK03(SourceDataset):
    """All detected images of CUHK03 (1,467 identities, 14,097 images).

    They come from ``cuhk-03.mat`` by ``tools/extract_cuhk03.py``. Persons are numbered anew in
    each camera pair, so pair and number together are the identity.

    Reference: Li et al., DeepReID: Deep Filter Pairing Neural Network, CVPR 2014.
    """

    boxes: ClassVar[str] = "detected"
    release = Release(
        title="CUHK03",
        layout="cuhk03/images_detected/1_001_1_01.png (pair_person_view_image)",
        home_page=_CUHK02_HOME,
    )
    dataset_name = "cuhk03"

    def read(self, root: Path) -> list[TrainItem]:
        """Return the images of the extracted folder."""
        return [
            self.train_item(path, *train_labels(*numbers))
            for path, *numbers in image_names(self.release, root, self.boxes)
        ]


class DG_CUHK03_Labeled(DG_CUHK03):
    """All images of CUHK03 in hand-labelled boxes (1,467 identities, 14,096 images).

    The persons are those of ``DG_CUHK03``.

    Reference: Li et al., DeepReID: Deep Filter Pairing Neural Network, CVPR 2014.
    """

    boxes = "labeled"
    release = Release(
        title="CUHK03 (labelled boxes)",
        layout="cuhk03/images_labeled/1_001_1_01.png (pair_person_view_image)",
        home_page=_CUHK02_HOME,
    )


_CUHK03_HOME = "person-re-ranking (CUHK03 new training/testing protocol), Zhun Zhong"
_LISTS = ("train_idx", "query_idx", "gallery_idx")


class DG_CUHK03_Split(OwnSplitDataset):
    """CUHK03, detected boxes, in the new protocol.

    767 identities with 7,365 images to train on; 1,400 queries of the 700 others against 5,332
    gallery images.

    Reference: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding,
    CVPR 2017.
    """

    boxes: ClassVar[str] = "detected"
    release = Release(
        title="CUHK03 (new protocol)",
        layout="cuhk03/images_detected and cuhk03/cuhk03_new_protocol_config_detected.mat",
        home_page=_CUHK03_HOME,
    )
    dataset_name = "cuhk03"

    def read(self, root: Path) -> OwnSplit:
        """Return the images in the three lists of the protocol's file."""
        images = {
            os.path.basename(path): (path, pair, person, view)
            for path, pair, person, view in image_names(self.release, root, self.boxes)
        }
        mat = root / "cuhk03" / f"cuhk03_new_protocol_config_{self.boxes}.mat"
        protocol = read_mat(self.release, mat, ("filelist", *_LISTS))
        train, query, gallery = (
            [_image(images, mat, name) for name in _names(protocol, mat, key)] for key in _LISTS
        )
        return OwnSplit(
            [self.train_item(path, *train_labels(*numbers)) for path, *numbers in train],
            [_test_item(*image) for image in query],
            [_test_item(*image) for image in gallery],
        )


class DG_CUHK03_Labeled_Split(DG_CUHK03_Split):
    """CUHK03, hand-labelled boxes, in the new protocol.

    767 identities with 7,368 images to train on; 1,400 queries of the 700 others against 5,328
    gallery images.

    Reference: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding,
    CVPR 2017.
    """

    boxes = "labeled"
    release = Release(
        title="CUHK03 (new protocol, labelled boxes)",
        layout="cuhk03/images_labeled and cuhk03/cuhk03_new_protocol_config_labeled.mat",
        home_page=_CUHK03_HOME,
    )


def _names(protocol: Mapping[str, Any], mat: Path, key: str) -> Iterator[str]:
    files = _flat(protocol["filelist"])
    for index in _flat(protocol[key]):
        # MATLAB counts from 1.
        if not isinstance(index, int) or not 1 <= index <= len(files):
            raise DatasetError(
                f"CUHK03: {mat} has {shown(str(index))} in {key}, but its filelist has entries 1 "
                f"to {len(files)}; restore the file"
            )
        yield str(files[index - 1])


def _flat(value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    return [entry for part in value for entry in _flat(part)]


def _image(
    images: Mapping[str, tuple[str, int, int, int]], mat: Path, name: str
) -> tuple[str, int, int, int]:
    try:
        return images[name]
    except KeyError:
        raise DatasetError(
            f"CUHK03: {mat} lists the image {shown(name)}, which was not extracted; extract the "
            "images again with tools/extract_cuhk03.py"
        ) from None


def _test_item(path: str, pair: int, person: int, view: int) -> TestItem:
    # Persons of different pairs share numbers, and none of a pair has more than three digits.
    return path, 1000 * pair + person, view - 1


# Where people unpack the release under the datasets root.
_CUHK_SYSU_ORIGINALS = ("cuhk_sysu", "cuhk_sysu/dataset", "CUHK-SYSU", "CUHK-SYSU/dataset")
ANNOTATION = "annotation/Person.mat"


class DG_CUHKSYSU(SourceDataset):
    """All person crops of CUHK-SYSU (11,934 identities, 34,574 images).

    They are the boxes of all persons in ``annotation/Person.mat``, training and test persons, cut
    out by ``tools/crop_cuhk_sysu.py``. The scenes have no camera labels: all images get one camera.
    Negative identities (people that the annotators left unlabelled) are left out.

    Reference: Xiao et al., Joint Detection and Identification Feature Learning for Person Search,
    CVPR 2017.
    """

    release = Release(
        title="CUHK-SYSU",
        layout="cuhk_sysu/cropped_images/p1_s12_1.jpg (person, scene, number)",
        home_page="CUHK-SYSU Person Search Dataset, Shuang Li and Tong Xiao",
    )
    dataset_name = "cuhksysu"

    def read(self, root: Path) -> list[TrainItem]:
        """Return the crops of the one folder."""
        pattern = re.compile(r"p(-?\d+)_s(\d+)")
        folder = crops_folder(root)
        releases = (root / place for place in _CUHK_SYSU_ORIGINALS)
        originals = (place for place in releases if (place / ANNOTATION).exists())
        require_images(self.release, folder, originals, "crop_cuhk_sysu.py", root)
        matches = scan_folder(self.release, folder, ".jpg", pattern)
        people = ((path, int(match[1])) for path, match in matches)
        return [self.train_item(path, str(p), "0") for path, p in people if p >= 0]


def crops_folder(root: Path) -> Path:
    """Folder of the crops under the datasets root ``root``."""
    return root / "cuhk_sysu" / "cropped_images"


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Give a folder under another name to fill, and rename it when the block is done.

    If the block ends with an error, what it has written stays, and the next call gives it again.

    Args:
        folder: the folder to make; its parents are made too.

    Yields:
        The folder to fill: ``folder`` itself if it is there already.

    Raises:
        DatasetError: if the folder cannot be made.
    """
    filling = folder if folder.is_dir() else folder.with_name(f"{folder.name}.partial")
    with _explained(folder):
        filling.mkdir(parents=True, exist_ok=True)
    yield filling
    if filling != folder:
        with _explained(folder):
            os.replace(filling, folder)


def write_missing(path: Path, write: Callable[[BinaryIO], object]) -> bool:
    """Write a file that is not there yet, complete or not at all.

    Args:
        path: the file.
        write: writes the content into the open binary file that it is given.

    Returns:
        Whether it was missing.

    Raises:
        DatasetError: if it cannot be written.
    """
    if path.exists():
        return False
    with _explained(path):
        replace_file(path, write)
    return True


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an operating system's error of the block into a sentence about ``path``."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be written ({error.strerror or error}); free the place or name "
            "another folder, and start again: what is there is kept"
        ) from error


def report_counts(dataset: type[SourceDataset], datasets_root: Path, in_release: Count) -> None:
    """Print what the dataset finds beside what was in the release and what was published."""
    train = dataset(root=str(datasets_root)).train
    found = Count(len({item[1] for item in train}), len(train))
    published = PUBLISHED[dataset.__name__]["train"]
    print(f"{dataset.__name__}: {_counted(found)} (published: {_counted(published)})")
    if found != in_release:
        print(
            f"warning: the release holds {_counted(in_release)}; remove the others from the folder"
        )
    elif found != published:
        print("warning: the release is not the one of the benchmark, or not complete")


def _counted(count: Count) -> str:
    return f"{count.identities:,} identities, {count.images:,} images"
