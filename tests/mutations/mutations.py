"""Random changes of files, as damage or ill will make them, each known by its kind and number."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.mutations import checkpoints, configs, images, indexes, manifests
from tests.mutations.raw import change_bytes

Change = Callable[[random.Random, bytes, Path, Path], tuple[bytes, str]]

# What has a valid form again: checksums, lengths, syntax.
_IN_FORM: dict[str, Change] = {
    "checkpoint": checkpoints.change,
    "index": indexes.change,
    "index_by_camera": indexes.change_by_camera,
    "manifest": manifests.change,
    "config": configs.change,
    "jpeg": images.change,
}
_SHARE_OF_BYTES = 0.3


def mutate(kind: str, number: int, original: bytes, path: Path, outside: Path) -> str:
    """Write a mutated file.

    Args:
        kind: one of ``tests.mutations.given.KINDS``.
        number: which mutation of this kind.
        original: content of the whole file.
        path: where to write.
        outside: a folder that the file may name, and no command may touch.

    Returns:
        What was changed, in words.
    """
    rng = random.Random(f"{kind} {number}")
    # For names that lead to it.
    os.mkfifo(path.parent / "fifo")
    if rng.random() < _SHARE_OF_BYTES:
        content, what = change_bytes(rng, original)
    else:
        content, what = _IN_FORM[kind](rng, original, path, outside)
    path.write_bytes(content)
    return what
