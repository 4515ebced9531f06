"""Ways to compute a BIN layer, and the choice between them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

from metabin_plugin.errors import NormError
from metabin_plugin.norm.compiled_passes import COMPILED_PASSES, COMPILED_VECTORS, can_compile
from metabin_plugin.norm.one_pass import Form, memory_format_of
from metabin_plugin.norm.passes import CONTIGUOUS_CPU, eager_passes
from metabin_plugin.norm.statistics import Batch, batch_statistics
from metabin_plugin.norm.vectors import EAGER_VECTORS

# "compiled" by torch.compile; "eager", without a compiler; "plain", in differentiable operators
# alone, with more memory and time; "auto", the fastest that there is for a feature map.
NORM_FORMS = ("auto", "compiled", "eager", "plain")

# Numbers of values below which the eager form is as fast: that with PyTorch's native kernels, and
# any other, where the cost of calling compiled functions decides.
_WORTH_COMPILING_FOR_NATIVE = 2**22
_WORTH_COMPILING = 2**18
_NARROW = (torch.float32, torch.bfloat16, torch.float16)


def choose_form(form: str, x: Tensor, batch: Batch) -> Form | None:
    """The form to compute a feature map in.

    Args:
        form: one of `NORM_FORMS`.
        x: feature map (N, C, H, W).
        batch: statistics for the batch half.

    Returns:
        What to compute with; None is the plain form, also wherever the layer is traced, compiled
        as part of a network, or transformed by `torch.func`.

    Raises:
        NormError: there is no such form, or it is "compiled" and nothing can be compiled.
    """
    check_form(form)
    if form == "plain" or is_traced(x):
        return None
    if form == "eager" or (form == "auto" and not _is_worth_compiling(x)):
        return Form(eager_passes(x), EAGER_VECTORS)
    if not can_compile(x.device.type, x.dtype, memory_format_of(x)):
        if form == "compiled":
            raise NormError(
                f"the form of BIN is 'compiled', but torch.compile fails on {x.device.type} (the "
                "log says why); install a compiler, or choose 'auto'"
            )
        return Form(eager_passes(x), EAGER_VECTORS)
    own = isinstance(batch, tuple) or batch is batch_statistics
    return Form(COMPILED_PASSES, COMPILED_VECTORS if own else EAGER_VECTORS)


def check_form(form: str) -> None:
    """Refuse a name that is none of `NORM_FORMS`.

    Raises:
        NormError: there is no such form.
    """
    if form not in NORM_FORMS:
        raise NormError(f"BIN has no form {form!r}; choose among {', '.join(NORM_FORMS)}")


def is_traced(x: Tensor) -> bool:
    """Whether operators are recorded, so that neither values nor hand-written kernels may matter.

    Args:
        x: feature map.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or type(x) not in (Tensor, Parameter)
        or torch._C._are_functorch_transforms_active()
    )


def _is_worth_compiling(x: Tensor) -> bool:
    has_native = x.dtype == torch.float32 and eager_passes(x) is CONTIGUOUS_CPU
    return (
        x.device.type in ("cpu", "cuda")
        and x.dtype in _NARROW
        and x.numel() >= (_WORTH_COMPILING_FOR_NATIVE if has_native else _WORTH_COMPILING)
        # Sizes of 1 would each be compiled for.
        and min(x.shape) > 1
    )
