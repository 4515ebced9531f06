"""The norm layers of a network: replacing them, and finding their gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from metabin_plugin.errors import NormError
from metabin_plugin.norm.batch_instance_norm import (
    BatchInstanceNorm2d,
    HalfInstanceNorm2d,
    InstanceNorm2d,
    MixedNorm2d,
    SynchronizedBatchNorm2d,
    check_form,
)
from metabin_plugin.norm.formula import clip_

NormFactory = Callable[..., nn.Module]

# The layers of the paper's Table 4 by the name that configs use.
NORMS: Mapping[str, type[nn.Module]] = {
    "BIN": BatchInstanceNorm2d,
    "IN": InstanceNorm2d,
    "BNINHalf": HalfInstanceNorm2d,
}

# The network and the thirds of its layers, from the image to the feature (Fig. 4).
WHOLE, THIRDS = "all", ("shallow", "middle", "deep")


def convert_norm(module: nn.Module, norm: str | NormFactory) -> nn.Module:
    """Replace every `nn.BatchNorm2d` of a network by another normalization layer, in place.

    Subclasses are replaced too, except layers that already are of the new type. A new layer takes
    over what it has in common with the old one: parameters and whether they are trained, buffers,
    settings, training flag, dtype and device. The instance affine of `BatchInstanceNorm2d` starts
    as a copy of the BN affine; the paper does not say where it starts. With all gates at 1 the
    converted network computes what it computed before.

    Args:
        module: network, or a single `nn.BatchNorm2d`.
        norm: one of `NORMS`, or a class or function called with `(num_features, eps=, momentum=)`.

    Returns:
        `module`, or the new layer where `module` itself is a `nn.BatchNorm2d`.

    Raises:
        NormError: `norm` is an unknown name, or the network has no layer to convert.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> convert_norm(network, "BIN")[1].gate.shape
        torch.Size([8])
    """
    if isinstance(norm, str) and norm not in NORMS:
        raise NormError(
            f"{norm!r} is not a normalization that convert_norm knows; use one of "
            f"{', '.join(NORMS)}"
        )
    factory = NORMS[norm] if isinstance(norm, str) else norm
    replacements: dict[nn.Module, nn.Module] = {
        layer: _replacement(layer, factory)
        for layer in module.modules()
        if isinstance(layer, nn.BatchNorm2d)
    }
    if not replacements:
        raise NormError(
            f"{type(module).__name__} has no BatchNorm2d layer that could be converted to "
            f"{norm!r}; choose a backbone with batch normalization, or leave its norm as it is"
        )
    substitute(module, replacements)
    return replacements.get(module, module)


def synchronize_norms(module: nn.Module) -> None:
    """Let the norm layers of a network take batch statistics over all processes, in place.

    A `MixedNorm2d` is switched, any other `nn.BatchNorm2d` becomes a `SynchronizedBatchNorm2d`.
    """
    replacements: dict[nn.Module, nn.Module] = {}
    for layer in module.modules():
        if isinstance(layer, MixedNorm2d):
            layer.synchronize = True
        elif isinstance(layer, nn.BatchNorm2d):
            replacements[layer] = _replacement(layer, SynchronizedBatchNorm2d)
    substitute(module, replacements)


def set_norm_form(module: nn.Module, form: str) -> None:
    """Let all layers of a network that compute Eq. 1 do so in one of `NORM_FORMS`, in place.

    Raises:
        NormError: there is no such form.
    """
    check_form(form)
    for layer in module.modules():
        if isinstance(layer, MixedNorm2d):
            layer.form = form


def network_parts(layers: Sequence[str]) -> dict[str, list[str]]:
    """Layers of the whole network, and of its shallow, middle and deep third (paper, Fig. 4).

    Args:
        layers: names, from the image to the feature.

    Returns:
        Names by part. Where thirds cannot be equal, the first ones are a layer longer; those
        without a layer are left out.
    """
    thirds = zip(THIRDS, np.array_split(np.array(layers, dtype=object), len(THIRDS)), strict=True)
    parts = {part: names.tolist() for part, names in thirds if len(names)}
    return {WHOLE: list(layers), **parts}


def gate_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Gates (C,) of all batch-instance normalization layers, in the order of the network.

    They go by the name that `named_parameters` of the network, or layer, gives them.
    """
    return {
        f"{name}.gate" if name else "gate": layer.gate
        for name, layer in module.named_modules()
        if isinstance(layer, BatchInstanceNorm2d)
    }


def clip_gates_(module: nn.Module) -> None:
    """Clip the gates of all batch-instance normalization layers into [0, 1], in place."""
    clip_([gate.detach() for gate in gate_parameters(module).values()])


def count_gates(module: nn.Module) -> tuple[int, int]:
    """Number of batch-instance normalization layers and of gates (one per channel and layer).

    The paper's MobileNetV2 x1.4 has 53 and 23,822.
    """
    gates = gate_parameters(module).values()
    return len(gates), sum(gate.numel() for gate in gates)


def substitute(module: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Replace layers of a network, itself excepted, wherever it holds them, in place."""
    for parent in list(module.modules()):
        # Not named_children(), which lists a layer used twice under its first name only.
        for name, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                setattr(parent, name, replacements[child])


def _replacement(layer: nn.BatchNorm2d, factory: NormFactory) -> nn.Module:
    new = factory(layer.num_features, eps=layer.eps, momentum=layer.momentum)
    if isinstance(layer, type(new)):
        return layer
    reference = next((t for t in (layer.weight, layer.running_mean) if t is not None), None)
    if reference is not None:
        new.to(device=reference.device, dtype=reference.dtype)
    if isinstance(new, nn.BatchNorm2d):
        new.track_running_stats = layer.track_running_stats
    for name, parameter in layer.named_parameters(recurse=False):
        # The instance half starts where the batch half is, and is frozen where that is.
        for of_half in (name, f"instance_{name}"):
            own = new._parameters.get(of_half)
            if own is not None and own.shape == parameter.shape:
                copy = parameter.detach().clone()
                setattr(new, of_half, nn.Parameter(copy, requires_grad=parameter.requires_grad))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        if new._buffers.get(name) is not None:
            value = getattr(layer, name)
            setattr(new, name, None if value is None else value.detach().clone())
    return new.train(layer.training)
