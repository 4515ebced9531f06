"""The script that reads a MATLAB file in a process of its own; ``mat_file`` starts it.

Parsers of such files crash on damaged ones, and a file of version 7.3 may name others to read from.
The process is given the open file as its standard input, no path, and where the operating system
can do that it may open nothing else. It imports nothing of the plugin, so that it starts at once.
What it finds are messages on its standard output: a line of JSON each, and after it as many bytes
as its ``"bytes"`` says.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

VARIABLES, CUHK03 = "variables", "cuhk03"
# Of a whole answer without images.
MOST_CHARACTERS = 2**26
# Of one array without images, and of one image: more than any of the releases has.
MOST_VALUES, MOST_ELEMENTS = 2**20, 2**24
IMAGES_PER_VIEW = 5

# Address space in bytes, and how much more than the file all of its images may take.
_MEMORY = 2**30
_UNFOLDED = 50

Message = tuple[dict[str, Any], bytes]


class Fault(Exception):
    """What is wrong with the file, as the end of a sentence that begins with its path."""


def main(kind: str, *arguments: str) -> None:
    """Read standard input and answer; an exception or a crash is an answer without an end.

    Args:
        kind: ``VARIABLES`` or ``CUHK03``.
        *arguments: names of variables, or ``detected`` or ``labeled``.
    """
    answer = _variables(*arguments) if kind == VARIABLES else _cuhk03(*arguments)
    try:
        for values, payload in answer:
            _write({**values, "bytes": len(payload)}, payload)
    except Fault as fault:
        _write({"fault": str(fault), "bytes": 0}, b"")
    else:
        _write({"end": True, "bytes": 0}, b"")


def _write(values: dict[str, Any], payload: bytes) -> None:
    line = json.dumps(values)
    if len(line) > MOST_CHARACTERS:
        raise ValueError("the answer is too long")
    sys.stdout.buffer.write(line.encode() + b"\n" + payload)
    sys.stdout.buffer.flush()


def _confine() -> None:
    """Allow no more than a bounded memory and the files that are open already."""
    try:
        import resource
    # Windows has no such limits.
    except ImportError:
        return
    limits = {"RLIMIT_AS": _MEMORY, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": 0}
    for name, value in limits.items():
        # macOS knows some of them and refuses to set them.
        with suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))


def _variables(*names: str) -> Iterator[Message]:
    from scipy.io import loadmat

    _confine()
    layout = {"squeeze_me": True, "struct_as_record": False}
    found = loadmat(sys.stdin.buffer, variable_names=list(names), **layout)
    for name in names:
        if name not in found:
            raise Fault(f"has no variable {name!r}")
        yield {"name": name, "value": _plain(found[name])}, b""


def _plain(value: Any) -> Any:
    from scipy.io.matlab import mat_struct

    if isinstance(value, np.ndarray):
        if value.size > MOST_VALUES:
            raise ValueError("an array is too large")
        return [_plain(entry) for entry in value] if value.ndim else _plain(value.item())
    if isinstance(value, mat_struct):
        return {name: _plain(getattr(value, name)) for name in value._fieldnames}
    return value.item() if isinstance(value, np.generic) else value


def _cuhk03(boxes: str) -> Iterator[Message]:
    """Name, height and width, and the bytes of the pixels (H, W, 3) of the release's images.

    ``boxes`` is a cell of camera pairs, each a cell of persons by ten images: five of each view.
    HDF5 keeps a cell as references, and every array with its axes reversed.
    """
    import h5py

    _confine()
    size = os.fstat(0).st_size
    with h5py.File(sys.stdin.buffer, "r") as file:
        left = _UNFOLDED * size
        # Asked below h5py's names, which follow a link to see whether it leads somewhere.
        links = file.id.links
        if not links.exists(boxes.encode()):
            raise Fault(f"has no cell {boxes!r}")
        if links.get_info(boxes.encode()).type != h5py.h5l.TYPE_HARD:
            raise Fault("takes data from another file or place")
        for pair, pair_reference in enumerate(_cell(file[boxes]).ravel(), start=1):
            references = _cell(file[pair_reference])
            if references.ndim != 2 or len(references) != 2 * IMAGES_PER_VIEW:
                raise Fault(
                    f"has at camera pair {pair} of {boxes} the shape {references.shape[::-1]} "
                    f"instead of persons by {2 * IMAGES_PER_VIEW} images"
                )
            for person, row in enumerate(references.T, start=1):
                for number, reference in enumerate(row, start=1):
                    pixels = _array(file[reference])
                    # An empty cell is stored as its size, a vector.
                    if pixels.ndim != 3:
                        continue
                    name = f"{pair}_{person:03d}_{1 if number <= IMAGES_PER_VIEW else 2}"
                    name = f"{name}_{number:02d}.png"
                    if pixels.dtype != np.uint8 or len(pixels) != 3 or not pixels.size:
                        raise Fault(f"has no picture at {name}")
                    left -= pixels.size
                    if left < 0:
                        raise Fault("unfolds to much more than its size")
                    height, width = pixels.shape[:0:-1]
                    yield (
                        {"name": name, "height": height, "width": width},
                        np.ascontiguousarray(pixels.transpose(2, 1, 0)).tobytes(),
                    )


def _cell(dataset: Any) -> np.ndarray:
    import h5py

    array = _array(dataset)
    if h5py.check_ref_dtype(dataset.dtype) is not h5py.Reference:
        raise Fault("has something else where cells should be")
    return array


def _array(dataset: Any) -> np.ndarray:
    """All of a dataset that lies in the file itself and is not too large."""
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise Fault("has something else where arrays should be")
    if dataset.is_virtual or dataset.external:
        raise Fault("takes data from another file or place")
    if dataset.size is None or dataset.size > MOST_ELEMENTS:
        raise Fault("has an array that is empty or too large")
    return np.asarray(dataset[()])


if __name__ == "__main__":
    main(*sys.argv[1:])
