"""MATLAB files, each read in a process of its own, which a damaged one may crash."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metabin_plugin.data.datasets import mat_reader
from metabin_plugin.data.datasets.base import Release, remedy
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import is_file_name, open_regular, reason

# Seconds for all variables of a file, or for the next image.
_PATIENCE = 120


def read_mat(release: Release, path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Read variables of a MATLAB file of version 5, the format of most annotation files.

    Args:
        release: the dataset, for the error texts.
        path: the file.
        names: the variables that it must have.

    Returns:
        Value of each variable, made of numbers, text, lists and dictionaries. A struct is a
        dictionary; an array or a cell is a list of lists without axes of length 1, so that the only
        entry of one stands for itself.

    Raises:
        DatasetError: if the file is missing, unreadable, of another kind or lacks a variable.
    """
    texts = (f"{release.title}: {path}", "no MATLAB file of version 5", remedy(release))
    answer = _answer(path, texts, mat_reader.VARIABLES, *names)
    return {message["name"]: message["value"] for message, _ in answer}


def read_cuhk03(path: Path, boxes: str, home_page: str) -> Iterator[tuple[str, np.ndarray]]:
    """Read the images of CUHK03's release, a MATLAB file of version 7.3.

    Args:
        path: ``cuhk-03.mat``.
        boxes: ``detected`` or ``labeled``.
        home_page: name of the page where the release is offered, for the error texts.

    Yields:
        File name and pixels (H, W, 3) of type uint8 of each image.

    Raises:
        DatasetError: if h5py is not installed, or the file is missing, damaged, not laid out as the
            release, or takes data from another file.
    """
    if importlib.util.find_spec("h5py") is None:
        raise DatasetError(
            f"{path} can only be read with the package h5py, which is not installed; run "
            '`pip install h5py`, or install the plugin with its extra "datasets"'
        )
    fix = f"unpack cuhk03_release again, from the page {home_page!r}"
    texts = (str(path), "no MATLAB file of version 7.3 (HDF5)", fix)
    for message, pixels in _answer(path, texts, mat_reader.CUHK03, boxes):
        shape = (message["height"], message["width"], 3)
        yield message["name"], np.frombuffer(pixels, np.uint8).reshape(shape)


def _answer(
    path: Path, texts: tuple[str, str, str], kind: str, *arguments: str
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The messages of a process that reads a file; what it says is checked as the file would be."""
    subject, other_kind, fix = texts
    try:
        with open_regular(path) as file:
            command = [sys.executable, mat_reader.__file__, kind, *arguments]
            # Threads would take address space, which is bounded; no module lies beside the script.
            setting = dict.fromkeys(
                ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONSAFEPATH"), "1"
            )
            process = subprocess.Popen(
                command,
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **setting},
            )
    except FileNotFoundError:
        raise DatasetError(f"{subject} is missing; {fix}") from None
    except OSError as error:
        raise DatasetError(f"{subject} cannot be read ({reason(error)}); {fix}") from error
    with process:
        try:
            while True:
                message, payload = _next_message(process)
                if "end" in message:
                    return
                if "fault" in message:
                    raise DatasetError(f"{subject} {message['fault']}; {fix}")
                yield message, payload
        except (KeyError, TypeError, ValueError, RecursionError):
            raise DatasetError(f"{subject} is damaged or {other_kind}; {fix}") from None
        finally:
            process.kill()


def _next_message(process: subprocess.Popen[bytes]) -> tuple[dict[str, Any], bytes]:
    """The next message of a process, which is ended if it takes too long.

    Raises:
        ValueError: there is no whole one.
    """
    assert process.stdout is not None
    patience = threading.Timer(_PATIENCE, process.kill)
    patience.start()
    try:
        message = json.loads(process.stdout.readline(mat_reader.MOST_CHARACTERS + 2))
        payload = process.stdout.read(message["bytes"])
    finally:
        patience.cancel()
    if len(payload) != message["bytes"] or not is_file_name(message.get("name", "end")):
        raise ValueError("not a message")
    return message, payload
