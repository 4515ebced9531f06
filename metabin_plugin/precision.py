"""The precision in which losses and statistics are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Widen half-precision values to float32, in which distances and variances keep their digits.

    Args:
        x: floating-point tensor.

    Returns:
        `x` itself in float32 or float64, otherwise a float32 copy.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product in the precision of its arguments, whatever autocast would do.

    In half precision the squared norms of a distance cancel or overflow.

    Args:
        a: matrix (..., N, K).
        b: matrix (..., K, M).

    Returns:
        Matrix (..., N, M).
    """
    with torch.autocast(a.device.type, enabled=False):
        return a @ b
