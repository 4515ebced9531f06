"""Iterations on a GPU: their numbers, times, memory and launches, and going on after a stop."""

from __future__ import annotations

import copy
import gc
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import torch
from fastreid.engine.train_loop import HookBase
from torch import Tensor

from benchmarks.gpu_layer import errors, relative
from benchmarks.gpu_network import NOT_MEASURED, Work
from benchmarks.measuring import time_once, wait
from benchmarks.parts import Rows
from benchmarks.setting import ARMS, BATCH_NORM, METABIN, Setting, training_config
from benchmarks.training import BASE, META, Training, quiet_log
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.engine.graphs import GraphedForward
from metabin_plugin.engine.stop_signals import Stopped
from metabin_plugin.norm import gate_parameters

_GRAPHS = "METABIN.CUDA_GRAPHS"
# An eager pass, a recorded one, and two that only replay.
_WARMUPS = 4
_REPETITIONS, _SECONDS = 10, 2.0
_BAR = 1e-9
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
# For comparisons of numbers, which need no large images.
_SMALL = ("resnet18", (32, 16), 20)
_ITERATIONS, _STOP = 6, 3


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
    end = time.monotonic() + _SECONDS
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
    with torch.profiler.profile(activities=activities) as profiler:
        run()
        torch.cuda.current_stream().synchronize()
    kernels: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    microseconds = 0.0
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            # Not the ranges that PyTorch itself marks, as that of an optimizer's step.
            if not getattr(event, "is_user_annotation", False) and "#" not in event.name:
                kernels[event.name] += 1
                microseconds += event.time_range.elapsed_us()
        else:
            calls[event.name] += 1
    return {
        "kernels": sum(kernels.values()),
        "kernels_ms": microseconds / 1e3,
        "launches": sum(n for name, n in calls.items() if "LaunchKernel" in name),
        "graph_launches": calls["cudaGraphLaunch"],
        # The last one is this function's own.
        "waits": sum(calls[name] for name in _WAITS) - 1,
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
