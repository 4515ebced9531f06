"""One meta-learning step on the gates: inner update (Eq. 9) and outer gradient (Eq. 10)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Gates = dict[str, Tensor]
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class MetaStep:
    """What one meta-learning step computed.

    Attributes:
        inner_gradients: gradient of L_mtr at rho, per gate.
        inner_gates: rho' of Eq. 9, per gate, in [0, 1].
        outer_gradients: gradient of the meta-test loss for Eq. 10, per gate, times the loss scale.
        meta_train_losses: terms of L_mtr (Eq. 8), detached scalars.
        meta_test_losses: terms of the meta-test loss, detached scalars.
    """

    inner_gradients: Gates
    inner_gates: Gates
    outer_gradients: Gates
    meta_train_losses: Losses
    meta_test_losses: Losses


def inner_update(gates: Mapping[str, Tensor], gradients: Gates, inner_lr: float) -> Gates:
    """Eq. 9: rho' = clip(rho - beta * gradient) to [0, 1].

    Args:
        gates: rho, per layer, shape (C,).
        gradients: gradient of L_mtr, of the same names and shapes.
        inner_lr: beta.

    Returns:
        rho', detached.
    """
    return {
        name: (gate.detach() - inner_lr * gradients[name].detach()).clamp_(0.0, 1.0)
        for name, gate in gates.items()
    }


def meta_step(
    gates: Mapping[str, Tensor],
    meta_train: Callable[[Gates], Losses],
    meta_test: Callable[[Gates], Losses],
    inner_lr: float,
    *,
    second_order: bool = False,
    loss_scale: float | Tensor = 1.0,
    average: Callable[[Gates], Gates] | None = None,
) -> MetaStep:
    """Gradient of the meta-test loss at rho' with respect to rho (Eq. 8-10).

    The clip of Eq. 9 to [0, 1] passes gradients through unchanged, as in the authors' code: a gate
    at a bound would otherwise never leave it. With v the meta-test gradient at rho' and H the
    Hessian of L_mtr at rho, the result is v (first order) or v - beta H v (second order).

    In a distributed run every process has losses of its own; L_mtr and the meta-test loss of the
    equations are the means over them. Gradients enter them linearly, so that ``average`` is
    applied to the gradient of Eq. 9, to v and to each process's product H v, and rho' and the
    result are the same everywhere. A value that is not finite in one process is so in all.

    Args:
        gates: rho, per layer, shape (C,). Only their values are used.
        meta_train: terms of L_mtr as a function of the gates; their sum is differentiated.
        meta_test: terms of the meta-test loss as a function of the gates.
        inner_lr: beta, the inner step size.
        second_order: keep the term with the Hessian.
        loss_scale: factor on the losses during differentiation (mixed precision), so that small
            gradients do not vanish in half precision; a number, or a scalar on the device, which
            is not waited for. ``average`` gets scaled gradients.
        average: mean over the processes of a gradient by gate name; None with one process.

    Returns:
        Gradients, rho' and losses; nothing is updated.
    """
    average = average or _alone
    leaves = {name: gate.detach().requires_grad_() for name, gate in gates.items()}
    train_losses = meta_train(leaves)
    scaled_inner = _gradients(train_losses, leaves, loss_scale, create_graph=second_order)
    inner = average({name: g.detach() for name, g in scaled_inner.items()})
    inner_gradients = _unscaled(inner, loss_scale)

    moved = inner_update(leaves, inner_gradients, inner_lr)
    moved_leaves = {name: gate.requires_grad_() for name, gate in moved.items()}
    test_losses = meta_test(moved_leaves)
    outer = average(_gradients(test_losses, moved_leaves, loss_scale))
    if second_order:
        direction = _unscaled(outer, loss_scale)
        curvature = average(_hessian_product(scaled_inner, leaves, direction))
        outer = {name: g - inner_lr * curvature[name] for name, g in outer.items()}

    return MetaStep(
        inner_gradients=inner_gradients,
        inner_gates={name: gate.detach() for name, gate in moved_leaves.items()},
        outer_gradients=outer,
        meta_train_losses={name: loss.detach() for name, loss in train_losses.items()},
        meta_test_losses={name: loss.detach() for name, loss in test_losses.items()},
    )


def _alone(gradients: Gates) -> Gates:
    return gradients


def _unscaled(gradients: Gates, scale: float | Tensor) -> Gates:
    if isinstance(scale, float) and scale == 1.0:
        return gradients
    return {name: gradient / scale for name, gradient in gradients.items()}


def _gradients(
    losses: Losses, gates: Gates, scale: float | Tensor, create_graph: bool = False
) -> Gates:
    total = torch.stack(list(losses.values())).sum() * scale
    # A layer whose input is 1x1 does not use its gate; its gradient is zero.
    gradients = torch.autograd.grad(
        total, list(gates.values()), create_graph=create_graph, materialize_grads=True
    )
    return dict(zip(gates, gradients, strict=True))


def _hessian_product(gradients: Gates, gates: Gates, direction: Gates) -> Gates:
    product = sum((gradients[name] * direction[name]).sum() for name in gates)
    if not isinstance(product, Tensor) or not product.requires_grad:
        return {name: torch.zeros_like(gate) for name, gate in gates.items()}
    rows = torch.autograd.grad(product, list(gates.values()), materialize_grads=True)
    return dict(zip(gates, rows, strict=True))
