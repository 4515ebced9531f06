"""The update of MLDG (Li et al. 2018), which Table 3 compares with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from metabin_plugin.meta.step import Tensors, gradients_of, inner_update


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
