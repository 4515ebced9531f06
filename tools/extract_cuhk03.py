"""Extract the images of CUHK03 from its release, once.

python tools/extract_cuhk03.py RELEASE DATASETS_ROOT [--boxes detected labeled]

RELEASE is cuhk-03.mat or the folder that holds it. The images become
DATASETS_ROOT/cuhk03/images_detected/1_001_1_01.png (camera pair, person, view, image), and
images_labeled likewise. A run that was broken off continues where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import metabin_plugin
from metabin_plugin.cli.arguments import answer_help
from metabin_plugin.cli.outcome import run_cli

BOXES = ("detected", "labeled")


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("release", type=Path, help="cuhk-03.mat or its folder")
    parser.add_argument("datasets_root", type=Path, help="folder that holds all datasets")
    parser.add_argument(
        "--boxes",
        nargs="+",
        choices=BOXES,
        default=BOXES,
        help="which images: in detected or in hand-labelled boxes (both)",
    )


if __name__ == "__main__":
    # Before PyTorch is loaded, which takes seconds.
    answer_help(describe, __doc__.splitlines()[0])

metabin_plugin.register()

from PIL import Image

from metabin_plugin.data.benchmark_counts import Count
from metabin_plugin.data.datasets import DG_CUHK03, DG_CUHK03_Labeled
from metabin_plugin.data.datasets.cuhk import (
    GO_ON,
    MAT_FILE,
    complete_folder,
    images_folder,
    report_counts,
    write_missing,
)
from metabin_plugin.data.datasets.mat_files import read_cuhk03

DATASETS = dict(zip(BOXES, (DG_CUHK03, DG_CUHK03_Labeled), strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Extract, and print the counts beside the published ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    describe(parser)
    options = parser.parse_args(arguments)
    release = options.release
    path = release if release.suffix == ".mat" else release / MAT_FILE
    for boxes in dict.fromkeys(options.boxes):
        in_release = extract(path, boxes, images_folder(options.datasets_root, boxes))
        report_counts(DATASETS[boxes], options.datasets_root, in_release)


def extract(path: Path, boxes: str, folder: Path) -> Count:
    """Write the images that are not there yet.

    Args:
        path: ``cuhk-03.mat``.
        boxes: ``detected`` or ``labeled``.
        folder: the folder to fill.

    Returns:
        Number of identities and images in the release.

    Raises:
        DatasetError: if the release cannot be read or is not laid out as expected, or an image
            cannot be written.
    """
    people: set[str] = set()
    images = 0
    with complete_folder(folder) as filling:
        for name, pixels in read_cuhk03(path, boxes, DG_CUHK03.release.home_page):
            write_missing(filling / name, partial(Image.fromarray(pixels).save, format="PNG"))
            people.add(name[: name.index("_", 2)])
            images += 1
            if images % 2000 == 0:
                print(f"{boxes}: {images:,} images", flush=True)
    return Count(len(people), images)


if __name__ == "__main__":
    with run_cli(GO_ON):
        main()
