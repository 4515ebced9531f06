"""Meta-learning of the gates (Section 3.3, Algorithm 1), and MLDG, for any toolbox."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from metabin_plugin.norm import MixedNorm2d, SynchronizedBatchNorm2d
from metabin_plugin.norm.formula import clip_

# By parameter name, or by loss.
Tensors = dict[str, Tensor]
# Of norm layers that leave running statistics alone where `track_running_stats` is off; a subclass
# (GhostBN of fastreid) may move its own all the same.
_HOLDING = {
    layer.forward for layer in (_BatchNorm, nn.SyncBatchNorm, MixedNorm2d, SynchronizedBatchNorm2d)
}
# Of gradients, in the order of the shares.
SIGNS = ("positive", "negative")


def split_domains(
    num_domains: int, num_meta_train: int, seed: int, iteration: int
) -> tuple[list[int], list[int]]:
    """Split the source domains at random into meta-train and meta-test domains.

    The split is a function of its arguments alone, so all processes of a run draw the same one and
    a resumed run draws the one it would have drawn.

    Args:
        num_domains: K, the number of source domains.
        num_meta_train: K_S, how many of them are meta-train domains, in [1, K - 1].
        seed: seed of the run, not negative.
        iteration: number of the iteration, not negative.

    Returns:
        The meta-train and the meta-test domains, as sorted indices in [0, K).

    Raises:
        ValueError: one side of the split would be empty.
    """
    if not 1 <= num_meta_train < num_domains:
        raise ValueError(
            f"num_meta_train must be in [1, {num_domains - 1}] for {num_domains} domains, "
            f"got {num_meta_train}"
        )
    order = np.random.default_rng([seed, iteration]).permutation(num_domains).tolist()
    return sorted(order[:num_meta_train]), sorted(order[num_meta_train:])


def random_direction(gradients: Tensors, seed: int, iteration: int) -> Tensors:
    """Directions drawn at random, each as long as the gradient in its place.

    With them in the place of its gradients, the inner step (Eq. 9) goes as far as it would in every
    layer, but not where the meta-train loss falls. They are functions of the lengths, the seed and
    the iteration alone, drawn on the CPU: the same in all processes, on any device and after a
    resume.

    Args:
        gradients: by parameter name.
        seed: seed of the run, not negative.
        iteration: number of the iteration, not negative.

    Returns:
        Tensors of the same names and shapes, each uniform on the sphere whose radius is the
        Euclidean length of its gradient.
    """
    first = next(iter(gradients.values()))
    sizes = [gradient.numel() for gradient in gradients.values()]
    # The third number parts the stream from that of the domain split.
    drawn = np.random.default_rng([seed, iteration, 1]).standard_normal(sum(sizes))
    flat = torch.from_numpy(drawn).to(first.device, first.dtype)
    parts = [
        part.view_as(gradient)
        for part, gradient in zip(flat.split(sizes), gradients.values(), strict=True)
    ]
    lengths = torch._foreach_norm(list(gradients.values()))
    factors = torch._foreach_div(lengths, torch._foreach_norm(parts))
    return dict(zip(gradients, torch._foreach_mul(parts, factors), strict=True))


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

    Example:
        >>> [triangular(iteration, 4, 0.0, 1.0) for iteration in range(5)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
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


@dataclass(frozen=True)
class MetaStep:
    """What one meta-learning step computed.

    Attributes:
        inner_gradients: gradient of L_mtr at rho, by parameter name.
        inner_parameters: rho' of Eq. 9, by parameter name; gates in [0, 1].
        outer_gradients: what Eq. 10 subtracts, by parameter name, times the loss scale.
        meta_train_losses: terms of L_mtr (Eq. 8), detached scalars.
        meta_test_losses: terms of the meta-test loss, detached scalars.
    """

    inner_gradients: Tensors
    inner_parameters: Tensors
    outer_gradients: Tensors
    meta_train_losses: Tensors
    meta_test_losses: Tensors


def meta_step(
    parameters: Mapping[str, Tensor],
    meta_train: Callable[[Tensors], Tensors],
    meta_test: Callable[[Tensors], Tensors],
    inner_lr: float,
    *,
    gates: Collection[str] | None = None,
    second_order: bool = False,
    loss_scale: float | Tensor = 1.0,
    average: Callable[[Tensors], Tensors] | None = None,
    inner_direction: Callable[[Tensors], Tensors] | None = None,
    with_meta_train: bool = False,
) -> MetaStep:
    """Gradient of the meta-test loss at rho' with respect to rho (Eq. 8-10).

    rho stands for all parameters that the step moves: the gates alone in MetaBIN, all of the
    network without episode separation (Table 3).

    The clip of Eq. 9 to [0, 1] passes gradients through unchanged, as in the authors' code: a gate
    at a bound would otherwise never leave it. With v the meta-test gradient at rho' and H the
    Hessian of L_mtr at rho, the result is v (first order) or v - beta H v (second order).

    In a distributed run every process has losses of its own; L_mtr and the meta-test loss of the
    equations are the means over them. Gradients enter them linearly, so that ``average`` is
    applied to the gradient of Eq. 9, to v and to each process's product H v, and rho' and the
    result are the same everywhere. A value that is not finite in one process is so in all.

    Args:
        parameters: rho, by name. Only their values are used.
        meta_train: terms of L_mtr as a function of the parameters; their sum is differentiated.
        meta_test: terms of the meta-test loss as a function of the parameters.
        inner_lr: beta, the inner step size.
        gates: names of the parameters that Eq. 9 clips to [0, 1]; None clips all.
        second_order: keep the term with the Hessian.
        loss_scale: factor on the losses during differentiation (mixed precision), so that small
            gradients do not vanish in half precision; a number, or a scalar on the device, which
            is not waited for. ``average`` gets scaled gradients.
        average: mean over the processes of a gradient by parameter name; None with one process.
        inner_direction: what Eq. 9 subtracts, as a function of the gradient of L_mtr, by parameter
            name, the same in all processes; None for the gradient itself. In first order only.
        with_meta_train: add the gradient of L_mtr at rho to the outer gradient, as MLDG does.

    Returns:
        Gradients, rho' and losses; nothing is updated.

    Raises:
        ValueError: a direction of its own and the second order are both asked for.
    """
    if inner_direction is not None and second_order:
        raise ValueError("an inner_direction of its own has no second order")
    average = average or _alone
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    factor = loss_scale
    if not isinstance(factor, Tensor):
        factor = next(iter(leaves.values())).new_full((), factor)
    train_losses = meta_train(leaves)
    scaled_inner = gradients_of(train_losses, leaves, factor, create_graph=second_order)
    inner = average({name: g.detach() for name, g in scaled_inner.items()})
    inner_gradients = _unscaled(inner, loss_scale)

    followed = inner_gradients if inner_direction is None else inner_direction(inner_gradients)
    moved = inner_update(leaves, followed, inner_lr, gates)
    moved_leaves = {name: value.requires_grad_() for name, value in moved.items()}
    test_losses = meta_test(moved_leaves)
    outer = average(gradients_of(test_losses, moved_leaves, factor))
    if second_order:
        direction = _unscaled(outer, loss_scale)
        curvature = average(_hessian_product(scaled_inner, leaves, direction))
        outer = {name: g - inner_lr * curvature[name] for name, g in outer.items()}
    if with_meta_train:
        total = torch._foreach_add([outer[name] for name in inner], list(inner.values()))
        outer = dict(zip(inner, total, strict=True))

    return MetaStep(
        inner_gradients=inner_gradients,
        inner_parameters={name: value.detach() for name, value in moved_leaves.items()},
        outer_gradients=outer,
        meta_train_losses={name: loss.detach() for name, loss in train_losses.items()},
        meta_test_losses={name: loss.detach() for name, loss in test_losses.items()},
    )


def inner_update(
    parameters: Mapping[str, Tensor],
    gradients: Tensors,
    inner_lr: float,
    gates: Collection[str] | None = None,
) -> Tensors:
    """Eq. 9: rho' = clip(rho - beta * gradient) to [0, 1].

    Args:
        parameters: rho, and without episode separation all others.
        gradients: gradient of L_mtr, of the same names and shapes.
        inner_lr: beta.
        gates: names of those to be clipped; None clips all.

    Returns:
        What the parameters become, detached.
    """
    # One operator for all tensors, where a loop would launch two for each.
    values = torch._foreach_sub(
        [value.detach() for value in parameters.values()],
        [gradients[name].detach() for name in parameters],
        alpha=inner_lr,
    )
    moved = dict(zip(parameters, values, strict=True))
    clip_([moved[name] for name in (parameters if gates is None else gates)])
    return moved


def gradients_of(
    losses: Tensors, leaves: Tensors, scale: float | Tensor = 1.0, create_graph: bool = False
) -> Tensors:
    """Gradient of a sum of losses.

    Args:
        losses: scalars by name.
        leaves: what to differentiate with respect to, by name.
        scale: factor on the sum.
        create_graph: whether the gradient is to be differentiated again.

    Returns:
        Gradients of the names of `leaves`; zero where the losses do not depend on them, as on the
        gate of a layer whose input is 1x1, or on a classifier where the losses are of features.
    """
    # One that depends on nothing adds nothing; where all do, PyTorch says so.
    terms = [loss for loss in losses.values() if loss.requires_grad] or list(losses.values())
    # To sum and scale them first would be launches more, forward and backward.
    factor = scale if isinstance(scale, Tensor) else terms[0].new_full((), scale)
    gradients = torch.autograd.grad(
        terms,
        list(leaves.values()),
        [factor.to(term.dtype) for term in terms],
        create_graph=create_graph,
        materialize_grads=True,
    )
    return dict(zip(leaves, gradients, strict=True))


def _alone(gradients: Tensors) -> Tensors:
    return gradients


def _unscaled(gradients: Tensors, scale: float | Tensor) -> Tensors:
    if isinstance(scale, float) and scale == 1.0:
        return gradients
    return dict(zip(gradients, torch._foreach_div(list(gradients.values()), scale), strict=True))


def _hessian_product(gradients: Tensors, leaves: Tensors, direction: Tensors) -> Tensors:
    product = sum((gradients[name] * direction[name]).sum() for name in leaves)
    if not isinstance(product, Tensor) or not product.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    rows = torch.autograd.grad(product, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, rows, strict=True))


def sign_shares(gradients: Mapping[str, Tensor]) -> Tensor:
    """Shares of gates with a positive and with a negative gradient, in the order of ``SIGNS``.

    Args:
        gradients: gradients of the gates, by name.

    Returns:
        Two numbers in [0, 1] on the device, not yet read.
    """
    flat = torch.cat([gradient.detach().flatten() for gradient in gradients.values()])
    return torch.stack([flat > 0, flat < 0]).mean(1, dtype=torch.float32)


def sign_shares_by_loss(
    names: Collection[str],
    losses: Callable[[tuple[str, ...], Tensors], Tensors],
    gates: Mapping[str, Tensor],
    scale: float | Tensor,
    average: Callable[[Tensors], Tensors],
) -> dict[str, list[float]]:
    """``sign_shares`` of each loss alone: a forward and a backward pass more for each.

    The device is waited for once. PyTorch's random generators are afterwards as they were.

    Args:
        names: the losses.
        losses: computes those of the given names at the given gates.
        gates: rho, by name. Only their values are used.
        scale: factor on the losses during differentiation (mixed precision).
        average: mean over the processes of a gradient by name.

    Returns:
        Two numbers by loss.
    """
    leaves = {name: gate.detach().requires_grad_() for name, gate in gates.items()}
    device = next(iter(leaves.values())).device
    shares = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for name in names:
            gradients = gradients_of(losses((name,), leaves), leaves, scale)
            shares.append(sign_shares(average(gradients)))
    return dict(zip(names, torch.stack(shares).tolist(), strict=True))


@dataclass(frozen=True)
class MLDGStep:
    """What one step of MLDG computed at the moved parameters.

    Attributes:
        inner_parameters: theta', by name, detached; gates in [0, 1].
        meta_test_losses: terms of the meta-test loss at theta', detached scalars.
        meta_test_gradients: their gradient, by parameter name.
        gradients: the gradient to update theta with, by parameter name.
    """

    inner_parameters: Tensors
    meta_test_losses: Tensors
    meta_test_gradients: Tensors
    gradients: Tensors


def mldg_step(
    parameters: Mapping[str, Tensor],
    meta_train_gradients: Mapping[str, Tensor],
    meta_test: Callable[[Tensors], Tensors],
    inner_lr: float,
    *,
    gates: Collection[str] = (),
    average: Callable[[Tensors], Tensors] | None = None,
) -> MLDGStep:
    """Gradient of MLDG's objective with respect to all parameters, in first order.

    With F the loss of the meta-train domains and G that of the meta-test domains, MLDG minimizes
    `F(theta) + G(theta - beta F'(theta))` (Li et al., "Learning to Generalize: Meta-Learning for
    Domain Generalization", AAAI 2018, Eq. 3 with equal weights). In first order, as all
    meta-optimization of the paper (Section 4.1), its gradient is `F'(theta) + G'(theta')`.

    Args:
        parameters: theta, by name. Only their values are used.
        meta_train_gradients: F'(theta), of the same names and shapes, the mean over all processes.
        meta_test: terms of G as a function of the parameters; their sum is differentiated.
        inner_lr: beta, the inner step size.
        gates: names of the parameters that the inner step clips to [0, 1].
        average: mean over the processes of a gradient by parameter name; None with one process.

    Returns:
        Gradients and losses; nothing is updated.
    """
    moved = inner_update(parameters, dict(meta_train_gradients), inner_lr, gates)
    leaves = {name: value.requires_grad_() for name, value in moved.items()}
    losses = meta_test(leaves)
    outer = gradients_of(losses, leaves)
    if average is not None:
        outer = average(outer)
    return MLDGStep(
        inner_parameters={name: value.detach() for name, value in leaves.items()},
        meta_test_losses={name: loss.detach() for name, loss in losses.items()},
        meta_test_gradients=outer,
        gradients={name: meta_train_gradients[name] + outer[name] for name in leaves},
    )


def held_call(
    module: nn.Module, *inputs: Any, parameters: Mapping[str, Tensor] | None = None
) -> Any:
    """Call a module at other parameters, with everything else in it held.

    Its own parameters enter as constants, so that no gradient but those of ``parameters`` is
    computed. In training mode batch normalization uses batch statistics and does not compute
    running ones ("hold"). Other buffers enter as copies, for modules that would write theirs all
    the same.

    Args:
        module: the module; afterwards it is as it was.
        *inputs: its positional inputs.
        parameters: values to use instead of the parameters of these names.

    Returns:
        What the module returns; differentiable with respect to ``parameters`` and ``inputs``.
    """
    given = {**_copied_buffers(module), **(parameters or {})}
    # A forward that replays recorded passes does without the others in the place of all parameters.
    holding = getattr(module.forward, "holding", None)
    with _held_statistics(module):
        if holding is not None:
            with holding(given):
                return module(*inputs)
        constants = {name: value.detach() for name, value in module.named_parameters()}
        return functional_call(module, {**constants, **given}, inputs)


def _copied_buffers(module: nn.Module) -> dict[str, Tensor]:
    # A copy is a launch, and batch normalization alone has three buffers a layer.
    return {
        f"{name}.{buffer_name}" if name else buffer_name: buffer.clone()
        for name, part in module.named_modules()
        if type(part).forward not in _HOLDING
        for buffer_name, buffer in part.named_buffers(recurse=False)
    }


@contextmanager
def _held_statistics(module: nn.Module) -> Iterator[None]:
    held = [
        norm
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training and norm.track_running_stats
    ]
    for norm in held:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in held:
            norm.track_running_stats = True
