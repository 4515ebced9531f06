"""Cyclic inner step size (Section 3.3, "Cyclic inner-updates")."""

from __future__ import annotations


def triangular(iteration: int, period: float, low: float, high: float) -> float:
    """Step size beta at an iteration: a triangle wave from ``low`` to ``high`` and back.

    A period that is no even number rises for ``period // 2`` iterations and falls for the rest.

    Args:
        iteration: number of the iteration, from 0, at which the value is ``low``.
        period: length of one rise and fall, in iterations, at least 1.
        low: smallest value.
        high: largest value.

    Returns:
        The value at ``iteration``, in [low, high]; it depends on nothing else.

    Raises:
        ValueError: the period is shorter than one iteration.
    """
    if period < 1:
        raise ValueError(f"period must be at least 1 iteration, got {period}")
    rise = period // 2
    phase = iteration % period
    if phase <= rise:
        fraction = phase / rise if rise else 0.0
    else:
        fraction = (period - phase) / (period - rise)
    return low + (high - low) * fraction
