"""One meta-learning step: inner update (Eq. 9) and outer gradient (Eq. 10)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# By parameter name, or by loss.
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class MetaStep:
    """What one meta-learning step computed.

    Attributes:
        inner_gradients: gradient of L_mtr at rho, by parameter name.
        inner_parameters: rho' of Eq. 9, by parameter name; gates in [0, 1].
        outer_gradients: gradient of the meta-test loss for Eq. 10, by parameter name, times the
            loss scale.
        meta_train_losses: terms of L_mtr (Eq. 8), detached scalars.
        meta_test_losses: terms of the meta-test loss, detached scalars.
    """

    inner_gradients: Tensors
    inner_parameters: Tensors
    outer_gradients: Tensors
    meta_train_losses: Tensors
    meta_test_losses: Tensors


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
    clipped = [moved[name] for name in (parameters if gates is None else gates)]
    if clipped:
        torch._foreach_clamp_min_(clipped, 0.0)
        torch._foreach_clamp_max_(clipped, 1.0)
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

    Returns:
        Gradients, rho' and losses; nothing is updated.
    """
    average = average or _alone
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    factor = loss_scale
    if not isinstance(factor, Tensor):
        factor = next(iter(leaves.values())).new_full((), factor)
    train_losses = meta_train(leaves)
    scaled_inner = gradients_of(train_losses, leaves, factor, create_graph=second_order)
    inner = average({name: g.detach() for name, g in scaled_inner.items()})
    inner_gradients = _unscaled(inner, loss_scale)

    moved = inner_update(leaves, inner_gradients, inner_lr, gates)
    moved_leaves = {name: value.requires_grad_() for name, value in moved.items()}
    test_losses = meta_test(moved_leaves)
    outer = average(gradients_of(test_losses, moved_leaves, factor))
    if second_order:
        direction = _unscaled(outer, loss_scale)
        curvature = average(_hessian_product(scaled_inner, leaves, direction))
        outer = {name: g - inner_lr * curvature[name] for name, g in outer.items()}

    return MetaStep(
        inner_gradients=inner_gradients,
        inner_parameters={name: value.detach() for name, value in moved_leaves.items()},
        outer_gradients=outer,
        meta_train_losses={name: loss.detach() for name, loss in train_losses.items()},
        meta_test_losses={name: loss.detach() for name, loss in test_losses.items()},
    )


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
