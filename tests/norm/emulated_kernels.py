"""What the kernels of BIN compute, in a few operators: to run whole networks on their path."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metabin_plugin.norm import formula


class EmulatedKernels:
    """Stands in for ``triton_kernels``, on maps of one chunk.

    Attributes:
        launched: names of the kernels that were launched, in order.
    """

    def __init__(self) -> None:
        self.launched: list[str] = []

    def __getattr__(self, name: str) -> Any:
        emulate = globals()[f"_{name}"]
        launched = self.launched

        class Launcher:
            def __getitem__(self, _grid: object) -> Any:
                launched.append(name)
                return emulate

        return Launcher()


def _statistics(x: Tensor, mean: Tensor, var: Tensor, *_sizes: Any, **_layout: Any) -> None:
    for output, value in zip((mean, var), formula.instance_statistics(x.float()), strict=True):
        output.copy_(value)


def _coefficients(
    means: Tensor, variances: Tensor, *rest: Any, TRAINING: bool, **_layout: Any
) -> None:
    parameters, (running_mean, running_var, counter) = rest[:5], rest[5:8]
    mean, var, both, scale, offset = rest[8:13]
    *_, pixels, _chunk, _chunks, momentum, eps = rest[13:]
    if counter is not None:
        counter.add_(1)
    if TRAINING:
        batch = formula.batch_statistics(means, variances)
        if running_mean is not None:
            count = len(means) * pixels
            formula.update_running_statistics_(
                running_mean, running_var, batch.mean, batch.var, count, momentum
            )
    else:
        batch = formula.BatchStatistics(running_mean, running_var, len(means))
    found = formula.mixed_affine(formula.Parameters(*parameters), batch, means, variances, eps)
    outputs = (mean, var, both[0], both[1], scale, offset)
    for output, value in zip(
        outputs, (means, variances, batch.mean, batch.var, *found), strict=True
    ):
        output.copy_(value)


def _affine(
    x: Tensor, y: Tensor, mean: Tensor, scale: Tensor, offset: Tensor, *_sizes: Any, **_layout: Any
) -> None:
    mean, scale, offset = map(formula.over_map, (mean, scale, offset))
    y.copy_(scale * (x.float() - mean) + offset)


def _evaluation(
    x: Tensor, y: Tensor, means: Tensor, variances: Tensor, *rest: Any, **_layout: Any
) -> None:
    parameters, running, eps = formula.Parameters(*rest[:5]), rest[5:7], rest[-1]
    batch = formula.BatchStatistics(*running, len(x))
    found = formula.mixed_affine(parameters, batch, means, variances, eps)
    _affine(x, y, means, *found)


def _sums(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    totals: Tensor,
    products: Tensor,
    *_sizes: Any,
    **_layout: Any,
) -> None:
    totals.copy_(gradient.float().sum((2, 3)))
    products.copy_((gradient.float() * (x.float() - formula.over_map(mean))).sum((2, 3)))


def _gradients(
    totals: Tensor, products: Tensor, *rest: Any, TRAINING: bool, **_layout: Any
) -> None:
    (mean, var, both), parameters, outputs = rest[:3], rest[3:8], rest[8:16]
    _samples, _channels, pixels, _chunks, eps = rest[16:]
    found = formula.mixed_affine_gradient(
        totals,
        products,
        formula.Parameters(*parameters),
        formula.BatchStatistics(both[0], both[1], len(mean)),
        mean,
        var,
        eps,
        size=pixels,
        training=TRAINING,
    )
    values = (found.a, found.b, found.c, *found.parameters)
    for output, value in zip(outputs, values, strict=True):
        if output is not None:
            output.copy_(value)


def _combination(
    gradient: Tensor,
    x: Tensor,
    of_x: Tensor,
    mean: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *_sizes: Any,
    **_layout: Any,
) -> None:
    mean, a, b, c = map(formula.over_map, (mean, a, b, c))
    of_x.copy_(a * gradient.float() + b * (x.float() - mean) + c)
