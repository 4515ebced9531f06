"""The new protocol of CUHK03: 767 persons to train on, 700 to test with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from metabin_plugin.data.datasets.base import TestItem
from metabin_plugin.data.datasets.cuhk03 import image_names, train_labels
from metabin_plugin.data.datasets.own_split import OwnSplit, OwnSplitDataset
from metabin_plugin.data.datasets.scan import Release
from metabin_plugin.data.mat_file import read_mat
from metabin_plugin.errors import DatasetError
from metabin_plugin.text import shown

_HOME_PAGE = "person-re-ranking (CUHK03 new training/testing protocol), Zhun Zhong"
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
        home_page=_HOME_PAGE,
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
        home_page=_HOME_PAGE,
    )


def _names(protocol: Mapping[str, Any], mat: Path, key: str) -> Iterator[str]:
    files = _flat(protocol["filelist"])
    for index in _flat(protocol[key]):
        # MATLAB counts from 1.
        if not isinstance(index, int) or not 1 <= index <= len(files):
            raise DatasetError(
                f"CUHK03: {mat} has {shown(str(index))} in {key}, but its filelist has entries 1 "
                f"to {len(files)}; restore the file."
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
            "images again with tools/extract_cuhk03.py."
        ) from None


def _test_item(path: str, pair: int, person: int, view: int) -> TestItem:
    # Persons of different pairs share numbers, and none of a pair has more than three digits.
    return path, 1000 * pair + person, view - 1
