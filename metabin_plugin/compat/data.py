"""What is broken in fastreid's data loading and augmentation."""

from __future__ import annotations

import functools
import inspect
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch

from metabin_plugin.compat.patching import rebind, repair
from metabin_plugin.workers import WorkerLoader

_POLL_SECONDS = 0.5


def available_cpus() -> int:
    """Number of CPUs this process may run on (at least 1)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _resolve(device: torch.device | None, local_rank: int) -> torch.device:
    wanted = "cuda" if device is None else device.type
    if wanted == "cuda" and not torch.cuda.is_available():
        wanted = "cpu"
    return torch.device(wanted, local_rank) if wanted == "cuda" else torch.device(wanted)


class DeviceDataLoader(WorkerLoader):
    """A loader with batches on the training device; takes the place of ``DataLoaderX``.

    On CPU it is PyTorch's own iteration: a thread would draw from the random generators that the
    training draws from, and no two runs would be alike. On CUDA a background thread keeps batches
    in store and each is copied one step ahead, as fastreid does it.

    Args:
        local_rank: This process's rank on its machine, which is its CUDA device's index.
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
        self.device = _resolve(device, self.local_rank)
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


def _on_model_device(build: Any) -> Any:
    def build_loader(*args: Any, **kwargs: Any) -> Any:
        built = build(*args, **kwargs)
        cfg: Any = args[0] if args else kwargs.get("cfg")
        if hasattr(cfg, "MODEL"):
            loader = built[0] if isinstance(built, tuple) else built
            loader.use_device(torch.device(cfg.MODEL.DEVICE))
        return built

    return build_loader


def repair_data_loader() -> None:
    """``DataLoaderX`` opens a CUDA stream whatever the device, and its thread swallows errors.

    The loaders that fastreid builds from a config put their batches on ``MODEL.DEVICE``.
    """
    from fastreid.data import build, data_utils

    rebind(data_utils.DataLoaderX, DeviceDataLoader)
    repair(build, "build_reid_train_loader", _on_model_device)
    repair(build, "build_reid_test_loader", _on_model_device)


def repair_image_reading() -> None:
    """A data set from elsewhere can make fastreid start Ghostscript, wait for ever or run out.

    An EPS file may have any name, a name may be that of a pipe, and a few kB of PNG may stand for
    gigabytes. The plugin's own data sets read by ``metabin_plugin.data.images``.
    """
    from fastreid.data import data_utils

    repair(data_utils, "read_image", _checked)


def _checked(original: Callable[..., Any]) -> Callable[..., Any]:
    def read_image(file_name: str, format: str | None = None) -> Any:
        # Here, because the package of the data sets needs a repaired fastreid.
        from metabin_plugin.data.images import open_image

        with open_image(file_name):
            return original(file_name, format)

    return read_image


def _random_affine(*, resample: bool = False, fillcolor: int = 0, **kwargs: Any) -> Any:
    from torchvision import transforms

    # fastreid's only call has resample=False, Pillow's number 0: nearest neighbour.
    return transforms.RandomAffine(
        interpolation=transforms.InterpolationMode.NEAREST, fill=fillcolor, **kwargs
    )


def repair_random_affine() -> None:
    """``INPUT.AFFINE`` fails in ``build_transforms``, which uses torchvision's former names.

    That module gets torchvision's transforms under a namespace of its own, with this one adapted.
    """
    from fastreid.data.transforms import build
    from torchvision import transforms

    current = "resample" not in inspect.signature(transforms.RandomAffine).parameters
    if current and build.T is transforms:
        build.T = SimpleNamespace(**{**vars(transforms), "RandomAffine": _random_affine})


def _out_of_place(_original: Callable[..., Any]) -> Callable[..., Any]:
    def preprocess_image(
        self: Any, batched_inputs: Mapping[str, torch.Tensor] | torch.Tensor
    ) -> torch.Tensor:
        images = batched_inputs["images"] if isinstance(batched_inputs, Mapping) else batched_inputs
        if not isinstance(images, torch.Tensor):
            raise TypeError(f"expected a batch of images as a tensor, got {type(images).__name__}")
        return (images - self.pixel_mean).div_(self.pixel_std)

    return preprocess_image


def repair_preprocessing() -> None:
    """``preprocess_image`` changes its input: the flip test normalizes its second pass twice."""
    from fastreid.modeling.meta_arch import mgn
    from fastreid.modeling.meta_arch.baseline import Baseline

    repair(Baseline, "preprocess_image", _out_of_place)
    repair(mgn.MGN, "preprocess_image", _out_of_place)
