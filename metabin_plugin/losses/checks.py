"""Shape checks that all losses share."""

from __future__ import annotations

from torch import Tensor


def check_rows(name: str, rows: Tensor, **labels: Tensor) -> None:
    """Refuse features that are not a matrix, and labels that do not fit its rows.

    Args:
        name: the loss, for the message.
        rows: features or logits, one row per sample.
        **labels: one label per sample, each 1-D, by argument name.

    Raises:
        ValueError: a shape is wrong, or there are no rows.
    """
    if rows.dim() != 2 or rows.shape[0] == 0:
        raise ValueError(f"{name} needs a matrix with one row per sample, got {tuple(rows.shape)}")
    for label, values in labels.items():
        if values.shape != rows.shape[:1]:
            raise ValueError(
                f"{name} needs one entry of {label} per sample: there are {rows.shape[0]} "
                f"samples, {label} has shape {tuple(values.shape)}"
            )
