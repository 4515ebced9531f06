"""Training steps, optimizers, half precision and several processes."""

from __future__ import annotations

import inspect
import math
import pickle
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from metabin_plugin.compat.patching import patch
from metabin_plugin.precision import at_least_float32


class NonFiniteLosses(FloatingPointError):
    """The losses of an iteration are not finite; raised on all processes together.

    Args:
        iteration: number of the iteration.
        rank: the first process with such losses.
        losses: its losses, by name.
    """

    def __init__(self, iteration: int, rank: int, losses: Mapping[str, float]) -> None:
        super().__init__(f"the loss is not finite at iteration {iteration} (rank {rank}): {losses}")
        self.losses = losses


class Watch:
    """A number to be read from the device with the losses of each step, after the backward pass.

    It is at work while it is the attribute ``watch`` of a ``SimpleTrainer``.

    Args:
        number: computes it, a tensor of one element.

    Attributes:
        value: the number of the last step.
    """

    def __init__(self, number: Callable[[], torch.Tensor]) -> None:
        self.number = number
        self.value = math.nan


@patch(
    "fastreid.engine.train_loop:SimpleTrainer._write_metrics",
    fault="It opens a CUDA stream that does not wait for the one which computes the losses. On "
    'CUDA it can read them before they are there, and stop a sound training with "infinite or '
    'NaN"; on CPU it touches ``torch.cuda`` for nothing. It looks for such losses on the main '
    "process alone, while the others go on and wait for it.",
    unless=None,
)
def write_metrics(trainer: Any, loss_dict: Mapping[str, torch.Tensor], data_time: float) -> None:
    """Read the losses in the stream that computes them, and raise on all processes together."""
    from fastreid.utils import comm
    from fastreid.utils.events import get_event_storage

    watch = getattr(trainer, "watch", None)
    numbers = [*loss_dict.values()] if watch is None else [*loss_dict.values(), watch.number()]
    # All at once: each reading waits for the device.
    read = torch.cat([number.detach().reshape(1) for number in numbers]).tolist()
    if watch is not None:
        watch.value = read.pop()
    # To all processes, not to the main one alone: none of them may go on to the optimizer.
    ranks = comm.all_gather((dict(zip(loss_dict, read, strict=True)), data_time))
    for rank, (values, _) in enumerate(ranks):
        if not all(map(math.isfinite, values.values())):
            raise NonFiniteLosses(trainer.iter, rank, values)
    if not comm.is_main_process():
        return
    storage = get_event_storage()
    storage.put_scalar("data_time", max(seconds for _, seconds in ranks))
    means = {name: sum(values[name] for values, _ in ranks) / len(ranks) for name in loss_dict}
    storage.put_scalar("total_loss", sum(means.values()))
    if len(means) > 1:
        storage.put_scalars(**means)


@patch(
    "fastreid.solver.build:build_optimizer",
    fault="With PyTorch 2.0 and later nothing is learned: ``optimizer.zero_grad()`` sets the "
    "gradient of ``ContiguousParams``' flat buffer to None, and ``optimizer.step()`` then finds no "
    "gradient and updates nothing, silently.",
    unless="the parameters are not in such a buffer.",
)
def build_optimizer_over_buffer(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Let ``zero_grad()`` zero in place, as PyTorch did when fastreid was written."""
    optimizer, params = original(*args, **kwargs)
    _keep_gradients(optimizer, params)
    return optimizer, params


@patch(
    "fastreid.engine.train_loop:SimpleTrainer.__init__",
    fault="With PyTorch 2.0 and later nothing is learned where a trainer's own ``build_optimizer`` "
    "makes the optimizer over ``ContiguousParams``: ``zero_grad()`` drops the gradient there too.",
    unless="the parameters are not in such a buffer.",
)
def init_over_buffer(original: Callable[..., None], self: Any, *args: Any, **kwargs: Any) -> None:
    """Let that optimizer's ``zero_grad()`` zero in place."""
    original(self, *args, **kwargs)
    _keep_gradients(self.optimizer, self.param_wrapper)


def _keep_gradients(optimizer: Any, params: Any) -> None:
    from fastreid.utils.params import ContiguousParams

    if not isinstance(params, ContiguousParams):
        return
    zero_grad = optimizer.zero_grad

    def zero_in_place(set_to_none: bool = False) -> None:
        zero_grad(set_to_none=False)

    optimizer.zero_grad = zero_in_place


@patch(
    "fastreid.solver.build:get_default_optimizer_params",
    fault="It knows biases by the name ``bias``, and takes the gate of a BIN layer for the weight "
    "of a norm layer. Weight decay would pull every channel's gate towards instance normalization.",
    unless="the network has no BIN layers.",
)
def optimizer_params_of_bin(
    original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any
) -> Any:
    """Treat ``instance_bias`` as the bias it is, and keep weight decay from ``gate``.

    Gates have none in the paper's own optimizer (Section 4.1), nor where they are trained jointly.
    """
    override = {}
    factor = kwargs.get("bias_lr_factor")
    if factor is not None and factor != 1.0:
        override["lr"] = kwargs["base_lr"] * factor
    if kwargs.get("weight_decay_bias") is not None:
        override["weight_decay"] = kwargs["weight_decay_bias"]
    own = {"instance_bias": override, "gate": {"weight_decay": 0.0}}
    overrides = {**(kwargs.pop("overrides", None) or {}), **own}
    return original(model, *args, overrides=overrides, **kwargs)


@patch(
    "fastreid.solver.build:_generate_optimizer_class_with_gradient_clipping",
    fault="Its step calls that of PyTorch's class, into which PyTorch puts the hooks of steps when "
    "any optimizer of that class is made. From then on each hook runs twice in a step.",
    unless="no hook is registered.",
)
def optimizer_with_clipping(
    original: Callable[..., Any], optimizer: type[torch.optim.Optimizer], **clippers: Any
) -> Any:
    """Let it call a step without hooks, so that they run once, before the clipping and after."""
    return original(_without_hooks(optimizer), **clippers)


def _without_hooks(optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """A class to derive from: hooks are for the derived one's step to run."""

    def step(self: Any, closure: Callable[[], float] | None = None) -> Any:
        found: Any = optimizer.step
        # PyTorch may have put them there since.
        return (found.__wrapped__ if getattr(found, "hooked", False) else found)(self, closure)

    return type(optimizer.__name__, (optimizer,), {"step": step})


_COUNT = "freeze_steps"


@patch(
    "fastreid.solver.build:_generate_optimizer_class_with_freeze_layer",
    fault="The optimizer of ``MODEL.FREEZE_LAYERS`` keeps its count of steps in no state: a run "
    "that is resumed freezes the layers anew. Where an iteration has several steps, or none, it "
    "does not end with the iteration that ``SOLVER.FREEZE_ITERS`` names. Hooks run twice, as with "
    "clipping.",
    unless=None,
)
def optimizer_with_saved_count(
    optimizer: type[torch.optim.Optimizer], *, freeze_iters: int
) -> type[torch.optim.Optimizer]:
    """Keep the count in the optimizer's state dict, and let a trainer set it."""

    class WithFreezeLayer(_without_hooks(optimizer)):  # type: ignore[misc]
        def step(self, closure: Callable[[], float] | None = None) -> Any:
            # In a group, which the optimizer's state_dict holds.
            first = self.param_groups[0]
            done = first.get(_COUNT, 0)
            if done >= freeze_iters:
                return super().step(closure)
            first[_COUNT] = done + 1
            frozen = [
                (parameter, parameter.grad)
                for group in self.param_groups
                if group["freeze_status"] == "freeze"
                for parameter in group["params"]
            ]
            for parameter, _ in frozen:
                parameter.grad = None
            loss = super().step(closure)
            for parameter, gradient in frozen:
                parameter.grad = gradient
            return loss

        def count_iterations(self, done: int) -> None:
            self.param_groups[0][_COUNT] = done

    return WithFreezeLayer


def count_frozen_iterations(optimizer: torch.optim.Optimizer, done: int) -> None:
    """Let the layers of ``MODEL.FREEZE_LAYERS`` be frozen by iterations in place of steps.

    An iteration may have several steps (``METABIN.FIRST_BASE_UPDATES``), or none where a gradient
    overflowed under a loss scale. Call it before each step.

    Args:
        optimizer: of ``build_optimizer``; one that freezes nothing is left as it is.
        done: number of finished iterations.
    """
    count = getattr(optimizer, "count_iterations", None)
    if count is not None:
        count(done)


_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class LossScaler(torch.amp.GradScaler):
    """``GradScaler`` that also goes on from a run without a loss scale."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a ``state_dict``; one of a disabled scaler is empty and changes nothing."""
        if state_dict:
            super().load_state_dict(state_dict)


def autocast_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """Half-precision type to compute in on a device.

    Args:
        device: where the model is.
        name: ``SOLVER.AMP.DTYPE``; "auto" is float16 on CUDA and bfloat16 elsewhere.
    """
    if name == "auto":
        name = "float16" if device.type == "cuda" else "bfloat16"
    return _DTYPES[name]


def build_grad_scaler(device: torch.device, name: str = "auto") -> LossScaler:
    """Loss scaler for a device; disabled with bfloat16, whose range needs no scaling.

    Args:
        device: where the model is.
        name: ``SOLVER.AMP.DTYPE``.
    """
    return LossScaler(device.type, enabled=autocast_dtype(device, name) is torch.float16)


def use_dtype(trainer: Any, name: str) -> None:
    """Let an ``AMPTrainer`` that has not trained yet compute in another half-precision type.

    Args:
        trainer: the trainer.
        name: ``SOLVER.AMP.DTYPE``.
    """
    trainer.amp_dtype = name
    trainer.grad_scaler = build_grad_scaler(_device_of(trainer.model), name)


def _device_of(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


@patch(
    "fastreid.engine.train_loop:AMPTrainer.__init__",
    fault="It makes a scaler of ``torch.cuda.amp``, which is deprecated, and fails without CUDA.",
    unless="a ``grad_scaler`` is given.",
)
def init_with_scaler(
    original: Callable[..., Any],
    self: Any,
    model: torch.nn.Module,
    data_loader: Any,
    optimizer: torch.optim.Optimizer,
    param_wrapper: Any,
    grad_scaler: Any = None,
) -> None:
    """Make the scaler of ``torch.amp`` for the model's device."""
    if grad_scaler is None:
        grad_scaler = build_grad_scaler(_device_of(model))
    original(self, model, data_loader, optimizer, param_wrapper, grad_scaler)
    self.amp_dtype = "auto"


@patch(
    "fastreid.engine.train_loop:AMPTrainer.run_step",
    fault="It asserts CUDA, and computes under the deprecated ``torch.cuda.amp.autocast``.",
    unless=None,
)
def run_amp_step(self: Any) -> None:
    """Do the same step with ``torch.autocast``, on any device and in ``SOLVER.AMP.DTYPE``."""
    if not self.model.training:
        raise RuntimeError("the model was switched to eval mode in the middle of training")
    start = time.perf_counter()
    batch = next(self._data_loader_iter)
    data_time = time.perf_counter() - start

    device = _device_of(self.model)
    with torch.autocast(device.type, dtype=autocast_dtype(device, self.amp_dtype)):
        losses = self.model(batch)
        loss = sum(losses.values())

    self.optimizer.zero_grad()
    self.grad_scaler.scale(loss).backward()
    self._write_metrics(losses, data_time)
    self.grad_scaler.step(self.optimizer)
    self.grad_scaler.update()
    if hasattr(self.param_wrapper, "assert_buffer_is_valid"):
        self.param_wrapper.assert_buffer_is_valid()


@patch(
    "fastreid.modeling.meta_arch.baseline:Baseline.losses",
    "fastreid.modeling.meta_arch.mgn:MGN.losses",
    "fastreid.modeling.meta_arch.moco:MoCo.losses",
    "fastreid.modeling.meta_arch.distiller:Distiller.losses",
    fault="Under autocast the matrix product in the triplet loss is in half precision, and on CPU "
    "the softmax too. The squared norms of a distance then cancel, or overflow in float16, and a "
    "loss has three digits.",
    unless="the outputs are float32 and autocast is off.",
)
def losses_in_float32(original: Callable[..., Any], self: Any, *outputs: Any) -> Any:
    """Compute the losses of float32 copies, and without autocast."""
    with torch.autocast(self.device.type, enabled=False):
        return original(self, *map(_widened, outputs))


def _widened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _widened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_widened(item) for item in value]
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return at_least_float32(value)
    return value


@patch(
    "fastreid.engine.hooks:AutogradProfiler.before_step",
    fault="It asks the profiler for ``use_cuda``, which PyTorch has dropped.",
    unless=None,
)
def before_profiled_step(self: Any) -> None:
    """Ask for ``use_device``, and for CUDA only where there is any."""
    self._profiler = None
    if self._enable_predicate(self.trainer):
        on_cuda = self._use_cuda and torch.cuda.is_available()
        self._profiler = torch.autograd.profiler.profile(use_device="cuda" if on_cuda else None)
        self._profiler.__enter__()


@patch(
    "fastreid.engine.defaults:DistributedDataParallel",
    fault="Its ``device_ids=[rank]``, which fastreid passes, raises a ValueError for a model on "
    "CPU. Its ``broadcast_buffers`` is deprecated. A classifier that no loss of "
    "``MODEL.LOSSES.NAME`` reads, as without CrossEntropyLoss, ends the second iteration.",
    unless="the model is on a GPU, its losses read the classifier, and PyTorch has no "
    "``forward_sync_buffers``.",
)
class AnyDeviceDataParallel(DistributedDataParallel):
    """``DistributedDataParallel`` as fastreid calls it, for a model on any device.

    Args:
        module: The model; on CPU ``device_ids`` is ignored.
        device_ids: This process's GPU.
        broadcast_buffers: Whether each forward pass begins with rank 0's buffers. Where PyTorch
            has ``forward_sync_buffers`` this is passed under that name, so that all processes
            start from rank 0's buffers whatever it is.
        **kwargs: Passed on.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        device_ids: list[int] | None = None,
        broadcast_buffers: bool = True,
        **kwargs: Any,
    ) -> None:
        on_cpu = next(module.parameters()).device.type == "cpu"
        names = inspect.signature(DistributedDataParallel).parameters
        current = "forward_sync_buffers" in names
        kwargs["forward_sync_buffers" if current else "broadcast_buffers"] = broadcast_buffers
        losses = getattr(module, "loss_kwargs", {}).get("loss_names")
        if losses is not None and "CrossEntropyLoss" not in losses:
            kwargs["find_unused_parameters"] = True
        super().__init__(module, device_ids=None if on_cpu else device_ids, **kwargs)


@patch(
    "fastreid.utils.comm:_serialize_to_tensor",
    fault="It passes gathered objects through ``torch.ByteStorage``, which PyTorch has deprecated.",
    unless=None,
)
def serialize_to_tensor(data: Any, group: Any) -> torch.Tensor:
    """Pass them through a buffer of bytes."""
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    return torch.frombuffer(bytearray(pickle.dumps(data)), dtype=torch.uint8).to(device)
