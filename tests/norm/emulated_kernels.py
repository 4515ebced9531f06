"""What the kernels of BIN compute, in a few operators: to run whole networks on their path."""

from __future__ import annotations

from typing import Any

import torch
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


def _statistics(x: Tensor, out: Tensor, *_sizes: Any, **_layout: Any) -> None:
    out[:, 0] = torch.stack(formula.instance_statistics(x.float()))


def _coefficients(
    of_chunks: Tensor,
    instance: Tensor,
    batch: Tensor,
    affine: Tensor,
    *rest: Any,
    TRAINING: bool,
    **_layout: Any,
) -> None:
    parameters, (running_mean, running_var, counter) = rest[:5], rest[5:8]
    pixels, _chunk, _chunks, momentum, eps, samples, _channels = rest[8:]
    if counter is not None:
        counter.add_(1)
    instance.copy_(of_chunks[:, 0])
    if TRAINING:
        of_batch = formula.batch_statistics(*instance)
        if running_mean is not None:
            formula.update_running_statistics_(
                running_mean, running_var, of_batch.mean, of_batch.var, samples * pixels, momentum
            )
    else:
        of_batch = formula.BatchStatistics(running_mean, running_var, samples)
    batch.copy_(torch.stack(of_batch[:2]))
    found = formula.mixed_affine(formula.Parameters(*parameters), of_batch, *instance, eps)
    affine.copy_(torch.stack(found))


def _normalize(x: Tensor, y: Tensor, affine: Tensor, *_sizes: Any, **_layout: Any) -> None:
    scale, shift = map(formula.over_map, affine)
    y.copy_(scale * x.float() + shift)


def _infer(x: Tensor, y: Tensor, of_chunks: Tensor, *rest: Any, **_layout: Any) -> None:
    batch = formula.BatchStatistics(*rest[5:7], len(x))
    parameters = formula.Parameters(*rest[:5])
    found = formula.mixed_affine(parameters, batch, *of_chunks[:, 0], rest[-1])
    _normalize(x, y, torch.stack(found))


def _sums(
    gradient: Tensor, x: Tensor, instance: Tensor, out: Tensor, *_sizes: Any, **_layout: Any
) -> None:
    products = gradient.float() * (x.float() - formula.over_map(instance[0]))
    out[:, 0] = torch.stack([gradient.float().sum((2, 3)), products.sum((2, 3))])


def _gradients(
    of_chunks: Tensor, instance: Tensor, batch: Tensor, *rest: Any, TRAINING: bool, **_layout: Any
) -> None:
    parameters, of_parameters, abc = rest[:5], *rest[5:7]
    pixels, _chunks, eps, samples, _channels = rest[7:]
    of_map, found = formula.mixed_affine_gradient(
        *of_chunks[:, 0],
        formula.Parameters(*parameters),
        formula.BatchStatistics(*batch, samples),
        *instance,
        eps,
        size=pixels,
        training=TRAINING,
    )
    of_parameters.copy_(torch.stack(found))
    if abc is not None:
        abc.copy_(torch.stack(of_map))


def _combination(
    gradient: Tensor, x: Tensor, of_x: Tensor, abc: Tensor, *_sizes: Any, **_layout: Any
) -> None:
    a, b, c = map(formula.over_map, abc)
    of_x.copy_(a * gradient.float() + b * x.float() + c)
