"""Features of images, by a trained network as the evaluation takes them; and which images."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.data.transforms import build_transforms
from fastreid.evaluation import inference_context
from PIL import Image

from metabin_plugin.config.reading import read_yaml
from metabin_plugin.config.table import check_types
from metabin_plugin.data import ReadableDataset, build_reid_test_loader
from metabin_plugin.data.build import build_nonempty_dataset, datasets_root
from metabin_plugin.data.images import find_files
from metabin_plugin.data.manifest import is_manifest, read_rows
from metabin_plugin.engine import read_config, trained_network
from metabin_plugin.errors import ConfigError, DatasetError, SearchError
from metabin_plugin.evaluation import evaluated_features
from metabin_plugin.files import open_regular, reason
from metabin_plugin.text import shown

# Where and how fast features are computed is no part of what they are.
_IRRELEVANT = (
    *("MODEL.DEVICE", "cpu", "TEST.IMS_PER_BATCH", 1, "DATALOADER.NUM_WORKERS", 0),
    *("OUTPUT_DIR", "", "METABIN.COMPILE", False, "METABIN.CHANNELS_LAST", False),
)


class Describer:
    """Turns images into features.

    The images are resized and the features taken (``MODEL.HEADS.NECK_FEAT``) as in evaluation,
    with ``TEST.FLIP`` as the mean of the image's and its mirror image's.

    Args:
        cfg: a config with ``MODEL.WEIGHTS``.

    Raises:
        ConfigError: ``MODEL.WEIGHTS`` is empty, or the config cannot work.
        WeightsError: the file is damaged or does not fit.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg
        self._network = trained_network(cfg, "MODEL.WEIGHTS is empty")
        self._transform = build_transforms(cfg, is_train=False)

    def describe(
        self, paths: Sequence[str], skip_unreadable: bool = False
    ) -> tuple[np.ndarray, list[str]]:
        """Features of image files.

        Args:
            paths: the files.
            skip_unreadable: whether to go on after one that cannot be read.

        Returns:
            Features (N, D), float32, not normalized, in the order of the files; and a text for
            each, "" or the sentence that says why it cannot be read. Then its feature is NaN.

        Raises:
            DatasetError: an image cannot be read, and is not to be skipped.
        """
        images = _Images(paths, self._transform, skip_unreadable)
        loader, _ = build_reid_test_loader(self._cfg, test_set=images)
        features, faults = [], []
        with inference_context(self._network), torch.no_grad():
            for batch in loader:
                faults += batch["faults"]
                features.append(evaluated_features(self._cfg, self._network, batch))
        rows = torch.cat(features).numpy()
        rows[[fault != "" for fault in faults]] = np.nan
        return rows, faults

    def probe(self) -> np.ndarray:
        """The feature (D,) of a fixed image, which tells this network from others."""
        batch = {"images": self._transform(_coloured_blocks())[None]}
        with inference_context(self._network), torch.no_grad():
            return evaluated_features(self._cfg, self._network, batch)[0].numpy()


class _Images(ReadableDataset):
    """Images whose faults can be data, with a black image in the place of the one that has it."""

    def __init__(self, paths: Sequence[str], transform: Any, skip_unreadable: bool) -> None:
        super().__init__([(path, 0, 0) for path in paths], transform, relabel=False)
        self._skip = skip_unreadable

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return {**super().__getitem__(index), "faults": ""}
        except DatasetError as error:
            if not self._skip:
                raise
            black = self.transform(Image.new("RGB", (64, 128)))
            empty = {"targets": 0, "camids": 0, "img_paths": self.img_items[index][0]}
            return {"images": black, **empty, "faults": str(error)}


def _coloured_blocks() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64, 128), Image.Resampling.BILINEAR)


def find_gallery(name: str) -> tuple[str, list[str], list[str]]:
    """The images of a gallery.

    Args:
        name: a folder, with all below it; a manifest, of which the rows of subset ``gallery`` are
            taken, or all if there are none; or a registered data set, of which its gallery is.

    Returns:
        A folder; the paths of the images relative to it, each once, or absolute ones where the
        images are on several drives; and the camera of each image, none where they are not known.
        A manifest names cameras, a data set numbers them.

    Raises:
        SearchError: the folder holds no image.
        DatasetError: there is no such data set, or its files are not there.
    """
    if os.path.isdir(name):
        return os.path.abspath(name), find_images(name), []
    if is_manifest(name):
        found = _manifest_images(name, "gallery")
    else:
        dataset = build_nonempty_dataset(name, ["gallery"], key="--gallery")
        found = dict(zip(*cameras_of(name, dataset, dataset.gallery), strict=True))
    cameras = list(found.values())
    cameras = cameras if all(cameras) else []
    paths = [_absolute(path) for path in found]
    folders = {os.path.dirname(path) for path in paths}
    try:
        folder = os.path.commonpath(folders)
    except ValueError:
        return min(folders), paths, cameras
    return folder, [os.path.relpath(path, folder) for path in paths], cameras


def _manifest_images(name: str, subset: str) -> dict[str, str]:
    """Paths and cameras of a manifest's images of a subset, or of all if it has none of it."""
    path = Path(name) if os.path.exists(name) else Path(datasets_root(), name)
    rows = read_rows(path)
    rows = [row for row in rows if row.subset == subset] or rows
    return {row.path: row.camera for row in rows}


def cameras_of(
    name: str, dataset: Any, items: Sequence[Sequence[Any]]
) -> tuple[list[str], list[str]]:
    """The paths and the cameras of a data set's images.

    Args:
        name: of the data set, or of a manifest, which says what the cameras are called.
        dataset: what it was built to.
        items: paths, identities and numbers of cameras.

    Returns:
        A path and the name of a camera for each image, "" where the data set has none.
    """
    paths = [item[0] for item in items]
    if is_manifest(name):
        called = {row.path: row.camera for row in read_rows(dataset.file)}
        return paths, [called[path] for path in paths]
    has_cameras = getattr(dataset, "has_cameras", True)
    return paths, [str(item[2]) if has_cameras else "" for item in items]


def _absolute(path: str) -> str:
    # The operating system goes up from where a link leads to, not from where it is.
    if os.pardir in Path(path).parts:
        folder, name = os.path.split(path)
        return os.path.join(os.path.realpath(folder), name)
    return os.path.abspath(path)


def find_queries(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The images that are asked for.

    Args:
        names: files; folders, with all images below them; or manifests, of which the rows of subset
            ``query`` are taken, or all if there are none.

    Returns:
        The paths, and the camera of each image; "" where no manifest says it.

    Raises:
        SearchError: there is no such file, or a folder holds no image.
        DatasetError: a manifest cannot be used.
    """
    found: list[tuple[str, str]] = []
    for name in names:
        if os.path.isdir(name):
            found += [(os.path.join(name, path), "") for path in find_images(name)]
        elif not os.path.isfile(name):
            raise SearchError(f"there is no image or folder {shown(name)}; correct its path")
        elif is_manifest(name):
            found += _manifest_images(name, "query").items()
        else:
            found.append((name, ""))
    return [path for path, _ in found], [camera for _, camera in found]


def find_images(folder: str) -> list[str]:
    """All files below a folder with the suffix of an image format, in the order of their paths.

    Hidden files and folders are left out; photographs in formats that Pillow does not read, and
    links to folders that are read without them, are too, but said to be (``find_files``).

    Args:
        folder: a folder.

    Returns:
        Paths relative to it.

    Raises:
        SearchError: there is none, or a folder cannot be read.
    """
    try:
        found = find_files(folder)
    except OSError as error:
        raise SearchError(
            f"folder {shown(str(error.filename))} cannot be read ({error.strerror}); make it "
            "readable"
        ) from error
    if found.left_out():
        print(found.left_out(), file=sys.stderr)
    if not found.images:
        raise SearchError(f"folder {shown(folder)} holds no image; name another one")
    return found.images


def kept_config(cfg: CfgNode) -> str:
    """The text that an index keeps: YAML, with the whole path of the weights."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = os.path.abspath(cfg.MODEL.WEIGHTS)
    return cfg.dump()


def restored_config(text: str, options: Sequence[str]) -> CfgNode:
    """The config that an index has kept, with changes.

    Args:
        text: of ``kept_config``.
        options: keys and values in turn.

    Raises:
        ConfigError: an option cannot be read, or there are no weights at the path any more.
        SearchError: the text is no config of this version.
    """
    try:
        kept = CfgNode(read_yaml(text))
        cfg = get_cfg()
        cfg.merge_from_other_cfg(kept)
        check_types(cfg, get_cfg())
        # Each is a process, and an index may come from anyone.
        workers = cfg.DATALOADER.NUM_WORKERS, get_cfg().DATALOADER.NUM_WORKERS
        cfg.DATALOADER.NUM_WORKERS = min(workers)
    # A damaged or foreign config has as many types of errors as ways to be wrong.
    except Exception as error:
        raise SearchError(
            f"the index was made with another version of the config ({shown(reason(error))});"
            " index the gallery anew"
        ) from error
    read_config("", options)
    cfg.merge_from_list(list(options))
    if not os.path.isfile(cfg.MODEL.WEIGHTS):
        raise ConfigError(
            f"MODEL.WEIGHTS {shown(cfg.MODEL.WEIGHTS)} of the index is not there any more; "
            "add --opts MODEL.WEIGHTS and its path now"
        )
    return cfg


def feature_source(cfg: CfgNode) -> list[str]:
    """Texts that are the same as long as a config gives the same features.

    Args:
        cfg: its ``MODEL.WEIGHTS`` is a file.
    """
    same = cfg.clone()
    same.defrost()
    same.merge_from_list(list(_IRRELEVANT))
    same.MODEL.WEIGHTS = ""
    with open_regular(cfg.MODEL.WEIGHTS) as file:
        summed = hashlib.sha256()
        while chunk := file.read(1 << 20):
            summed.update(chunk)
    return [same.dump(), summed.hexdigest()]
