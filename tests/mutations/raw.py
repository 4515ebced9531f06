"""Changes of bytes, whatever they mean."""

from __future__ import annotations

import random

_LONGEST_BLOCK = 64


def change_bytes(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """One to four changes: of single bytes and blocks, anywhere or at the ends.

    Args:
        rng: what draws them.
        data: the bytes.

    Returns:
        The changed bytes, and what was done in words.
    """
    names = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        name = rng.choice(list(_CHANGES))
        place = _place(rng, len(data))
        size = rng.choice((1, 2, 4, rng.randint(1, _LONGEST_BLOCK)))
        data = _CHANGES[name](rng, data, place, size)
        names.append(f"{name} at {place}")
    return data, ", ".join(names)


def _place(rng: random.Random, length: int) -> int:
    # Headers stand at the ends.
    near = rng.randrange(256)
    return min(max(length - 1, 0), rng.choice((rng.randrange(length + 1), near, length - near)))


def _flip(rng: random.Random, data: bytes, place: int, size: int) -> bytes:
    value = data[place : place + 1] or b"\0"
    return data[:place] + bytes([value[0] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def _replace(rng: random.Random, data: bytes, place: int, size: int) -> bytes:
    return data[:place] + rng.randbytes(size) + data[place + size :]


def _largest(rng: random.Random, data: bytes, place: int, size: int) -> bytes:
    return data[:place] + b"\xff" * size + data[place + size :]


def _zero(rng: random.Random, data: bytes, place: int, size: int) -> bytes:
    return data[:place] + bytes(size) + data[place + size :]


def _insert(rng: random.Random, data: bytes, place: int, size: int) -> bytes:
    return data[:place] + rng.randbytes(size) + data[place:]


def _delete(rng: random.Random, data: bytes, place: int, size: int) -> bytes:
    return data[:place] + data[place + size :]


def _duplicate(rng: random.Random, data: bytes, place: int, size: int) -> bytes:
    return data[: place + size] + data[place:]


def _truncate(rng: random.Random, data: bytes, place: int, size: int) -> bytes:
    return data[:place]


_CHANGES = {
    "flip a bit": _flip,
    "replace": _replace,
    "set to 255": _largest,
    "zero": _zero,
    "insert": _insert,
    "delete": _delete,
    "duplicate": _duplicate,
    "truncate": _truncate,
}
