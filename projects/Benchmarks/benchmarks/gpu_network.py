"""What the parts of the GPU benchmark share, and those that train nothing."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks import inference as images_to_features
from benchmarks.measuring import describe, time_once, times_in_turns
from benchmarks.parts import Rows
from benchmarks.setting import BATCH_NORM, METABIN, Setting, training_config
from metabin_plugin.engine import MetaBINTrainer

NOT_MEASURED = "not measured"


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


def inference(rows: Rows, work: Work, networks: Sequence[str]) -> None:
    """Images to features, unfolded."""
    for network in networks:
        setting = replace(work.setting(network), switches=("channels_last",))
        torch.manual_seed(0)
        images = 255 * torch.rand(work.batch, 3, *work.size).to(work.device)
        built = images_to_features.build_networks(setting, 1.0, images, folded=False)
        calls = {name: images_to_features.features_call(one, images) for name, one in built.items()}
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
