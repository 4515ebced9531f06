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


def _batch_statistics(
    of_chunks: Tensor, instance: Tensor, batch: Tensor, *rest: Any, TRAINING: bool, **_layout: Any
) -> None:
    running_mean, running_var, counter, pixels, _, _, momentum, samples, _ = rest
    if counter is not None:
        counter.add_(1)
    instance.copy_(of_chunks[:, 0])
    if not TRAINING:
        batch.copy_(torch.stack([running_mean, running_var]))
        return
    own = formula.batch_statistics(*instance)
    batch.copy_(torch.stack([own.mean, own.var]))
    if running_mean is not None:
        count = samples * pixels
        formula.update_running_statistics_(
            running_mean, running_var, own.mean, own.var, count, momentum
        )


def _normalize(x: Tensor, y: Tensor, instance: Tensor, *rest: Any, **_layout: Any) -> None:
    parameters, (batch_mean, batch_var), eps = rest[:5], rest[5:7], rest[-1]
    mean, var = instance.view(2, *x.shape[:2])
    batch = formula.BatchStatistics(batch_mean, batch_var, len(x))
    found = formula.mixed_affine(formula.Parameters(*parameters), batch, mean, var, eps)
    mean, scale, offset = map(formula.over_map, (mean, *found))
    y.copy_(scale * (x.float() - mean) + offset)


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
    gradient: Tensor,
    x: Tensor,
    of_x: Tensor,
    instance: Tensor,
    abc: Tensor,
    *_sizes: Any,
    **_layout: Any,
) -> None:
    mean, a, b, c = map(formula.over_map, (instance[0], *abc))
    of_x.copy_(a * gradient.float() + b * (x.float() - mean) + c)
