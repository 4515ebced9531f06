"""Cut the persons of CUHK-SYSU out of its scenes, once.

python tools/crop_cuhk_sysu.py RELEASE DATASETS_ROOT

RELEASE is the folder that holds annotation/Person.mat and Image/SSM. All boxes of all persons in
Person.mat count, those of training and of test persons, as in the paper's benchmark. The crops
become DATASETS_ROOT/cuhk_sysu/cropped_images/p1_s12_1.jpg (person, scene, number of the box). A
run that was broken off continues where it stopped.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import metabin_plugin
from metabin_plugin.cli.arguments import answer_help
from metabin_plugin.cli.outcome import run_cli


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("release", type=Path, help="folder with annotation and Image/SSM")
    parser.add_argument("datasets_root", type=Path, help="folder that holds all datasets")


if __name__ == "__main__":
    # Before PyTorch is loaded, which takes seconds.
    answer_help(describe, __doc__.splitlines()[0])

metabin_plugin.register()

from PIL import Image

from metabin_plugin.data.benchmark_counts import Count
from metabin_plugin.data.datasets import DG_CUHKSYSU
from metabin_plugin.data.datasets.cuhk import (
    ANNOTATION,
    GO_ON,
    complete_folder,
    crops_folder,
    report_counts,
    write_missing,
)
from metabin_plugin.data.datasets.mat_files import read_mat
from metabin_plugin.data.images import open_image
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import reason
from metabin_plugin.text import shown

SCENES = "Image/SSM"
QUALITY = 95

_PERSON = re.compile(r"p(\d+)")
_SCENE = re.compile(r"s(\d+)\.jpg")


class Box(NamedTuple):
    """One appearance of a person.

    Attributes:
        name: file name of the crop.
        person: number of the person.
        left, top, width, height: the box in pixels; the scene's first pixel is (0, 0).
    """

    name: str
    person: int
    left: int
    top: int
    width: int
    height: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Crop, and print the counts beside the published ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    describe(parser)
    options = parser.parse_args(arguments)
    boxes = read_boxes(options.release / ANNOTATION)
    crop(boxes, options.release / SCENES, crops_folder(options.datasets_root))
    everybody = [box for found in boxes.values() for box in found]
    in_release = Count(len({box.person for box in everybody}), len(everybody))
    report_counts(DG_CUHKSYSU, options.datasets_root, in_release)


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """Read all persons' boxes.

    Args:
        path: Person.mat.

    Returns:
        The boxes by file name of the scene, so that each scene is decoded once.

    Raises:
        DatasetError: if the file is missing, unreadable or not laid out as expected.
    """
    found = read_mat(DG_CUHKSYSU.release, path, ["Person"])
    boxes = defaultdict(list)
    try:
        for scene, box in _boxes(found["Person"]):
            boxes[scene].append(box)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path} does not hold persons with idname and scene (imname, idlocate); restore it "
            f"from the release, from the page {DG_CUHKSYSU.release.home_page!r}"
        ) from error
    return boxes


def _boxes(people: Any) -> Iterator[tuple[str, Box]]:
    for person in _structs(people):
        number = _number(_PERSON, person["idname"])
        for count, scene in enumerate(_structs(person["scene"]), start=1):
            name = f"p{number}_s{_number(_SCENE, scene['imname'])}_{count}.jpg"
            left, top, width, height = (int(value) for value in scene["idlocate"])
            yield scene["imname"], Box(name, number, left, top, width, height)


def _structs(array: Any) -> Iterable[Mapping[str, Any]]:
    # A struct array with one entry comes as the entry itself.
    return [array] if isinstance(array, dict) else array


def _number(pattern: re.Pattern[str], name: str) -> int:
    match = pattern.fullmatch(name)
    if match is None:
        raise ValueError(name)
    return int(match[1])


def crop(boxes: Mapping[str, Sequence[Box]], scenes: Path, folder: Path) -> None:
    """Write the crops that are not there yet.

    Args:
        boxes: the boxes by file name of the scene.
        scenes: folder of the scenes.
        folder: the folder to fill.

    Raises:
        DatasetError: if a scene cannot be read, a box lies outside it, or a crop cannot be written.
    """
    with complete_folder(folder) as filling:
        for count, (name, found) in enumerate(boxes.items(), start=1):
            missing = [box for box in found if not (filling / box.name).exists()]
            if missing:
                scene = _read_scene(scenes / name)
                for box in missing:
                    _write(filling / box.name, _cut(scene, scenes / name, box))
            if count % 1000 == 0:
                print(f"{count:,} of {len(boxes):,} scenes", flush=True)


def _read_scene(path: Path) -> Image.Image:
    # Not turned as its EXIF data say: the boxes were drawn on the pixels as they are stored.
    try:
        with open_image(path) as scene:
            return scene.convert("RGB")
    # On broken files Pillow's decoders raise whatever their parsing stumbles over.
    except Exception as error:
        raise DatasetError(
            f"{shown(str(path))} is missing or cannot be read ({shown(reason(error))}); "
            f"restore {SCENES} from the release, from the "
            f"page {DG_CUHKSYSU.release.home_page!r}"
        ) from error


def _write(path: Path, image: Image.Image) -> None:
    # Without subsampling, colours keep the resolution that a small crop needs.
    write_missing(path, lambda file: image.save(file, "JPEG", quality=QUALITY, subsampling=0))


def _cut(scene: Image.Image, path: Path, box: Box) -> Image.Image:
    left, top = max(box.left, 0), max(box.top, 0)
    right = min(box.left + box.width, scene.width)
    bottom = min(box.top + box.height, scene.height)
    if left >= right or top >= bottom:
        raise DatasetError(
            f"The box of {box.name} ({box.left}, {box.top}, {box.width}, {box.height}) lies "
            f"outside {path}, which has {scene.width} x {scene.height} pixels; restore "
            f"{ANNOTATION} and {SCENES} from one release"
        )
    return scene.crop((left, top, right, bottom))


if __name__ == "__main__":
    with run_cli(GO_ON):
        main()
