"""CUDA graphs of a backbone: the kernels of a pass, recorded once and then launched all at once.

Launching the hundreds of kernels of a network from Python costs more than running them. A pass of
the training repeats them with other values at the same addresses, which is what a graph does.
"""

from __future__ import annotations

import gc
import logging
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from metabin_plugin.processes import are_several
from metabin_plugin.text import shown

logger = logging.getLogger(__name__)

# The base step, meta-train and meta-test, and as many again where layers are frozen for a while.
_MOST_GRAPHS = 6
# Passes of a kind that run eagerly before it is recorded: the last, smaller batch has no second.
_BEFORE_RECORDING = 1
_WARM_UPS = 3
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Relative difference up to which a replay is taken for what it was recorded from; kernels that add
# in no fixed order differ in the last digits.
_TOLERANCE = 5e-2

Replay = Callable[[], object]


class Recorder(Protocol):
    """Records what functions launch."""

    def record(self, function: Callable[[], Any]) -> tuple[Any, Replay]:
        """Run a function while it is recorded.

        Returns:
            What the function returned, and what launches the same again: it reads and writes the
            same tensors, the returned ones included.
        """

    def apart(self, function: Callable[[], Any], waits: bool = True) -> Any:
        """Run a function as it has to run before it is recorded.

        Args:
            function: what is to be recorded later.
            waits: whether it may wait for the device, as what is recorded must not.
        """


class CudaRecorder:
    """Records CUDA graphs, all in one pool of memory.

    They may share it because passes follow one another: a graph's memory is free for the next one
    when its backward pass is over.

    Args:
        device: the GPU; the current one if it has no number.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def record(self, function: Callable[[], Any]) -> tuple[Any, Replay]:
        """See ``Recorder``."""
        graph = torch.cuda.CUDAGraph()
        errors: list[Exception] = []

        def watched() -> Any:
            try:
                return function()
            except Exception as error:
                errors.append(error)
                raise

        with torch.cuda.device(self._device):
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            try:
                returned = self._capture(graph, self._pool, watched)
            except Exception as error:
                _end_allocation(self._pool)
                # The random generator goes on waiting for a capture that failed, until one ends.
                with suppress(Exception):
                    self._capture(
                        torch.cuda.CUDAGraph(),
                        torch.cuda.graph_pool_handle(),
                        lambda: torch.zeros(1, device="cuda"),
                    )
                # The end of the capture fails, too, and would hide why.
                cause = errors.pop() if errors else error
                try:
                    raise cause from None
                finally:
                    # Else its frames, with all activations, live until garbage is collected.
                    del cause
        return returned, graph.replay

    def _capture(self, graph: torch.cuda.CUDAGraph, pool: Any, function: Callable[[], Any]) -> Any:
        was_enabled = gc.isenabled()
        # What it would free, CUDA may refuse to free meanwhile.
        gc.disable()
        try:
            # The outer one, because PyTorch stays on its own stream when a capture fails. Other
            # threads, as that which pins batches, may call CUDA meanwhile.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, pool, self._side(), capture_error_mode="thread_local"),
            ):
                return function()
        finally:
            if was_enabled:
                gc.enable()

    def apart(self, function: Callable[[], Any], waits: bool = True) -> Any:
        """See ``Recorder``."""
        with torch.cuda.device(self._device):
            stream = self._side()
            stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(stream), nullcontext() if waits else _without_waiting():
                    return function()
            finally:
                # What it has launched may still write, even where it failed.
                torch.cuda.current_stream().wait_stream(stream)

    def _side(self) -> torch.cuda.Stream:
        # Always the same one: what is freed on a stream is kept for it alone, and that which
        # PyTorch takes by itself is on the device that recorded first.
        self._stream = self._stream or torch.cuda.Stream()
        return self._stream


@contextmanager
def _without_waiting() -> Iterator[None]:
    """Inside, operators of PyTorch that wait for the device raise an error.

    A capture would fail of them, which leaves more behind than an error does.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # PyTorch says that it does not find all of them.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _end_allocation(pool: Any) -> None:
    """Let PyTorch's allocator forget a capture that failed.

    PyTorch 2.12 and before go on taking it for one that is under way. Memory that another stream
    has used is then never used again, and ``torch.cuda.empty_cache`` fails.
    """
    # PyTorch 2.6 and 2.7 have it by the second name.
    for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):
        end = getattr(torch._C, name, None)
        if end is not None:
            # That it is not under way.
            with suppress(RuntimeError):
                end(torch.cuda.current_device(), pool)
            return


class GraphedForward:
    """The ``forward`` of a backbone that replays graphs in training, and else is the original.

    A kind of pass, its images' size and format, the parameters that get gradients, modes of layers
    and autocast, is recorded when it comes the second time. Parameters and buffers of the backbone
    are read and written where they are, also without a gradient (``Tensor.detach``). Others in
    their place (``torch.func.functional_call``) are copied to a fixed address first, and buffers
    back from there. What cannot be recorded runs eagerly, and the log says why, once; after a
    recording that failed nothing is recorded any more. A copy of the backbone has the original
    ``forward``.

    Args:
        backbone: the network; its ``forward`` is replaced.
        recorder: what records.

    Attributes:
        reasons: why passes ran eagerly.
    """

    def __init__(self, backbone: nn.Module, recorder: Recorder) -> None:
        self._backbone = weakref.ref(backbone)
        self._eager: Callable[[Tensor], Tensor] = backbone.forward
        self._recorder = recorder
        self._own = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
        self._layers = [layer for layer in backbone.modules() if layer is not backbone]
        self._passes: dict[Any, _Pass | None] = {}
        self._met: Counter[Any] = Counter()
        self._pending: weakref.ref[_Token] | None = None
        self._held: Mapping[str, Tensor] | None = None
        self.reasons: set[str] = set()
        self._failed = False
        backbone.forward = self  # type: ignore[method-assign, assignment]

    def __call__(self, images: Tensor) -> Tensor:
        """The feature map (N, C, H, W) of images (N, 3, H, W)."""
        backbone = self._backbone()
        assert backbone is not None
        if not (backbone.training and torch.is_grad_enabled()) or images.requires_grad:
            return self._run(backbone, images)
        tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
        if self._held is not None:
            tensors.update(self._held)
        of = tensors if self._held is None else self._held
        trained = tuple(name for name, tensor in of.items() if tensor.requires_grad)
        if not trained:
            return self._run(backbone, images)
        reason = self._reason(tensors, trained)
        if reason:
            self._say(reason)
            return self._run(backbone, images)
        key = self._key(images, tensors, trained)
        if key not in self._passes:
            if self._met[key] < _BEFORE_RECORDING or self._failed:
                self._met[key] += 1
                return self._run(backbone, images)
            # Afterwards, for a failure may clear them.
            found = self._recorded(backbone, images, tensors, trained)
            self._passes[key] = found
        recorded = self._passes[key]
        if recorded is None:
            return self._run(backbone, images)
        token = _Token()
        self._pending = weakref.ref(token)
        leaves = [tensors[name] for name in trained]
        output: Tensor = _Replayed.apply(recorded, token, images, tensors, *leaves)
        return output

    @contextmanager
    def holding(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, passes are those of ``held_call`` with these parameters and buffers.

        The others are constants. To put all in their place, and to take them out again, would take
        longer than to launch a replay.
        """
        self._held = tensors
        try:
            yield
        finally:
            self._held = None

    def _run(self, backbone: nn.Module, images: Tensor) -> Tensor:
        if self._held is None:
            return self._eager(images)
        constants = {name: own.detach() for name, own in backbone.named_parameters()}
        with _reparametrize_module(backbone, {**constants, **self._held}, tie_weights=True):
            return self._eager(images)

    @property
    def recorded(self) -> int:
        """How many kinds of passes are replayed."""
        return sum(recorded is not None for recorded in self._passes.values())

    def __reduce__(self) -> Any:
        return self._eager.__reduce__()  # type: ignore[attr-defined]

    def _reason(self, tensors: Mapping[str, Tensor], trained: Sequence[str]) -> str:
        """Why this pass runs eagerly; "" where it need not."""
        if tensors.keys() != self._own.keys():
            return "its layers are others than when it was built"
        if self._pending is not None and self._pending() is not None:
            return "a backward pass is still to come, whose activations a replay would overwrite"
        if any(getattr(layer, hooks) for layer in self._layers for hooks in _HOOKS):
            return "somebody watches its layers, as MixStyle does"
        if are_several() and any(tensors[name] is self._own[name] for name in trained):
            return "with several processes the base step's gradients are averaged as they come"
        return ""

    def _key(self, images: Tensor, tensors: Mapping[str, Tensor], trained: tuple[str, ...]) -> Any:
        device = images.device.type
        return (
            tuple(images.shape),
            images.stride(),
            images.dtype,
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
            trained,
            tuple(name for name, own in self._own.items() if not _is_in_place(tensors[name], own)),
            tuple(own.data_ptr() for own in self._own.values()),
            tuple(layer.training for layer in self._layers),
            tuple(getattr(layer, "track_running_stats", None) for layer in self._layers),
        )

    def _recorded(
        self,
        backbone: nn.Module,
        images: Tensor,
        tensors: Mapping[str, Tensor],
        trained: Sequence[str],
    ) -> _Pass | None:
        if len(self._passes) >= _MOST_GRAPHS:
            self._say(
                f"{_MOST_GRAPHS} kinds of passes are recorded already, and sizes still change"
            )
            return None
        with self._untouched(images.device):
            try:
                functions = self._eager, self._recorder
                recorded = _Pass(backbone, *functions, images, tensors, trained, self._own)
            # Whatever a layer does that cannot be recorded: wait for the device, say.
            except Exception as error:
                self._say(f"recording failed: {shown(' '.join(str(error).split()))}")
                self._failed = True
                if isinstance(error, torch.OutOfMemoryError):
                    # Those that are recorded keep memory that eager passes now need.
                    self._passes.clear()
                return None
        if recorded.difference > _TOLERANCE or recorded.difference != recorded.difference:
            self._say(f"a replay differed from the pass by {recorded.difference:.0e}")
            return None
        logger.info("Recorded a CUDA graph of the backbone for %d images", len(images))
        return recorded

    @contextmanager
    def _untouched(self, device: torch.device) -> Iterator[None]:
        """Inside, passes leave buffers and random numbers as they were."""
        buffers = {name: own for name, own in self._own.items() if not _is_parameter(own)}
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        with _random_numbers_kept(device):
            yield
        with torch.no_grad():
            for name, buffer in buffers.items():
                buffer.copy_(before[name])

    def _say(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.add(reason)
            logger.info("METABIN.CUDA_GRAPHS: a pass of the backbone runs eagerly: %s", reason)


class _Token:
    """Lives as long as the backward pass of a replayed forward pass may come."""


class _Pass:
    """A recorded forward pass, and its backward pass.

    Attributes:
        difference: largest relative difference of a first replay to the pass it was recorded from.
    """

    def __init__(
        self,
        backbone: nn.Module,
        eager: Callable[[Tensor], Tensor],
        recorder: Recorder,
        images: Tensor,
        tensors: Mapping[str, Tensor],
        trained: Sequence[str],
        own: Mapping[str, Tensor],
    ) -> None:
        self._images = images.detach().clone()
        # Others than the backbone's own come at another address each time.
        self._given = {
            n: t.detach().clone() for n, t in tensors.items() if not _is_in_place(t, own[n])
        }
        # Those that a pass may write, which are then the ones that have to be written.
        self._buffers = [name for name in self._given if not _is_parameter(own[name])]
        used = {n: self._given.get(n, tensors[n].detach()) for n in tensors}
        leaves = [used[name].requires_grad_() for name in trained]
        device = images.device.type

        def forward() -> Tensor:
            # A narrow copy of a weight that was cached before would never follow the weight.
            with (
                torch.enable_grad(),
                torch.autocast(
                    device,
                    torch.get_autocast_dtype(device),
                    enabled=torch.is_autocast_enabled(device),
                    cache_enabled=False,
                ),
                _swapped(backbone, used),
            ):
                return eager(self._images)

        def backward(output: Tensor) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(output, leaves, self._gradient, allow_unused=True)

        def once() -> tuple[Tensor, tuple[Tensor | None, ...]]:
            output = forward()
            # Of the scale of an output, so that nothing overflows in half precision.
            self._gradient = torch.ones_like(output) / output.numel() ** 0.5
            return output.detach(), backward(output)

        for left in reversed(range(_WARM_UPS)):
            # Each draws the same, so that the replay can be compared with the last one.
            with _random_numbers_kept(images.device):
                # The first ones may wait, for kernels that are being chosen say.
                expected = recorder.apart(once, waits=left > 0)
        with _random_numbers_kept(images.device):
            self._output, self._replay_forward = recorder.record(forward)
            self._gradients, self._replay_backward = recorder.record(lambda: backward(self._output))
        # The graph of autograd would keep the activations' memory from the next pass.
        self._output = self._output.detach()
        with _random_numbers_kept(images.device):
            self.difference = self._try(*expected)

    def _try(self, output: Tensor, gradients: Sequence[Tensor | None]) -> float:
        """Difference of a first replay to what was computed before."""
        found = [g for g in self._gradients if g is not None]
        incoming = self._gradient.clone()
        # A kernel that no graph has would leave what is there.
        for static in (self._output, *found):
            static.fill_(float("nan"))
        self._gradient.copy_(incoming)
        self._replay_forward()
        self._replay_backward()
        expected = [g for g in gradients if g is not None]
        return max(_difference([self._output], [output]), _difference(found, expected))

    def forward(self, images: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Replay on other values."""
        with torch.no_grad():
            self._images.copy_(images)
            if self._given:
                values = [tensors[name].detach() for name in self._given]
                torch._foreach_copy_([t.detach() for t in self._given.values()], values)
        self._replay_forward()
        if self._buffers:
            written = [self._given[name] for name in self._buffers]
            torch._foreach_copy_([tensors[name] for name in self._buffers], written)
        return self._output.clone()

    def backward(self, gradient: Tensor) -> Sequence[Tensor | None]:
        """Replay on the gradient of the output."""
        self._gradient.copy_(gradient)
        self._replay_backward()
        # Autograd would keep them as a parameter's .grad, for the next replay to overwrite.
        found = [g for g in self._gradients if g is not None]
        copies = [torch.empty_like(g) for g in found]
        if copies:
            torch._foreach_copy_(copies, found)
        left = iter(copies)
        return [None if g is None else next(left) for g in self._gradients]


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        recorded: _Pass,
        token: _Token,
        images: Tensor,
        tensors: Mapping[str, Tensor],
        *_leaves: Tensor,
    ) -> Tensor:
        ctx.recorded, ctx.token = recorded, token
        return recorded.forward(images, tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a replayed CUDA graph has no second derivative; set METABIN.CUDA_GRAPHS False"
            )
        if ctx.token is None:
            raise RuntimeError(
                "a replayed CUDA graph has one backward pass; set METABIN.CUDA_GRAPHS False"
            )
        found = ctx.recorded.backward(gradient)
        ctx.token = None
        return None, None, None, None, *found


@contextmanager
def _swapped(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, a module computes with other parameters and buffers.

    Raises:
        RuntimeError: it has put yet others in their place, as fastreid's GhostBN does. A replay
            would not.
    """
    found = dict(tensors)
    with _reparametrize_module(backbone, found, tie_weights=True):
        yield
    for name, tensor in tensors.items():
        if found[name] is not tensor:
            raise RuntimeError(f"a layer puts another tensor in the place of {name}")


def _random_numbers_kept(device: torch.device) -> AbstractContextManager[None]:
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _is_in_place(tensor: Tensor, own: Tensor) -> bool:
    """Whether a tensor is the backbone's own, or its values without a gradient."""
    return tensor is own or (
        not tensor.requires_grad
        and tensor.data_ptr() == own.data_ptr()
        and tensor.shape == own.shape
        and tensor.stride() == own.stride()
    )


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Size of the difference beside that of all that was expected.

    Of all: some gradients are zero but for rounding, which is another each time.
    """
    if len(found) != len(expected):
        return float("inf")
    pairs = zip(found, expected, strict=True)
    squares = [((f.float() - e.float()).square().sum(), e.float().square().sum()) for f, e in pairs]
    difference, size = (float(sum(column)) for column in zip(*squares, strict=True))
    return (difference / max(size, torch.finfo(torch.float32).tiny)) ** 0.5
