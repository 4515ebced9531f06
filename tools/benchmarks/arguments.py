"""Arguments that several benchmarks share."""

from __future__ import annotations

import argparse

import torch


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``: a GPU where there is one, unless told otherwise."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=found)


def add_images(parser: argparse.ArgumentParser) -> None:
    """``--size`` and ``--batch`` of the images; the paper's by default."""
    parser.add_argument(
        "--size", type=Numbers("x", 2), default=(256, 128), help="HEIGHTxWIDTH (default: 256x128)"
    )
    parser.add_argument("--batch", type=int, default=80, help="images (default: %(default)s)")


class Numbers:
    """Reads positive whole numbers, as argparse's ``type``.

    Args:
        separator: between two numbers.
        count: how many there have to be.
    """

    def __init__(self, separator: str, count: int) -> None:
        self._separator, self._count = separator, count

    def __call__(self, text: str) -> tuple[int, ...]:
        """Return the numbers.

        Raises:
            argparse.ArgumentTypeError: they are others, or other than numbers.
        """
        parts = text.split(self._separator)
        if len(parts) != self._count or not all(p.isdecimal() and int(p) > 0 for p in parts):
            form = self._separator.join(["N"] * self._count)
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form {form}")
        return tuple(map(int, parts))
