"""Types of command-line arguments."""

from __future__ import annotations


def numbers(text: str) -> list[int]:
    """Whole numbers between commas.

    Raises:
        ValueError: something else is between them.
    """
    return [int(number) for number in text.split(",")]
