"""A dataset described by a CSV file, the manifest: its rows, and what is made of them.

Junk and distractors are labels of nobody, as Market-1501 has them. Junk, identity -1, is what a
detector took for a person: it is used nowhere. Distractors, identity 0, are people and things that
nobody asks for: they are in the gallery only, never a query and never trained on.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastreid.data.datasets.bases import ImageDataset

from metabin_plugin.data.splits import NUM_SPLITS, single_shot_split, strangers_to
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import name_on_disk, open_regular
from metabin_plugin.text import shown

_log = logging.getLogger(__name__)

SUBSETS = ("train", "query", "gallery", "test")
_REQUIRED = ("path", "pid", "camid")
_COLUMNS = (*_REQUIRED, "domain", "subset")

JUNK, DISTRACTOR = -1, 0
# A spreadsheet or a table of numbers with gaps writes -1 as -1.0.
_JUNK = re.compile(r"-0*1(\.0*)?")
_ZERO = re.compile(r"0+(\.0*)?")
# As releases in the form of Market-1501 name their files: 0000_c1s1_000151_01.jpg.
_DISTRACTOR_NAME = re.compile(r"0{4,}_c\d+s\d+(?!\d)")

TrainItem = tuple[str, str, str]
TestItem = tuple[str, int, int]
TestSplit = tuple[list[TestItem], list[TestItem]]


def is_manifest(name: str) -> bool:
    """Whether what stands in a data set's place names a manifest."""
    return name.lower().endswith(".csv")


def is_junk(label: str) -> bool:
    """Whether an identity's label is that of junk: -1, in every data set.

    Args:
        label: what a file's name or a manifest says who is on an image.
    """
    return _JUNK.fullmatch(label) is not None


def is_distractor(label: str, path: str) -> bool:
    """Whether an image is a distractor: its label and its file's name both say so.

    Many number their own people from 0, or number those of a release anew. So label 0 alone is a
    person; it is a distractor where the file is named as in a release as well, ``0000_c1s1_…``.

    Args:
        label: what a file's name or a manifest says who is on the image.
        path: of the image, with ``/`` or the system's separator between folders.
    """
    name = re.split(r"[/\\]", path)[-1]
    return bool(_ZERO.fullmatch(label) and _DISTRACTOR_NAME.match(name))


class Row(NamedTuple):
    """One image of a manifest.

    Attributes:
        path: path of the image file, with the manifest's folder.
        pid: label of the identity.
        camid: label of the camera.
        domain: name of the domain, or "" if the manifest has no such column.
        subset: one of ``SUBSETS``.
    """

    path: str
    pid: str
    camid: str
    domain: str
    subset: str

    @property
    def camera(self) -> str:
        """Name of the camera, in front of it the domain's if there is one, which it is within."""
        return f"{self.domain}/{self.camid}" if self.domain else self.camid

    @property
    def is_distractor(self) -> bool:
        """Whether it shows nobody who is asked for, and so is in the gallery only."""
        return is_distractor(self.pid, self.path)


def stop(fault: DatasetError) -> None:
    """Raise a row's fault, what reading does by default."""
    raise fault


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
    other file name, 0 is a person (``is_distractor``).

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
        strangers: for each of ten, further queries: all ``test`` images of people who are not in
            its gallery; empty for one.

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
        images = [item[:2] for item in items]
        self.strangers = [
            strangers_to(gallery, images) for _, gallery in self.splits if len(self.splits) > 1
        ]
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
        for what, place, column in (("person", 1, "pid"), ("camera", 2, "camid")):
            seen: dict[str, tuple[str, str]] = {}
            for row, item in zip(rows, self._train, strict=True):
                own = row.domain, getattr(row, column)
                first = seen.setdefault(item[place], own)
                if first != own:
                    raise DatasetError(
                        f"Manifest {self.manifest} has {what} {first[1]!r} of domain {first[0]!r} "
                        f"and {own[1]!r} of {own[0]!r}, which a training would take for one; write "
                        "them without colons"
                    )
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
                "gallery"
            )
        return splits

    def _train_item(self, row: Row) -> TrainItem:
        prefix = f"{self._label}:{row.domain}:"
        return row.path, prefix + row.pid, prefix + row.camid


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
        raise DatasetError(f"Manifest {manifest} does not exist; correct its path in DATASETS")
    raise DatasetError(
        f"Manifest {manifest} is neither in the working directory nor in the datasets root {root}; "
        "correct its path in DATASETS or set FASTREID_DATASETS"
    )


def read_rows(manifest: Path, on_fault: Callable[[DatasetError], None] = stop) -> list[Row]:
    """Read a manifest and check that its values are there and its images exist.

    Junk, and distractors in ``train`` and ``query``, are left out; the log says how many.

    Args:
        manifest: UTF-8 CSV file with the columns ``path,pid,camid[,domain][,subset]``, in any
            order and among any others; relative paths start from its folder.
        on_fault: what is called with the fault of each faulty row, which is then left out.

    Returns:
        Its rows, in order; a row without subset is of ``train``.

    Raises:
        DatasetError: the file is unreadable, lacks a column or any row, or a row is faulty: one
            of ``test`` beside one of ``query`` or ``gallery`` is, too.
    """
    lines = _read_lines(manifest)
    _, columns = next(lines, (1, []))
    columns = [name.strip() for name in columns]
    _check_header(manifest, columns)
    rows: list[Row] = []
    first_lines: dict[tuple[str, str], int] = {}
    first_of: dict[str, int] = {}
    line = 0
    for line, cells in lines:
        try:
            row = _read_row(manifest, line, _name_cells(manifest, line, columns, cells))
            first = first_lines.setdefault((row.subset, row.path), line)
            if first != line:
                what = f"repeats {shown(row.path)} of line {first} in {row.subset}"
                raise _fault(manifest, line, what, "remove it")
            _check_mixture(manifest, line, row.subset, first_of)
            first_of.setdefault(row.subset, line)
            rows.append(row)
        except DatasetError as fault:
            on_fault(fault)
    if not line:
        raise DatasetError(f"Manifest {manifest} has no rows; add one for each image")
    return list(_without_nobody(manifest, rows))


def _without_nobody(manifest: Path, rows: Sequence[Row]) -> Iterator[Row]:
    left_out: Counter[str] = Counter()
    for row in rows:
        if is_junk(row.pid):
            left_out["of identity -1 (junk)"] += 1
        elif row.is_distractor and row.subset in ("train", "query"):
            left_out[f"of distractors (0000) in {row.subset}"] += 1
        else:
            yield row
    for what, count in left_out.items():
        _log.warning("Manifest %s: %d images %s are left out", manifest, count, what)


def _read_lines(manifest: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of every line that is not empty."""
    reader = csv.reader(io.StringIO(_read_text(manifest), newline=""))
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        fault = f"cannot be read ({error})"
        raise _fault(manifest, reader.line_num, fault, "fix it") from None


def _read_text(manifest: Path) -> str:
    try:
        with open_regular(manifest) as file:
            data = file.read()
    except OSError as error:
        raise DatasetError(
            f"Manifest {manifest} cannot be read ({error.strerror}); fix it"
        ) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _fault(manifest, line, f"is not UTF-8 ({error.reason})", "convert the file") from None


def _check_header(manifest: Path, columns: Sequence[str]) -> None:
    missing = [column for column in _REQUIRED if column not in columns]
    if missing:
        raise DatasetError(
            f"Manifest {manifest} has no column {missing[0]!r} (its first line is "
            f'{shown(repr(",".join(columns)))}); start it with "path,pid,camid"'
        )
    for column in _COLUMNS:
        if columns.count(column) > 1:
            raise DatasetError(
                f"Manifest {manifest} has the column {column!r} twice; rename or remove one"
            )


def _name_cells(
    manifest: Path, line: int, columns: Sequence[str], cells: Sequence[str]
) -> dict[str, str]:
    if any(cells[len(columns) :]):
        raise _fault(
            manifest,
            line,
            f"has {len(cells)} values for {len(columns)} columns",
            'put a value with a comma between "quotes"',
        )
    # A short line lacks its last values.
    padded = [*cells, *[""] * (len(columns) - len(cells))]
    named = zip(columns, padded[: len(columns)], strict=True)
    return {name: cell.strip() for name, cell in named if name in _COLUMNS}


def _read_row(manifest: Path, line: int, cells: dict[str, str]) -> Row:
    subset = cells.pop("subset", "") or "train"
    for column, value in cells.items():
        if not value:
            raise _fault(manifest, line, f"has no {column!r}", "fill it in")
    if subset not in SUBSETS:
        raise _fault(
            manifest,
            line,
            f"has the subset {shown(repr(subset))}",
            f"use one of {', '.join(SUBSETS)}",
        )
    image = manifest.parent / name_on_disk(cells["path"])
    problem = _image_problem(image)
    if problem:
        fault, remedy = problem
        raise _fault(manifest, line, f"names the image {shown(str(image))}, which {fault}", remedy)
    return Row(str(image), cells["pid"], cells["camid"], cells.get("domain", ""), subset)


def _check_mixture(manifest: Path, line: int, subset: str, first_of: dict[str, int]) -> None:
    others = {"test": ("query", "gallery"), "query": ("test",), "gallery": ("test",)}
    for other in others.get(subset, ()):
        if other in first_of:
            what = f"has the subset {subset}, but line {first_of[other]} has {other}"
            remedy = "leave the splits to the plugin (test) or make one (query and gallery)"
            raise _fault(manifest, line, what, remedy)


def _image_problem(image: Path) -> tuple[str, str] | None:
    try:
        status = image.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist", "paths start from the manifest's folder"
    except OSError as error:
        return f"cannot be read ({error.strerror})", "fix it"
    except ValueError:
        return "has a character that no path has", "fix the line"
    if not stat.S_ISREG(status.st_mode):
        return "is not a file", "name an image"
    return None if status.st_size else ("is empty", "restore it")


def _fault(manifest: Path, line: int, fault: str, remedy: str) -> DatasetError:
    return DatasetError(f"Manifest {manifest}, line {line}, {fault}; {remedy}")
