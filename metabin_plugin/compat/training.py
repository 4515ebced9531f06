"""What is broken in fastreid's training."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from metabin_plugin.compat.patching import repair
from metabin_plugin.errors import ConfigError
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


def _write_metrics(trainer: Any, losses: Mapping[str, torch.Tensor], data_time: float) -> None:
    from fastreid.utils import comm
    from fastreid.utils.events import get_event_storage

    watch = getattr(trainer, "watch", None)
    numbers = [*losses.values()] if watch is None else [*losses.values(), watch.number()]
    # All at once: each reading waits for the device.
    read = torch.cat([number.detach().reshape(1) for number in numbers]).tolist()
    if watch is not None:
        watch.value = read.pop()
    # To all processes, not to the main one alone: none of them may go on to the optimizer.
    ranks = comm.all_gather((dict(zip(losses, read, strict=True)), data_time))
    for rank, (values, _) in enumerate(ranks):
        if not all(map(math.isfinite, values.values())):
            raise NonFiniteLosses(trainer.iter, rank, values)
    if not comm.is_main_process():
        return
    storage = get_event_storage()
    storage.put_scalar("data_time", max(seconds for _, seconds in ranks))
    means = {name: sum(values[name] for values, _ in ranks) / len(ranks) for name in losses}
    storage.put_scalar("total_loss", sum(means.values()))
    if len(means) > 1:
        storage.put_scalars(**means)


def _without_stream(_original: Callable[..., Any]) -> Callable[..., Any]:
    def write_metrics(self: Any, loss_dict: Mapping[str, torch.Tensor], data_time: float) -> None:
        _write_metrics(self, loss_dict, data_time)

    return write_metrics


def repair_metrics() -> None:
    """``_write_metrics`` opens a CUDA stream that does not wait for the one computing the losses.

    On CUDA it can thus read them before they are there, and stop a sound training with "infinite or
    NaN"; on CPU it touches ``torch.cuda`` for nothing. And it looks for such losses on the main
    process alone, while the others go on and wait for it. The replacement reads them where they
    are, and raises :class:`NonFiniteLosses` on all processes.
    """
    from fastreid.engine.train_loop import SimpleTrainer

    repair(SimpleTrainer, "_write_metrics", _without_stream)


def _keep_gradient_buffers(optimizer: torch.optim.Optimizer) -> None:
    zero_grad = optimizer.zero_grad

    def zero_in_place(set_to_none: bool = False) -> None:
        zero_grad(set_to_none=False)

    optimizer.zero_grad = zero_in_place  # type: ignore[method-assign]


def _zero_in_place(original: Callable[..., Any]) -> Callable[..., Any]:
    def build_optimizer(*args: Any, **kwargs: Any) -> Any:
        from fastreid.utils.params import ContiguousParams

        optimizer, params = original(*args, **kwargs)
        if isinstance(params, ContiguousParams):
            _keep_gradient_buffers(optimizer)
        return optimizer, params

    return build_optimizer


def repair_zero_grad() -> None:
    """``optimizer.zero_grad()`` sets the gradient of ``ContiguousParams``' flat buffer to None.

    ``optimizer.step()`` then finds no gradient and updates nothing, silently: the network never
    trains. The optimizers that ``build_optimizer`` makes over such a buffer zero it in place,
    which is what PyTorch did when fastreid was written.
    """
    from fastreid.solver import build

    repair(build, "build_optimizer", _zero_in_place)


def _widened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _widened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_widened(item) for item in value]
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return at_least_float32(value)
    return value


def _in_float32(original: Callable[..., Any]) -> Callable[..., Any]:
    def losses(self: Any, *outputs: Any) -> Any:
        with torch.autocast(self.device.type, enabled=False):
            return original(self, *map(_widened, outputs))

    return losses


def repair_loss_precision() -> None:
    """Under autocast the matrix product in the triplet loss, and on CPU the softmax, are half.

    The squared norms of a distance then cancel, or overflow in float16, and a loss has three
    digits. The losses get float32 copies of half-precision outputs and compute without autocast.
    """
    from fastreid.modeling.meta_arch import distiller, mgn, moco
    from fastreid.modeling.meta_arch.baseline import Baseline

    for architecture in (Baseline, mgn.MGN, moco.MoCo, distiller.Distiller):
        repair(architecture, "losses", _in_float32)


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


def _with_scaler(original: Callable[..., Any]) -> Callable[..., Any]:
    def init(
        self: Any,
        model: torch.nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        param_wrapper: Any,
        grad_scaler: Any = None,
    ) -> None:
        if grad_scaler is None:
            grad_scaler = build_grad_scaler(_device_of(model))
        original(self, model, data_loader, optimizer, param_wrapper, grad_scaler)
        self.amp_dtype = "auto"

    return init


def _any_device(_original: Callable[..., Any]) -> Callable[..., Any]:
    def run_step(self: Any) -> None:
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

    return run_step


def repair_mixed_precision() -> None:
    """``AMPTrainer`` fails without CUDA; ``torch.amp`` serves both devices, without deprecation."""
    from fastreid.engine.train_loop import AMPTrainer

    repair(AMPTrainer, "__init__", _with_scaler)
    repair(AMPTrainer, "run_step", _any_device)


_COUNT = "freeze_steps"


def _with_saved_count(_original: Callable[..., Any]) -> Callable[..., Any]:
    def generate(
        optimizer: type[torch.optim.Optimizer], *, freeze_iters: int
    ) -> type[torch.optim.Optimizer]:
        class WithFreezeLayer(optimizer):  # type: ignore[misc, valid-type]
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

        return WithFreezeLayer

    return generate


def repair_layer_freezing() -> None:
    """The optimizer of ``MODEL.FREEZE_LAYERS`` keeps its count of steps in no state."""
    from fastreid.solver import build

    repair(build, "_generate_optimizer_class_with_freeze_layer", _with_saved_count)


# Of a place that holds no image yet: no identity's number.
NO_IDENTITY = -1

# Nothing in a sum of exponentials, and finite, so that a row of it has a gradient.
_NEGLIGIBLE = -1e8


def _with_empty_places(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.queue_label.fill_(NO_IDENTITY)

    return __init__


def _around_the_end(_original: Callable[..., None]) -> Callable[..., None]:
    @torch.no_grad()
    def _dequeue_and_enqueue(self: Any, keys: Tensor, targets: Tensor) -> None:
        from fastreid.modeling.losses.utils import concat_all_gather
        from fastreid.utils import comm

        if comm.get_world_size() > 1:
            keys, targets = concat_all_gather(keys), concat_all_gather(targets)
        places = _places(self, 0, len(keys))
        self.queue[:, places] = keys.T.to(self.queue.dtype)
        self.queue_label[:, places] = targets
        self.queue_ptr.add_(len(keys)).remainder_(self.K)

    return _dequeue_and_enqueue


def _without_itself(_original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def _pairwise_cosface(self: Any, features: Tensor, targets: Tensor) -> Tensor:
        from fastreid.utils import comm

        count = len(features)
        # This process's own images among the last ones of the queue.
        before_the_end = (comm.get_world_size() - comm.get_rank()) * count
        own = _places(self, -before_the_end, count)
        similarities = features @ self.queue.to(features.dtype)
        is_same = targets[:, None] == self.queue_label
        is_itself = torch.zeros_like(is_same)
        is_itself[torch.arange(count, device=own.device), own] = True
        positives = (-self.gamma * similarities).masked_fill(~is_same | is_itself, _NEGLIGIBLE)
        negatives = (self.gamma * (similarities + self.margin)).masked_fill(is_same, _NEGLIGIBLE)
        return functional.softplus(positives.logsumexp(1) + negatives.logsumexp(1)).mean()

    return _pairwise_cosface


def _places(memory: Any, offset: int, count: int) -> Tensor:
    """Places in the queue, counted from the next to be filled, which moves around its end."""
    steps = torch.arange(offset, offset + count, device=memory.queue.device)
    return (memory.queue_ptr + steps) % memory.K


def repair_memory_queue() -> None:
    """MoCo stops with an AssertionError where the batch does not divide ``MODEL.QUEUE_SIZE``.

    And its loss is not what it says: an image is not paired with itself, for which fastreid takes
    the queue's first places, whichever images they hold; and the random features that fill the
    queue at first count as images of identity 0. Here images go around the queue's end, the pair
    left out is the image's own, and a random feature has no identity, so that it is a negative
    for all.
    """
    from fastreid.modeling.meta_arch.moco import Memory

    repair(Memory, "__init__", _with_empty_places)
    repair(Memory, "_dequeue_and_enqueue", _around_the_end)
    repair(Memory, "_pairwise_cosface", _without_itself)


def _as_the_student(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, cfg: Any) -> None:
        with _teachers_like(cfg):
            original(self, cfg)

    return __init__


@contextmanager
def _teachers_like(cfg: Any) -> Iterator[None]:
    """A block in which the Distiller's module builds networks as the student's config has them."""
    from fastreid.modeling.meta_arch import distiller

    build_model = distiller.build_model

    def build_teacher(teacher: Any) -> nn.Module:
        teacher.MODEL.DEVICE = cfg.MODEL.DEVICE
        # Its weights come from a checkpoint, or from the student.
        teacher.MODEL.BACKBONE.PRETRAIN = False
        own, classes = teacher.MODEL.HEADS.NUM_CLASSES, cfg.MODEL.HEADS.NUM_CLASSES
        if own and classes and own != classes:
            raise ConfigError(
                f"KD.MODEL_CONFIG has a teacher with MODEL.HEADS.NUM_CLASSES {own}, but the "
                f"student has {classes}; name one that was trained on the same identities"
            )
        teacher.MODEL.HEADS.NUM_CLASSES = own or classes
        return build_model(teacher)

    distiller.build_model = build_teacher
    try:
        yield
    finally:
        distiller.build_model = build_model


def momentum_teacher(network: Any) -> nn.Module | None:
    """The Distiller's teacher that follows the student (``KD.EMA``), which no state dict holds.

    Args:
        network: a network of any architecture.

    Returns:
        None without one.
    """
    return network.model_ts[0] if getattr(network, "ema_enabled", False) else None


def repair_distillation() -> None:
    """Teachers are built on CUDA wherever the student is, and without its classes."""
    from fastreid.modeling.meta_arch.distiller import Distiller

    repair(Distiller, "__init__", _as_the_student)


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
        super().__init__(module, device_ids=None if on_cpu else device_ids, **kwargs)


def repair_distributed_model() -> None:
    """``DistributedDataParallel(device_ids=[rank])`` raises ValueError for a model on CPU.

    Its ``broadcast_buffers``, which fastreid passes too, is deprecated.
    """
    from fastreid.engine import defaults

    if defaults.DistributedDataParallel is DistributedDataParallel:
        defaults.DistributedDataParallel = AnyDeviceDataParallel


def _with_use_device(_original: Callable[..., Any]) -> Callable[..., Any]:
    def before_step(self: Any) -> None:
        self._profiler = None
        if self._enable_predicate(self.trainer):
            on_cuda = self._use_cuda and torch.cuda.is_available()
            self._profiler = torch.autograd.profiler.profile(use_device="cuda" if on_cuda else None)
            self._profiler.__enter__()

    return before_step


def repair_profiler() -> None:
    """The hook ``AutogradProfiler`` asks the profiler for ``use_cuda``, which is gone."""
    from fastreid.engine.hooks import AutogradProfiler

    repair(AutogradProfiler, "before_step", _with_use_device)
