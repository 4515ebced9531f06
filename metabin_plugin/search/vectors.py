"""Features of a gallery in files: read in blocks, however many there are, and kept in parts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

import numpy as np
from tqdm import tqdm

from metabin_plugin.errors import STATUS_BASE, SearchError
from metabin_plugin.files import PARTIAL, open_regular, reason, write_whole
from metabin_plugin.text import shown

ROWS = 16384  # of a block
IMAGES = 2048  # of a part
SECONDS = 10.0
_NAME = re.compile(rf"\d{{6,}}-[0-9a-f]{{16}}\.(npy|json)({PARTIAL.pattern})?")
Describe = Callable[[Sequence[str]], tuple[np.ndarray, list[str]]]


class Vectors(Protocol):
    """Rows of float32 of one length."""

    @property
    def shape(self) -> tuple[int, int]:
        """How many, and how long."""
        ...

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in order, some at a time; arrays (B, D) that may be changed."""
        ...


class NpyVectors:
    """The rows of .npy files, of which one block is in memory at a time.

    Args:
        paths: files of a two-dimensional array of numbers each, as ``numpy.save`` writes them.

    Raises:
        SearchError: a file cannot be read, or is no such array.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        arrays = [_open(path) for path in paths]
        for path, array in zip(paths, arrays, strict=True):
            if array.ndim != 2 or array.dtype.kind not in "fiu" or 0 in array.shape:
                raise SearchError(
                    f"{path} holds an array of shape {list(array.shape)} and type {array.dtype}; "
                    "give rows of numbers, one for each image"
                )
        lengths = {array.shape[1] for array in arrays}
        if len(lengths) > 1:
            raise SearchError(
                f"{paths[0].parent} has features of {sorted(lengths)} numbers; "
                "give those of one network"
            )
        self._shape = sum(len(array) for array in arrays), lengths.pop()

    @property
    def shape(self) -> tuple[int, int]:
        """How many, and how long."""
        return self._shape

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in order, float32."""
        for path in self._paths:
            for start in range(0, len(_open(path)), ROWS):
                # Opened anew, or the pages of a mapped file would add up in memory.
                yield np.array(_open(path)[start : start + ROWS], dtype=np.float32)


class Comparable:
    """Vectors as an index compares them.

    Args:
        vectors: the vectors.
        metric: "cosine", for which they are divided by their lengths, or "euclidean".
    """

    def __init__(self, vectors: Vectors, metric: str) -> None:
        self._vectors = vectors
        self._metric = metric

    @property
    def shape(self) -> tuple[int, int]:
        """How many, and how long."""
        return self._vectors.shape

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in order.

        Raises:
            SearchError: a row has no direction, or something else than numbers.
        """
        start = 0
        for block in self._vectors.blocks():
            yield comparable(block, self._metric, start)
            start += len(block)


def comparable(
    rows: np.ndarray, metric: str, first: int = 0, *, may_be_zero: bool = False
) -> np.ndarray:
    """Rows as an index compares them, changed in place: of length 1 for "cosine".

    Args:
        rows: float32 (N, D).
        metric: "cosine" or "euclidean".
        first: number of the first row, for the error text.
        may_be_zero: whether a row of zeros stays one, at distance 1 from all others, as evaluation
            has it. Of features as a network gives them it is a fault.

    Raises:
        SearchError: a row is not finite, or is zero where directions are compared.
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = ~np.isfinite(lengths) | ((lengths == 0) & (metric == "cosine") & (not may_be_zero))
    if bad.any():
        number = first + int(np.flatnonzero(bad)[0])
        raise SearchError(
            f"feature {number} (from 0) is zero or has values that are not finite; look at the "
            "network's weights, or at the file of features"
        )
    if metric == "cosine":
        np.divide(rows, lengths, out=rows, where=lengths > 0)
    return rows


def mean_query(rows: np.ndarray, metric: str) -> tuple[np.ndarray, float]:
    """One query of several images of a person, whose distances are the means of theirs.

    The order of the gallery is that of the mean of the (normalized) features, for one search
    however many images there are. The mean is not normalized again: its distances would be smaller
    than those of single images, by which a threshold is found, of other people's images too.

    Args:
        rows: features of the images (N, D), comparable by ``metric``.
        metric: "cosine" or "euclidean".

    Returns:
        The query, float32 (1, D), and a number to add to its distances: 0 for "cosine"; for
        "euclidean" the mean squared distance of the images from their mean.
    """
    mean = rows.mean(0, dtype=np.float64)
    spread = np.square(rows - mean).sum(1).mean() if metric == "euclidean" else 0.0
    return mean[None].astype(np.float32), float(spread)


def sample(vectors: Vectors, count: int, seed: int = 0) -> np.ndarray:
    """Some rows, drawn without replacement, in their order.

    Args:
        vectors: the rows to draw from.
        count: how many, at most as many as there are.
        seed: of the draw.
    """
    total, dimension = vectors.shape
    chosen = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    rows = np.empty((count, dimension), np.float32)
    start = 0
    for block in vectors.blocks():
        low, high = np.searchsorted(chosen, [start, start + len(block)])
        rows[low:high] = block[chosen[low:high] - start]
        start += len(block)
    return rows


def _open(path: Path) -> np.ndarray:
    try:
        open_regular(path).close()
        # Without pickles, which could run code.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    # What a damaged or hostile header makes of NumPy has no common type.
    except Exception as error:
        raise SearchError(
            f"{path} cannot be read as an array of features ({shown(reason(error))}); "
            "give a .npy file"
        ) from error
    if not isinstance(array, np.ndarray):
        raise SearchError(f"{path} holds several arrays; give a .npy file, which holds one")
    return array


class Parts:
    """A folder beside an index, with the features of its images as far as they are computed.

    Args:
        output: path of the index; the folder is ``<output>.parts``.
        paths: the images.
        source: all else that the features depend on, the network above all. What another source
            or other images have left in the folder is removed.
        size: images whose features are one file.

    Raises:
        SearchError: the folder cannot be written, or is someone else's: a link, or with other
            files in it. Nothing of it is removed then.
    """

    def __init__(
        self, output: Path, paths: Sequence[str], source: Sequence[str], size: int = IMAGES
    ) -> None:
        self.folder = output.with_name(f"{output.name}.parts")
        self.total = len(paths)
        self._paths = paths
        self._parts: dict[Path, slice] = {}
        for number, start in enumerate(range(0, len(paths), size)):
            part = slice(start, min(start + size, len(paths)))
            name = f"{number:06d}-{_digest([*source, *map(_identity, paths[part])])}.npy"
            self._parts[self.folder / name] = part
        try:
            self.folder.mkdir(exist_ok=True)
            for path in self._own_files():
                if path.with_suffix(".npy") not in self._parts:
                    path.unlink()
        except OSError as error:
            raise SearchError(
                f"{self.folder} cannot be written ({reason(error)}); remove it, or give another "
                "--output"
            ) from error

    @property
    def done(self) -> int:
        """Number of images whose features are in the folder."""
        parts = [part for path, part in self._parts.items() if path.is_file()]
        return sum(part.stop - part.start for part in parts)

    def complete(self, describe: Describe) -> list[str]:
        """Compute what is missing.

        Args:
            describe: gives the features of some images, and a text for each, "" if it can be read.

        Returns:
            The text for each image; features of those with one are left out of ``vectors``.
        """
        with ProgressBar("images described", self.total, self.done) as bar:
            for path, part in self._parts.items():
                if path.is_file():
                    continue
                features, faults = describe(self._paths[part])
                self._write(path, features[[fault == "" for fault in faults]], faults)
                bar.update(len(faults))
        texts = [path.with_suffix(".json").read_text(encoding="utf-8") for path in self._parts]
        return [fault for text in texts for fault in json.loads(text)]

    def vectors(self) -> NpyVectors:
        """The features of all readable images.

        Raises:
            SearchError: there are none.
        """
        files = [path for path in self._parts if len(np.load(path, mmap_mode="r"))]
        if not files:
            raise SearchError(f"none of {self.total} images can be read; name another --gallery")
        return NpyVectors(files)

    def remove(self) -> None:
        """Remove the folder, whose content is in the index now, but for what others put there."""
        with suppress(OSError):
            for path in self._parts:
                path.unlink()
                path.with_suffix(".json").unlink()
            self.folder.rmdir()

    def _own_files(self) -> list[Path]:
        files = list(self.folder.iterdir())
        others = [path.name for path in files if not _NAME.fullmatch(path.name)]
        if others or self.folder.is_symlink():
            what = f"holds {shown(others[0])}" if others else "is a link"
            raise SearchError(
                f"{self.folder} {what}, which `index` did not make; move it away, or give another "
                "--output"
            )
        return files

    def _write(self, path: Path, features: np.ndarray, faults: list[str]) -> None:
        text = json.dumps(faults).encode()
        write_whole(path.with_suffix(".json"), lambda file: file.write(text), SearchError)
        # Last the file whose presence says that the part is complete.
        write_whole(path, lambda file: np.save(file, features), SearchError)


def _identity(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return path
    return f"{path}\0{status.st_size}\0{status.st_mtime_ns}"


def _digest(texts: Sequence[str]) -> str:
    summed = hashlib.sha256()
    for text in texts:
        summed.update(json.dumps(text).encode() + b"\n")
    return summed.hexdigest()[:16]


class ProgressBar(tqdm):
    """A bar on standard error with the time that is left, for work of more than ten seconds.

    Args:
        what: what is counted, "images described" for example.
        total: how many there are.
        done: how many need no work any more.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        super().__init__(
            desc=what, total=total, initial=done, unit="", delay=SECONDS, mininterval=SECONDS
        )


# tqdm's own lock, one between processes, would choose the start method of the whole program.
ProgressBar.set_lock(threading.RLock())


@contextmanager
def stoppable(advice: Callable[[], str]) -> Iterator[None]:
    """A block that Ctrl-C or SIGTERM ends with a sentence and the status of the signal.

    Unlike ``run_cli`` it says how much was kept, and also hears a scheduler.

    Args:
        advice: gives the sentence.

    Raises:
        SystemExit: after a signal, with 128 and its number.
    """
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    # Faiss makes an exception of its own of what a handler raises.
    except BaseException:
        if not received:
            raise
        print(f"\nstopped; {advice()}", file=sys.stderr)
        raise SystemExit(STATUS_BASE + received[0]) from None
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
