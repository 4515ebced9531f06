"""Making a folder of images once, in a run that may be broken off and started again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from metabin_plugin.data.benchmark_counts import PUBLISHED, Count
from metabin_plugin.data.datasets.base import SourceDataset
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import replace_file

GO_ON = "the same command goes on where it stopped"


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
    with explain_unwritable(folder):
        filling.mkdir(parents=True, exist_ok=True)
    yield filling
    if filling != folder:
        with explain_unwritable(folder):
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
    with explain_unwritable(path):
        replace_file(path, write)
    return True


@contextmanager
def explain_unwritable(path: Path) -> Iterator[None]:
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
    print(f"{dataset.__name__}: {_text(found)} (published: {_text(published)})")
    if found != in_release:
        print(f"warning: the release holds {_text(in_release)}; remove the others from the folder")
    elif found != published:
        print("warning: the release is not the one of the benchmark, or not complete")


def _text(count: Count) -> str:
    return f"{count.identities:,} identities, {count.images:,} images"
