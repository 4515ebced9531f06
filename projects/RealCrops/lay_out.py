"""Lay out the real crops: write the manifests of the sources, and check sources and targets.

python projects/RealCrops/lay_out.py FOLDER [--check]

FOLDER holds the public sets, or links to them, as the README says. Nothing is fetched, copied or
changed: a manifest of each source domain is written to FOLDER/sources, and what sources and
targets hold is compared with the known counts. --check writes nothing.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import metabin_plugin

metabin_plugin.register()

from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.data.datasets import TARGETS
from metabin_plugin.data.datasets.base import FROZEN, TargetDataset
from metabin_plugin.data.manifest import ManifestDataset
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import make_folder_of, write_whole

SOURCES = "sources"
PETA = "the PETA re-release (Deng et al., ACM MM 2014)"


class Count(NamedTuple):
    """What a domain or a target holds."""

    images: int
    identities: int
    cameras: int

    def __str__(self) -> str:
        return f"{self.images} images, {self.identities} identities, {self.cameras} cameras"


@dataclass(frozen=True)
class Release:
    """A public set of crops.

    Attributes:
        name: its usual name.
        folder: where its images are, below FOLDER; deeper folders count.
        origin: what is to be put there.
        pattern: what the end of an image's path matches, with the group ``pid``.
        camera: label of the camera from the match.
    """

    name: str
    folder: str
    origin: str
    pattern: str
    camera: Callable[[re.Match[str]], str]

    def rows(self, data: Path) -> list[tuple[str, str, str]]:
        """Path, identity and camera of its images, sorted by path.

        Args:
            data: FOLDER.

        Raises:
            DatasetError: none is there.
        """
        pattern = re.compile(f"/{self.pattern}$")
        # Of a set in several folders each may be a link.
        walk = os.walk(data / self.folder, followlinks=True)
        paths = sorted(Path(folder, name) for folder, _, names in walk for name in names)
        matches = [(path, pattern.search(path.as_posix())) for path in paths]
        rows = [
            (f"../{path.relative_to(data).as_posix()}", match["pid"], self.camera(match))
            for path, match in matches
            if match
        ]
        if not rows:
            raise DatasetError(
                f"{data / self.folder} holds no image of {self.name}; put {self.origin} there"
            )
        return rows


MARKET = Release(
    "Market-1501",
    "Market-1501/bounding_box_train",
    "the folder bounding_box_train of Market-1501 (Zheng et al., ICCV 2015)",
    r"(?P<pid>\d{4})_c(?P<camera>\d)s\d_\d+_\d+\.jpg",
    lambda match: match["camera"],
)
# The crops do not say which of 3DPeS' 8 cameras took them; a sequence is of one.
THREE_DPES = Release(
    "3DPeS",
    "PETA dataset/3DPeS",
    f"3DPeS of {PETA}",
    r"(?P<pid>\d+)_(?:B_)?(?P<sequence>\d+)_FRAME_\d+_RGB\.bmp",
    lambda match: match["sequence"],
)
# Images 1 to 10 of a person are of one camera, 11 to 20 of the other.
CAVIAR = Release(
    "CAVIAR4REID",
    "PETA dataset/CAVIAR4REID",
    f"CAVIAR4REID of {PETA}",
    r"(?P<pid>\d{4})_(?P<image>\d{3})\.jpg",
    lambda match: "A" if int(match["image"]) <= 10 else "B",
)
PKU = Release(
    "PKU-Reid",
    "PKU-Reid",
    "the folders train and val of PKU-Reid (Ma et al., 2016), one folder a person",
    r"(?:train|val/all_imgs)/(?P<pid>\d+)/(?P<camera>\d\d)_\d\.png",
    lambda match: match["camera"],
)
SARC3D = Release(
    "SARC3D",
    "PETA dataset/SARC3D",
    f"SARC3D of {PETA}",
    r"(?P<pid>\d+)_(?P<view>back|front|left|[Rr]ight)\.bmp",
    lambda match: match["view"].lower(),
)
TOWN_CENTRE = Release(
    "TownCentre",
    "PETA dataset/TownCentre",
    f"TownCentre of {PETA}",
    r"(?P<pid>\d+)_\d+\.jpg",
    lambda match: "1",
)

# Here SARC3D and TownCentre are one domain; the README says why. PaperTables has them apart.
DOMAINS = {
    "Market1501": (MARKET,),
    "3DPeS": (THREE_DPES,),
    "CAVIAR": (CAVIAR,),
    "PKU": (PKU,),
    "SARC3D-TownCentre": (SARC3D, TOWN_CENTRE),
    "SARC3D": (SARC3D,),
    "TownCentre": (TOWN_CENTRE,),
}
COUNTS = {
    "Market1501": Count(12936, 751, 6),
    "3DPeS": Count(1012, 193, 485),
    "CAVIAR": Count(1220, 72, 2),
    "PKU": Count(1184, 74, 2),
    "SARC3D-TownCentre": Count(7167, 272, 5),
    "SARC3D": Count(200, 50, 4),
    "TownCentre": Count(6967, 222, 1),
    "DG_VIPeR": Count(1264, 632, 2),
    "DG_PRID": Count(1134, 934, 2),
    "DG_GRID": Count(1275, 1025, 6),
    "DG_iLIDS": Count(476, 119, 1),
}


def manifest_text(data: Path, domain: str) -> str:
    """The manifest of a source domain.

    Args:
        data: FOLDER.
        domain: a key of ``DOMAINS``.

    Raises:
        DatasetError: images are missing.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["path", "pid", "camid"])
    for release in DOMAINS[domain]:
        rows = release.rows(data)
        # Two releases number their people independently.
        prefix = f"{release.name}_" if len(DOMAINS[domain]) > 1 else ""
        writer.writerows((path, prefix + pid, prefix + camid) for path, pid, camid in rows)
    return file.getvalue()


def held(data: Path) -> dict[str, Count]:
    """What the manifests and the targets hold.

    Args:
        data: FOLDER, laid out.

    Raises:
        DatasetError: a file is missing, or a target is not tested on the benchmark's ten splits.
    """
    found: dict[str, Count] = {}
    for domain in DOMAINS:
        manifest = ManifestDataset(f"{SOURCES}/{domain}.csv", root=str(data), verbose=False)
        found[domain] = _count(manifest.train)
    for target in TARGETS:
        dataset: TargetDataset = target(root=str(data), verbose=False)
        if dataset.split_source != FROZEN:
            raise DatasetError(
                f"{data} holds another {dataset.release.title} than the benchmark, whose ten "
                f"splits do not fit; put {dataset.release.layout} there, whole"
            )
        found[target.__name__] = _count(dataset.train)
    return found


def _count(train: Sequence[tuple[str, str, str]]) -> Count:
    paths, people, cameras = (len(set(column)) for column in zip(*train, strict=True))
    return Count(paths, people, cameras)


def _write(path: Path, text: str) -> None:
    make_folder_of(path, DatasetError)
    write_whole(path, lambda file: file.write(text.encode()), DatasetError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the manifests and check them.

    Args:
        arguments: the command line; by default the process's.

    Raises:
        SystemExit: with status 1 if something is missing or a count differs.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", metavar="FOLDER", type=Path, help="folder of the public sets")
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(arguments)
    with run_cli():
        if not args.check:
            for domain in DOMAINS:
                _write(args.data / SOURCES / f"{domain}.csv", manifest_text(args.data, domain))
        differ = False
        for name, count in held(args.data).items():
            as_known = count == COUNTS[name]
            differ |= not as_known
            print(
                f"{name}: {count}" + ("" if as_known else f", but there should be {COUNTS[name]}")
            )
    sys.exit(differ)


if __name__ == "__main__":
    main()
