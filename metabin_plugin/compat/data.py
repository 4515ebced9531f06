"""Reading, augmenting, normalizing and loading images."""

from __future__ import annotations

import functools
import inspect
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from metabin_plugin.compat.patching import patch
from metabin_plugin.environment import available_cpus
from metabin_plugin.workers import WorkerLoader

# How often a thread that keeps batches in store looks whether it is still needed.
_POLL_SECONDS = 0.5


@patch(
    "fastreid.data.data_utils:read_image",
    fault="A data set from elsewhere can make it start Ghostscript, wait for ever or run out of "
    "memory: an EPS file may have any name, a name may be that of a pipe, and a few kB of PNG may "
    "stand for gigabytes.",
    unless="the file is an image that it can read.",
)
def read_checked_image(
    original: Callable[..., Any], file_name: str, format: str | None = None
) -> Any:
    """Open the file as the plugin's own data sets do, which refuses such a file in a sentence."""
    # Here, because the package of the data sets needs a fastreid that can be imported.
    from metabin_plugin.data.images import open_image

    with open_image(file_name):
        return original(file_name, format)


@patch(
    "fastreid.data.transforms.functional:to_tensor",
    fault="It passes images through ``torch.ByteStorage``, which PyTorch has deprecated, and "
    "1-bit and 16-bit images through ``np.array(..., copy=False)``, which NumPy 2 refuses.",
    unless=None,
)
def to_tensor(pic: Any) -> torch.Tensor:
    """Make the same tensor (C, H, W) with ``torch.from_numpy``."""
    pixels = np.array(pic)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype == np.uint16:
        pixels = pixels.astype(np.int32)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
    dtype = torch.float32 if pixels.dtype == np.uint8 else channels_first.dtype
    return channels_first.to(dtype, memory_format=torch.contiguous_format).contiguous()


@patch(
    "fastreid.data.transforms.build:T",
    fault="``INPUT.AFFINE`` fails in ``build_transforms``, which calls torchvision's "
    "``RandomAffine`` by its former argument names.",
    unless="torchvision still has these names.",
)
def with_former_names(original: ModuleType) -> Any:
    """Give that module torchvision's transforms with a ``RandomAffine`` that takes both."""
    if "resample" in inspect.signature(original.RandomAffine).parameters:
        return original
    return SimpleNamespace(**{**vars(original), "RandomAffine": _random_affine})


def _random_affine(*, resample: bool = False, fillcolor: int = 0, **kwargs: Any) -> Any:
    from torchvision import transforms

    # fastreid's only call has resample=False, Pillow's number 0: nearest neighbour.
    return transforms.RandomAffine(
        interpolation=transforms.InterpolationMode.NEAREST, fill=fillcolor, **kwargs
    )


@patch(
    "fastreid.modeling.meta_arch.baseline:Baseline.preprocess_image",
    "fastreid.modeling.meta_arch.mgn:MGN.preprocess_image",
    fault="It changes the batch in place: the flip test normalizes its second pass twice, and so "
    "is whatever else uses a batch again.",
    unless=None,
)
def preprocess_image(
    self: Any, batched_inputs: Mapping[str, torch.Tensor] | torch.Tensor
) -> torch.Tensor:
    """Compute the same, and leave the batch as it is."""
    images = batched_inputs["images"] if isinstance(batched_inputs, Mapping) else batched_inputs
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"expected a batch of images as a tensor, got {type(images).__name__}")
    return (images - self.pixel_mean).div_(self.pixel_std)


@patch(
    "fastreid.data.data_utils:DataLoaderX",
    fault="It uses CUDA whatever the device. After an error in its thread the training waits for "
    "ever.",
    unless=None,
)
class DeviceDataLoader(WorkerLoader):
    """A loader with batches on the training device.

    On CPU it is PyTorch's own iteration: a thread would draw from the random generators that the
    training draws from, and no two runs would be alike. On CUDA a background thread keeps batches
    in store and each is copied one step ahead, as fastreid does it.

    Args:
        local_rank: This process's rank on its machine, which is its CUDA device's index where
            ``device`` has none.
        device: Where the batches go; None for CUDA where there is any.
        **kwargs: As for ``WorkerLoader``. ``num_workers`` is capped at the CPUs available to this
            process, ``pin_memory`` is ignored on CPU.
    """

    def __init__(self, local_rank: int, device: torch.device | None = None, **kwargs: Any) -> None:
        kwargs["num_workers"] = min(kwargs.get("num_workers", 0), available_cpus())
        super().__init__(**kwargs)
        self.local_rank = local_rank
        self.use_device(device)

    def use_device(self, device: torch.device | None) -> None:
        """Choose where the next iteration's batches go; None for CUDA where there is any."""
        kind = "cuda" if device is None else device.type
        if kind == "cuda" and not torch.cuda.is_available():
            kind = "cpu"
        index = None if device is None else device.index
        number = self.local_rank if index is None else index
        self.device = torch.device(kind, number) if kind == "cuda" else torch.device(kind)
        self.pin_memory = self.pin_memory and self.device.type == "cuda"

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        return batches if self.device.type == "cpu" else DevicePrefetcher(batches, self.device)


class DevicePrefetcher:
    """Iterates over batches that a thread loads and a side stream copies one step ahead.

    An exception of the loader is raised by ``next``, in the thread that trains.

    Args:
        batches: Yields dictionaries; their tensors are copied, other values are passed through.
        device: CUDA device.
        depth: Number of batches the thread keeps in store; with 0 there is no thread, and ``next``
            loads the batch after the one it returns.
    """

    def __init__(self, batches: Iterator[Any], device: torch.device, depth: int = 10) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._take: Callable[[], Any] = (
            self._start_thread(batches, depth)
            if depth
            else functools.partial(_next_or_error, batches)
        )
        self._ahead = self._load()

    def __iter__(self) -> DevicePrefetcher:
        return self

    def __next__(self) -> Any:
        batch = self._ahead
        if isinstance(batch, BaseException):
            raise batch
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for value in batch.values():
            if isinstance(value, torch.Tensor):
                # Else the memory could be reused by the next copy while this stream still reads.
                value.record_stream(current)
        self._ahead = self._load()
        return batch

    def _start_thread(self, batches: Iterator[Any], depth: int) -> Callable[[], Any]:
        store: queue.Queue[Any] = queue.Queue(depth)
        stop = threading.Event()
        threading.Thread(
            target=_fill, args=(batches, self._device, store, stop), daemon=True
        ).start()
        # The thread holds no reference to this object, so that dropping it ends the thread.
        weakref.finalize(self, stop.set)
        return store.get

    def _load(self) -> Any:
        batch = self._take()
        if isinstance(batch, BaseException):
            return batch
        with torch.cuda.stream(self._stream):
            return {
                key: value.to(self._device, non_blocking=True)
                if isinstance(value, torch.Tensor)
                else value
                for key, value in batch.items()
            }


def _next_or_error(batches: Iterator[Any]) -> Any:
    try:
        return next(batches)
    except Exception as error:
        return error


def _fill(
    batches: Iterator[Any], device: torch.device, store: queue.Queue[Any], stop: threading.Event
) -> None:
    end: BaseException = StopIteration()
    try:
        torch.cuda.set_device(device)
        for batch in batches:
            if not _put(store, batch, stop):
                return
    except BaseException as error:
        # Nobody else would hear of it, and the training waits for an end.
        end = error
    _put(store, end, stop)


def _put(store: queue.Queue[Any], item: Any, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            store.put(item, timeout=_POLL_SECONDS)
            return True
        except queue.Full:
            continue
    return False
