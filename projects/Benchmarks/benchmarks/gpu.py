"""All that a GPU has to show, in four minutes, row by row.

Every row is printed and added to the JSON file (one object a line) the moment it is measured. Each
part runs in a process of its own and is ended when its time is over: a run that is cut short loses
nothing. Times are medians in milliseconds, errors relative, memory in MiB.
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import torch
from fastreid.engine.train_loop import HookBase
from torch import Tensor

from benchmarks.inference import build_networks, features_call
from benchmarks.layer import BATCH_NORM as BATCH_NORM_LAYER
from benchmarks.layer import FORMATS, NAIVE, build_layer, form_arm, training_call
from benchmarks.measuring import describe, time_once, times_in_turns, wait
from benchmarks.parts import Part, Rows, run_parts
from benchmarks.training import (
    ARMS,
    BACKBONES,
    BASE,
    BATCH_NORM,
    META,
    METABIN,
    Setting,
    Shape,
    Training,
    add_images,
    quiet_log,
    training_config,
    write_domains,
)
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.engine.graphs import CudaRecorder, GraphedForward
from metabin_plugin.engine.stop_signals import Stopped
from metabin_plugin.errors import ConfigError
from metabin_plugin.files import check_file
from metabin_plugin.norm import batch_instance_norm, gate_parameters

NOT_MEASURED = "not measured"
_SECONDS = 240.0
_BIN = form_arm("auto")
# Channels, and by how much the map is smaller than the images: of both networks of the paper.
_MAPS = ((96, 4), (192, 8), (48, 2), (512, 16), (2048, 16))
_CALLS = 20
_GRAPHS = "METABIN.CUDA_GRAPHS"
# An eager pass, a recorded one, and two that only replay.
_WARMUPS = 4
_REPETITIONS, _TIMED_SECONDS = 10, 2.0
_BAR = 1e-9
_MEASURED = "measured"
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
# For comparisons of numbers, which need no large images.
_SMALL = ("resnet18", (32, 16), 20)
_ITERATIONS, _STOP = 6, 3


@dataclass(frozen=True)
class Work:
    """What all parts are given.

    Attributes:
        device: "cuda", or "cpu" to try the command.
        size: height and width of the images.
        batch: images of a batch.
        manifests: of the training data.
        folder: of the files of the run.
    """

    device: str
    size: tuple[int, int]
    batch: int
    manifests: tuple[str, ...]
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Whether there are kernels, graphs and memory of a GPU to be measured."""
        return self.device == "cuda"

    def setting(self, network: str, *options: str, channels_last: bool = True) -> Setting:
        """Training of a network as the defaults say, with AMP on a GPU."""
        switches = ("channels_last",) * channels_last + ("amp",) * self.on_gpu
        return Setting(network, self.size, self.batch, self.device, 0, switches, options)


def versions(rows: Rows, work: Work, _networks: Sequence[str]) -> None:
    """What everything else was measured on."""
    found = {}
    for package in ("torch", "triton", "torchvision", "fastreid", "metabin_plugin"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    rows.write("packages", **found)
    rows.write("machine", description=" ".join(describe().split()), cores=os.cpu_count())
    if not work.on_gpu:
        rows.write("device", name=NOT_MEASURED)
        return
    device = torch.cuda.get_device_properties(0)
    rows.write(
        "device",
        name=device.name,
        capability=f"{device.major}.{device.minor}",
        memory=device.total_memory // 2**20,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        driver=_driver(),
    )


def _driver() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=10)
    return done.stdout.split("\n")[0] or "unknown"


def parity(rows: Rows, work: Work, _networks: Sequence[str]) -> None:
    """Whole iterations in float64 beside the formula on a CPU, and the layer's own error."""
    initial: dict[str, Tensor] = {}
    states: list[dict[str, Tensor]] = []
    gates: list[str] = []
    for device, form in (("cpu", "plain"), (work.device, "auto")):
        setting = Setting(*_SMALL, device, 0, (), ("METABIN.NORM_FORM", form))
        cfg = training_config(setting, METABIN, work.manifests, work.folder)
        torch.set_default_dtype(torch.float64)
        try:
            training = Training(cfg, repeated=3, dtype=torch.float64)
        finally:
            torch.set_default_dtype(torch.float32)
        model = training.trainer.model
        initial = initial or copy.deepcopy(model.state_dict())
        model.load_state_dict(initial)
        # Eager, recorded, replayed.
        for _ in range(3):
            training.run()
        states.append({name: value.cpu() for name, value in model.state_dict().items()})
        gates = list(gate_parameters(model))
        if states[1:]:
            rows.write("graphs, float64", **_graphs(training))
        training.close()
    expected, found = states
    differences = {name: relative(found[name], expected[name]) for name in expected}
    for what, names in (("gates", gates), ("state", list(expected))):
        largest = max(differences[name] for name in names)
        moved = max(relative(expected[name], initial[name].cpu()) for name in names)
        rows.write(
            f"3 iterations in float64: {what}",
            difference=largest,
            bar=_BAR,
            holds=largest <= _BAR,
            moved=moved,
        )
    errors(rows, work)


def errors(rows: Rows, work: Work) -> None:
    """Errors of the layer's output and gradients beside the formula in float64."""
    dtypes = (torch.float32, torch.float16) if work.on_gpu else (torch.float32,)
    for dtype in dtypes:
        for memory_format, channels, smaller in (("channels_last", 96, 8), ("contiguous", 512, 16)):
            shape = (work.batch, channels, *(side // smaller for side in work.size))
            torch.manual_seed(0)
            x = torch.randn(shape, device=work.device).to(dtype)
            x = x.contiguous(memory_format=FORMATS[memory_format])
            inputs = [x, *torch.rand(5, channels, device=work.device)]
            incoming = torch.randn_like(x)
            found, exact = (
                _results([t.detach().to(kind).requires_grad_() for t in inputs], incoming, form)
                for kind, form in ((None, "auto"), (torch.float64, "plain"))
            )
            named = zip(("y", "x", "gate", "weight"), found, exact, strict=False)
            name = f"layer, {','.join(map(str, shape))} {memory_format} {str(dtype)[6:]}"
            rows.write(name, **{key: relative(one, other) for key, one, other in named})


def _results(inputs: list[Tensor], incoming: Tensor, form: str) -> list[Tensor]:
    y = batch_instance_norm(*inputs, form=form)
    return [y, *torch.autograd.grad(y, inputs, incoming.to(y.dtype))]


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, beside the largest value; values below 1e-3 count as that."""
    expected = expected.detach().double().cpu()
    difference = (found.detach().double().cpu() - expected).abs().max()
    return float(difference / expected.abs().max().clamp(min=1e-3))


def layers(rows: Rows, work: Work, _networks: Sequence[str]) -> None:
    """Forward and backward of each layer: milliseconds of BN, and ratios to it."""
    dtypes = ("float16", "float32") if work.on_gpu else ("float32",)
    for dtype in dtypes:
        for memory_format in ("channels_last", "contiguous"):
            for channels, smaller in _MAPS:
                shape = (work.batch, channels, *(side // smaller for side in work.size))
                _layer(rows, work, shape, memory_format, dtype)


def _layer(rows: Rows, work: Work, shape: Shape, memory_format: str, dtype: str) -> None:
    name = f"{','.join(map(str, shape))} {memory_format} {dtype}"
    torch.manual_seed(0)
    x = torch.randn(shape, device=work.device, dtype=getattr(torch, dtype))
    x = x.contiguous(memory_format=FORMATS[memory_format])
    gradient = torch.randn_like(x)
    x.requires_grad_()
    called, replayed = {}, {}
    for arm in (BATCH_NORM_LAYER, _BIN, NAIVE):
        layer = build_layer(arm, shape[1], torch.device(work.device))
        call = training_call(layer, x, gradient)
        called[arm] = _median(call)
        if work.on_gpu:
            replayed[arm] = _median(_replay(call, x.device))
    for how, times in (("called", called), ("replayed", replayed)):
        if not times:
            rows.write(f"{name}, {how}", bn_ms=NOT_MEASURED)
            continue
        base = times[BATCH_NORM_LAYER]
        rows.write(
            f"{name}, {how}", bn_ms=1e3 * base, bin=times[_BIN] / base, mix=times[NAIVE] / base
        )


def _replay(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    recorder = CudaRecorder(device)
    for _ in range(3):
        recorder.apart(call)
    kept, replay = recorder.record(call)

    def run() -> object:
        replay()
        # Outputs of a graph have to stay.
        return kept

    return run


def _median(call: Callable[[], object]) -> float:
    time_once(call, 3)
    return statistics.median(time_once(call, _CALLS) for _ in range(5))


def iterations(rows: Rows, work: Work, network: str) -> None:
    """BN and MetaBIN: times and memory, with graphs and without."""
    graphs = (True, False) if work.on_gpu else (False,)
    for memory_format, is_graphed in product(("channels_last", "contiguous"), graphs):
        setting = work.setting(
            network, _GRAPHS, str(is_graphed), channels_last=memory_format == "channels_last"
        )
        name = f"{memory_format}, graphs {'on' if is_graphed else 'off'}"
        _both(rows, work, setting, name)


def launches(rows: Rows, work: Work, networks: Sequence[str]) -> None:
    """What an iteration launches and waits for, in a process in which nothing else is measured."""
    if not work.on_gpu:
        rows.write("kernels", kernels=NOT_MEASURED)
        return
    for is_graphed, arm in product((True, False), ARMS):
        setting = work.setting(networks[0], _GRAPHS, str(is_graphed))
        cfg = training_config(setting, arm, work.manifests, work.folder)
        training = Training(cfg, repeated=2)
        for _ in range(_WARMUPS):
            training.run()
        name = f"{networks[0]}, graphs {'on' if is_graphed else 'off'}, {arm}"
        rows.write(name, **_profiled(training.run))
        training.close()


def compiled(rows: Rows, work: Work, networks: Sequence[str]) -> None:
    """``METABIN.COMPILE``, which takes its time before the first iteration."""
    setting = work.setting(networks[0], "METABIN.COMPILE", "True")
    _both(rows, work, setting, f"{networks[0]}, channels_last, compiled")


def _both(rows: Rows, work: Work, setting: Setting, name: str) -> None:
    medians, peaks = {}, {}
    for arm in ARMS:
        if work.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() // 2**20
        cfg = training_config(setting, arm, work.manifests, work.folder)
        training = Training(cfg, repeated=2)
        medians[arm] = _time(rows, training, f"{name}, {arm}")
        if work.on_gpu:
            peaks[arm] = torch.cuda.max_memory_allocated()
            rows.write(
                f"{name}, {arm}: memory",
                peak=peaks[arm] // 2**20,
                # Graphs use memory that does not count as allocated between their recordings.
                reserved=torch.cuda.max_memory_reserved() // 2**20,
                before=before,
            )
        training.close()
        del training
        gc.collect()
        if work.on_gpu:
            torch.cuda.empty_cache()
    values: dict[str, Any] = {"time": medians[METABIN] / medians[BATCH_NORM]}
    values["memory"] = peaks[METABIN] / peaks[BATCH_NORM] if peaks else NOT_MEASURED
    rows.write(f"{name}: {METABIN} / {BATCH_NORM}", **values)


def _time(rows: Rows, training: Training, name: str) -> float:
    """Median seconds of an iteration, without waiting for data."""
    first = time_once(training.iterate)
    for _ in range(_WARMUPS - 1):
        training.iterate()
    warmups = len(training.parts[BASE])
    end = time.monotonic() + _TIMED_SECONDS
    # As many as fit, and three in any case.
    for number in range(_REPETITIONS):
        if number >= 3 and time.monotonic() > end:
            break
        training.iterate()
    base, meta = (training.parts[part][warmups:] for part in (BASE, META))
    whole = [sum(pair) for pair in zip(base, meta, strict=True)]
    rows.write(
        name,
        ms=1e3 * statistics.median(whole),
        fastest=1e3 * min(whole),
        slowest=1e3 * max(whole),
        base=1e3 * statistics.median(base),
        meta=1e3 * statistics.median(meta),
        first=1e3 * first,
        **_graphs(training),
    )
    return statistics.median(whole)


def _graphs(training: Training) -> dict[str, Any]:
    forward = training.trainer.model.backbone.forward
    if not isinstance(forward, GraphedForward):
        return {"recorded": 0}
    return {"recorded": forward.recorded, "eager_because": "; ".join(sorted(forward.reasons))}


def _profiled(run: Callable[[], object]) -> dict[str, Any]:
    """Launches, time of the kernels and waits of a call, by PyTorch's profiler."""
    # Its library, when it is ended and begun again, breaks graphs in older versions of CUDA.
    os.environ["TEARDOWN_CUPTI"] = "0"
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    wait()
    with (
        torch.profiler.profile(activities=activities) as profiler,
        torch.profiler.record_function(_MEASURED),
    ):
        run()
    events = profiler.events()
    of_gpu = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    on_cpu = [e for e in events if e.device_type == torch.autograd.DeviceType.CPU]
    # What the profiler itself waits for comes after it.
    (measured,) = (event.time_range for event in on_cpu if event.name == _MEASURED)
    calls = Counter(e.name for e in on_cpu if measured.start <= e.time_range.start <= measured.end)
    kernels: Counter[str] = Counter()
    microseconds = 0.0
    for event in of_gpu:
        # Not the ranges that are marked, by PyTorch itself that of an optimizer's step.
        is_range = getattr(event, "is_user_annotation", False) or event.name == _MEASURED
        if not is_range and "#" not in event.name:
            kernels[event.name] += 1
            microseconds += event.time_range.elapsed_us()
    return {
        "kernels": sum(kernels.values()),
        "kernels_ms": microseconds / 1e3,
        "launches": sum(n for name, n in calls.items() if "LaunchKernel" in name),
        "graph_launches": calls["cudaGraphLaunch"],
        "waits": sum(calls[name] for name in _WAITS),
        "copies_to_host": sum(n for name, n in kernels.items() if "DtoH" in name),
    }


def resume(rows: Rows, work: Work, _networks: Sequence[str]) -> None:
    """A training that SIGTERM stops and that goes on, beside one that nothing stopped."""
    torch.backends.cudnn.deterministic = True
    straight = _trained(work, "straight")
    stopped = _trainer(work, "stopped")
    stopped.register_hooks([_StopHook()])
    with suppress(Stopped):
        stopped.train()
    rows.write("stop", iteration=stopped.iter, expected=_STOP)
    resumed = _trained(work, "stopped")
    expected, found = straight.model.state_dict(), resumed.model.state_dict()
    equal = all(torch.equal(found[name], value) for name, value in expected.items())
    difference = max(relative(found[name], value) for name, value in expected.items())
    rows.write(
        "resume", from_iteration=resumed.start_iter, bit_for_bit=equal, difference=difference
    )


class _StopHook(HookBase):
    def after_step(self) -> None:
        if self.trainer.iter + 1 == _STOP:
            os.kill(os.getpid(), signal.SIGTERM)


def _trained(work: Work, folder: str) -> MetaBINTrainer:
    trainer = _trainer(work, folder)
    trainer.resume_or_load(resume=True)
    trainer.train()
    return trainer


def _trainer(work: Work, name: str) -> MetaBINTrainer:
    folder = work.folder / name
    Path(folder).mkdir(exist_ok=True)
    options = ("METABIN.ITERS_PER_EPOCH", str(_ITERATIONS), "SOLVER.MAX_EPOCH", "1")
    # Algorithms that are chosen by their time are others in another run.
    setting = Setting(*_SMALL, work.device, 0, (), (*options, "CUDNN_BENCHMARK", "False"))
    cfg = training_config(setting, METABIN, work.manifests, folder)
    quiet_log()
    return MetaBINTrainer(cfg)


def inference(rows: Rows, work: Work, networks: Sequence[str]) -> None:
    """Images to features, unfolded."""
    for network in networks:
        setting = replace(work.setting(network), switches=("channels_last",))
        torch.manual_seed(0)
        images = 255 * torch.rand(work.batch, 3, *work.size).to(work.device)
        built = build_networks(setting, 1.0, images, folded=False)
        calls = {name: features_call(one, images) for name, one in built.items()}
        seconds = times_in_turns(calls, 7, warmups=2)
        base = statistics.median(seconds[BATCH_NORM])
        for name, times in seconds.items():
            median = statistics.median(times)
            rows.write(f"{network}, {name}", ms=1e3 * median, ratio=median / base)


def loader(rows: Rows, work: Work, networks: Sequence[str]) -> None:
    """Images that the training loader gives in a second."""
    workers = min(8, max(1, (os.cpu_count() or 1) - 1))
    setting = replace(work.setting(networks[0]), workers=workers)
    cfg = training_config(setting, METABIN, work.manifests, work.folder)
    batches = iter(MetaBINTrainer.build_train_loader(cfg))
    seconds = time_once(lambda: next(batches))
    rows.write("first batch", seconds=seconds, workers=workers)
    # What was loaded ahead meanwhile.
    for _ in range(2 * workers + 1):
        next(batches)
    for _ in range(3):
        seconds = time_once(lambda: next(batches), 2 * workers)
        rows.write("training loader", images_per_second=work.batch / seconds, workers=workers)
    batches.close()


# Seconds of each part, those that matter most first; of "iterations", for each network.
PARTS: dict[str, tuple[float, Callable[..., None]]] = {
    "versions": (15, versions),
    "parity": (25, parity),
    "iterations": (42, iterations),
    "layer": (33, layers),
    "launches": (23, launches),
    "inference": (12, inference),
    "resume": (13, resume),
    "loader": (20, loader),
    "compile": (15, compiled),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own arguments."""
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--seconds", type=float, default=_SECONDS, help="for all parts (default: %(default)g)"
    )
    parser.add_argument(
        "--networks", nargs="+", choices=BACKBONES, default=["mobilenetv2", "resnet50"]
    )
    add_images(parser)
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda", help="cpu to try the command"
    )


def run(args: argparse.Namespace) -> None:
    """Measure, print and write.

    Raises:
        ConfigError: there is no GPU, or the file cannot be written.
    """
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda: PyTorch finds no GPU; run it where there is one, or try the command "
            "with --device cpu and small --size and --batch"
        )
    if args.json:
        check_file(args.json, "--json", ConfigError)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = Work(args.device, args.size, args.batch, tuple(write_domains(folder)), folder)
        parts = []
        for part in PARTS:
            seconds, measure = PARTS[part]
            limit = seconds * args.seconds / _SECONDS
            if part not in args.parts:
                continue
            if part == "iterations":
                parts += [
                    Part(f"{part} {network}", measure, limit, (work, network))
                    for network in args.networks
                ]
            else:
                parts.append(Part(part, measure, limit, (work, args.networks)))
        run_parts(parts, args.json)
