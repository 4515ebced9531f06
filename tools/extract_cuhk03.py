"""Extract the images of CUHK03 from its release, once.

python tools/extract_cuhk03.py RELEASE DATASETS_ROOT [--boxes detected labeled]

RELEASE is cuhk-03.mat or the folder that holds it. The images become
DATASETS_ROOT/cuhk03/images_detected/1_001_1_01.png (camera pair, person, view, image), and
images_labeled likewise. A run that was broken off continues where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import metabin_plugin

metabin_plugin.register()

from metabin_plugin.cli import run_cli
from metabin_plugin.data.benchmark_counts import Count
from metabin_plugin.data.datasets import DG_CUHK03, DG_CUHK03_Labeled
from metabin_plugin.data.datasets.cuhk03 import MAT_FILE, images_folder
from metabin_plugin.data.one_time import complete_folder, write_missing
from metabin_plugin.errors import DatasetError
from one_time_report import GO_ON, report_counts

DATASETS = {dataset.boxes: dataset for dataset in (DG_CUHK03, DG_CUHK03_Labeled)}
IMAGES_PER_VIEW = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Extract, and print the counts beside the published ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release", type=Path, help="cuhk-03.mat or its folder")
    parser.add_argument("datasets_root", type=Path, help="folder that holds all datasets")
    parser.add_argument(
        "--boxes",
        nargs="+",
        choices=list(DATASETS),
        default=list(DATASETS),
        help="which images: in detected or in hand-labelled boxes (both)",
    )
    options = parser.parse_args(arguments)
    release = options.release
    path = release if release.suffix == ".mat" else release / MAT_FILE
    with open_mat(path) as mat:
        for boxes in dict.fromkeys(options.boxes):
            in_release = extract(mat, path, boxes, images_folder(options.datasets_root, boxes))
            report_counts(DATASETS[boxes], options.datasets_root, in_release)


@contextmanager
def open_mat(path: Path) -> Iterator[Any]:
    """Open the release.

    Raises:
        DatasetError: if h5py is not installed, or the file is missing or no HDF5 file.
    """
    try:
        import h5py
    except ImportError:
        raise DatasetError(
            f"{path} can only be read with the package h5py, which is not installed; run "
            '`pip install h5py`, or install the plugin with its extra "datasets".'
        ) from None
    if not path.is_file():
        raise DatasetError(
            f"{path} is missing; it comes in the release cuhk03_release, from the page "
            f'"{DG_CUHK03.release.home_page}".'
        )
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise DatasetError(
            f"{path} is damaged or no MATLAB file of version 7.3 (HDF5); unpack the release again."
        ) from None
    with file:
        yield file


def extract(mat: Any, path: Path, boxes: str, folder: Path) -> Count:
    """Write the images that are not there yet.

    Args:
        mat: the open release.
        path: its path, for the error texts.
        boxes: ``detected`` or ``labeled``.
        folder: the folder to fill.

    Returns:
        Number of identities and images in the release.

    Raises:
        DatasetError: if the release is not laid out as expected, or an image cannot be written.
    """
    people: set[str] = set()
    images = 0
    with complete_folder(folder) as filling:
        for name, pixels in read_images(mat, path, boxes):
            write_missing(filling / name, partial(Image.fromarray(pixels).save, format="PNG"))
            people.add(name[: name.index("_", 2)])
            images += 1
            if images % 2000 == 0:
                print(f"{boxes}: {images:,} images", flush=True)
    return Count(len(people), images)


def read_images(mat: Any, path: Path, boxes: str) -> Iterator[tuple[str, np.ndarray]]:
    """Iterate over file name and pixels, (H, W, 3) of type uint8, of the release's images.

    ``boxes`` is a cell of camera pairs, each a cell of persons by ten images: five of each view.
    HDF5 keeps a cell as references, and every array with its axes reversed.

    Raises:
        DatasetError: if the release is not laid out so.
    """
    if boxes not in mat:
        raise DatasetError(f'{path} has no cell "{boxes}"; is it the file of the release?')
    for pair, pair_reference in enumerate(mat[boxes][()].ravel(), start=1):
        references = mat[pair_reference][()]
        if references.ndim != 2 or len(references) != 2 * IMAGES_PER_VIEW:
            raise DatasetError(
                f"{path}, {boxes}, camera pair {pair}, has shape {references.shape[::-1]} instead "
                f"of persons by {2 * IMAGES_PER_VIEW} images; is it the file of the release?"
            )
        for person, row in enumerate(references.T, start=1):
            for number, reference in enumerate(row, start=1):
                pixels = mat[reference][()]
                # An empty cell is stored as its size, a vector.
                if pixels.ndim == 3:
                    view = 1 if number <= IMAGES_PER_VIEW else 2
                    name = f"{pair}_{person:03d}_{view}_{number:02d}.png"
                    yield name, np.ascontiguousarray(pixels.transpose(2, 1, 0))


if __name__ == "__main__":
    with run_cli(GO_ON):
        main()
