"""What a checkpoint holds, checked before a run goes on from it.

A checkpoint is a file of ``torch.save`` with plain values (``weights/files.py``). Its entries:

- ``format``: ``FORMAT``. Checkpoints of version 0.1 and of plain fastreid have none.
- ``model``: the network's state dict (``weights/checkpointer.py``): of the averaged network with
  ``METABIN.AVERAGE.DECAY``, else of the trained one.
- ``average``: with ``METABIN.AVERAGE.DECAY`` a dict of the trained network's state dict, ``model``,
  and the number of ``updates`` of the average.
- ``optimizer``, ``lr_sched``, ``warmup_sched``, ``grad_scaler``: their states
  (``weights/checkpoint_states.py``).
- ``checkpoints``, ``momentum_teacher``, ``base_losses`` (the memories of ``METABIN.BASE_LOSSES``)
  and hooks by name: their states. ``load_state_dict`` of
  each raises ``ValueError`` for a state that it cannot have.
- ``epoch``: number of the last finished epoch, from -1; below ``SOLVER.MAX_EPOCH``.
- ``metric``: of the last evaluation, finite; -1 for none.
- ``config``: the run's config, YAML that ``read_yaml`` reads.
- ``progress``: a dict. Checkpoints of plain fastreid have none.

  - ``iteration``: number of the next iteration, in the epoch after ``epoch``.
  - ``batches``: seeds (below 2**63, and below 2**32 or None) and position in the stream of batches,
    at most ``most_batches``; None for a loader without such a state.
  - ``scalars``: of the log; by name ``values``, float64 (n, 2) of values and iterations with
    1 <= n <= ``WINDOW``, and ``smoothing``.
  - ``random_states``: a list, for each process what ``random_state.capture`` returns.
  - ``data``: ``training_record`` of the images; since format 1.
  - ``machine``: ``machine_record``; since format 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy
import PIL
import torch
import torchvision
from fastreid.config import CfgNode

from metabin_plugin import random_state
from metabin_plugin.config.reading import read_yaml
from metabin_plugin.data.domains import check_record
from metabin_plugin.data.resumable import check_position
from metabin_plugin.engine.log import check_history
from metabin_plugin.errors import ConfigError, WeightsError
from metabin_plugin.files import reason
from metabin_plugin.text import shown

# Raised when entries change their meaning.
FORMAT = 1
# Batches that a trainer can draw in an iteration: base step, meta step, and some of a subclass.
_BATCHES_AT_ONCE = 10
# Characters of a text of ``machine_record``.
_LONGEST = 500


def check_checkpoint(content: Mapping[str, Any], source: str) -> None:
    """Refuse a checkpoint from which no run can go on; nothing of it is applied here.

    Where it stands in its run is checked by ``check_progress``; the states of network, optimizer,
    schedules and hooks are checked where they are loaded.

    Args:
        content: the checkpoint.
        source: its file, for the message.

    Raises:
        WeightsError: an entry is not what the table of this module says.
    """
    _check_entries(content, {"format": _check_format}, source, required=False)
    is_of_format = content.get("format", 0) > 0
    checks: dict[str, Callable[[Any], object]] = {
        "epoch": lambda value: _check_whole(value, -1, 2**63 - 1),
        "metric": check_metric,
        "config": _check_config,
        "progress": _check_dict,
    }
    _check_entries(content, checks, source, required=is_of_format)
    if "progress" not in content:
        return
    checks = {"iteration": check_count, "random_states": _check_random_states}
    if is_of_format:
        checks |= {"data": check_record, "machine": _check_machine}
    _check_entries(content["progress"], checks, source, "progress.")


def check_progress(
    content: Mapping[str, Any], cfg: CfgNode, iters_per_epoch: int, source: str
) -> None:
    """Refuse a checkpoint of a place where a run is never, or where this one ends before.

    Args:
        content: the checkpoint, which ``check_checkpoint`` let pass.
        cfg: config of the run that is to go on, and not another run's.
        iters_per_epoch: iterations in its epochs.
        source: its file, for the message.

    Raises:
        ConfigError: the run ends before.
        WeightsError: an entry of its progress is not what the table of this module says.
    """
    first = (content.get("epoch", -1) + 1) * iters_per_epoch
    progress = content.get("progress", {"iteration": first})
    # An epoch that was not evaluated yet is not finished.
    last = first + iters_per_epoch
    is_here: dict[str, Callable[[Any], object]] = {
        "iteration": lambda value: _check_iteration(value, first, last, iters_per_epoch)
    }
    _check_entries(progress, is_here, source, "progress.")
    max_epoch, iteration = cfg.SOLVER.MAX_EPOCH, progress["iteration"]
    if iteration > max_epoch * iters_per_epoch:
        raise ConfigError(
            f"SOLVER.MAX_EPOCH is {max_epoch!r}, but the run of {source} is in epoch "
            f"{math.ceil(iteration / iters_per_epoch)} of its own; give --resume the KEY VALUE "
            "pairs that the run was begun with, or a larger SOLVER.MAX_EPOCH"
        )
    if "progress" not in content:
        return
    checks: dict[str, Callable[[Any], object]] = {
        "batches": lambda value: _check_batches(value, most_batches(cfg, iters_per_epoch)),
        "scalars": lambda value: check_history(value, iteration),
    }
    _check_entries(progress, checks, source, "progress.")


def _check_entries(
    content: Mapping[str, Any],
    checks: Mapping[str, Callable[[Any], object]],
    source: str,
    prefix: str = "",
    required: bool = True,
) -> None:
    for name, check in checks.items():
        if name not in content and not required:
            continue
        try:
            if name not in content:
                raise ValueError("is missing")
            check(content[name])
        except ValueError as error:
            raise WeightsError(
                f"{source}: the checkpoint's entry {prefix}{name} {shown(reason(error))}; resume "
                "from another checkpoint, by its name in last_checkpoint, or start anew from this "
                "one's weights, as MODEL.WEIGHTS without --resume"
            ) from error


def most_batches(cfg: CfgNode, iters_per_epoch: int) -> int:
    """Largest position in a stream of batches that a run can have reached.

    Args:
        cfg: config of the run.
        iters_per_epoch: iterations in its epochs.
    """
    iterations = cfg.SOLVER.MAX_EPOCH * iters_per_epoch
    return _BATCHES_AT_ONCE * iterations + cfg.METABIN.FIRST_BASE_UPDATES


def machine_record(device: torch.device) -> dict[str, str]:
    """On what the last bits of a training rest beside its config: the machine and the libraries.

    With the same record, config and checkpoint a run goes on bit for bit; PyTorch's kernels sum in
    an order that depends on the number of threads and on the instructions of the processor.

    Args:
        device: where the network is.

    Returns:
        What it is to its value, in words.
    """
    record = {
        "PyTorch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "NumPy": numpy.__version__,
        "Pillow": PIL.__version__,
        "threads": str(torch.get_num_threads()),
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "device": device.type,
    }
    if device.type == "cuda":
        record["device"] = torch.cuda.get_device_name(device)
        record["CUDA"] = str(torch.version.cuda)
        record["cuDNN"] = str(torch.backends.cudnn.version())
    return record


def machine_changes(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """In what two machines differ.

    Args:
        then: record of the first.
        now: record of the second.

    Returns:
        One line ``name: then -> now`` for each difference.
    """
    return [
        f"{shown(name)}: {shown(then.get(name, '(absent)'))} -> {now.get(name, '(absent)')}"
        for name in {**now, **then}
        if then.get(name) != now.get(name)
    ]


def check_metric(value: Any) -> None:
    """Refuse what is not a metric.

    Raises:
        ValueError: it is not a finite number.
    """
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"is {shown(repr(value))}, not a finite number")


def check_count(value: Any) -> None:
    """Refuse what does not count anything.

    Raises:
        ValueError: it is not a whole number in [0, 2**63).
    """
    _check_whole(value, 0, 2**63 - 1)


def _check_format(value: Any) -> None:
    if type(value) is not int or value < 0:
        raise ValueError(f"is {shown(repr(value))}, not a whole number from 0")
    if value > FORMAT:
        raise ValueError(f"is {value}, of a newer version of the plugin, which is needed here")


def _check_whole(value: Any, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"is {shown(repr(value))}, not a whole number from {low} to {high}")


def _check_iteration(value: Any, first: int, last: int, per_epoch: int) -> None:
    try:
        _check_whole(value, first, last)
    except ValueError as error:
        length = f"with the {per_epoch} iterations of an epoch here (METABIN.ITERS_PER_EPOCH)"
        raise ValueError(f"{error}, the epoch that is due {length}") from error


def _check_config(value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"is a {type(value).__name__}, not the text of a config")
    try:
        node = read_yaml(value)
    except ValueError as error:
        raise ValueError(f"is not a config ({reason(error)})") from error
    if not _has_names_alone(node):
        raise ValueError("is not a config: it is not a mapping of names")


def _has_names_alone(node: Any) -> bool:
    return isinstance(node, dict) and all(
        isinstance(key, str) and (not isinstance(value, dict) or _has_names_alone(value))
        for key, value in node.items()
    )


def _check_dict(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"is a {type(value).__name__}, not a dict")


def _check_batches(value: Any, most: int) -> None:
    if value is not None:
        check_position(value, most)


def _check_random_states(value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError("is not a list with the states of each process")
    for number, state in enumerate(value):
        try:
            random_state.check(state)
        except ValueError as error:
            raise ValueError(f"[{number}] {error}") from error


def _check_machine(record: Any) -> None:
    if not isinstance(record, dict) or not all(
        isinstance(text, str) and len(text) <= _LONGEST for pair in record.items() for text in pair
    ):
        raise ValueError("is not a description of a machine")
