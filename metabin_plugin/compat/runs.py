"""Configs, the folder of a run, its log and its progress line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from metabin_plugin.compat.patching import patch
from metabin_plugin.config.reading import MAX_DIGITS, load_config
from metabin_plugin.errors import RunFolderError
from metabin_plugin.files import reason
from metabin_plugin.run_folder import (
    begin_run,
    in_main_process,
    prepare_folder,
    trace_of_run,
    write_config,
)
from metabin_plugin.text import shown

logger = logging.getLogger(__name__)

# Over which fastreid's line of the log takes the median of a loss.
_LINE_WINDOW = 200


@patch(
    "fastreid.config.config:CfgNode.load_yaml_with_base",
    fault="A config from elsewhere can stop fastreid for ever, crash it, or fetch what it names: "
    "``_BASE_`` may lead to a pipe, a URL or in a circle, aliases may stand for more than a memory "
    "holds, and ``allow_unsafe`` runs code. The locale's encoding, which need not be UTF-8, "
    "changes names.",
    unless=None,
)
def load_checked_config(filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
    """Read a config file and those it inherits from, as fastreid merges them.

    The files are UTF-8, and one that cannot be read safely is refused with a sentence. No tag makes
    an object, whatever ``allow_unsafe`` is.
    """
    return load_config(filename)


@patch(
    "fastreid.config.config:CfgNode._decode_cfg_value",
    fault="A text that looks like a Python value may be nested more deeply than Python's parser "
    "bears, which crashes it, or be a number of so many digits that Python does not print it.",
    unless="the value is an ordinary one.",
)
def decode_value(original: Callable[[Any, Any], Any], cls: type, value: Any) -> Any:
    """Take such a text for the text that it is, and refuse such a number with a sentence."""
    try:
        decoded = original(cls, value)
    # What Python's parser raises for what is nested too deeply, which is no value of a config.
    except (MemoryError, RecursionError):
        return value
    if _holds_long_number(decoded, 10**MAX_DIGITS):
        raise ValueError(f"{shown(str(value))} has a number of more than {MAX_DIGITS} digits")
    return decoded


def _holds_long_number(value: object, limit: int) -> bool:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple, set)):
        return any(_holds_long_number(item, limit) for item in value)
    return isinstance(value, int) and abs(value) >= limit


@patch(
    "fastreid.engine.defaults:default_setup",
    fault="It opens ``config.yaml`` of an earlier run for writing, whatever comes next: a full "
    "disk, a config that cannot work or a second run then cost the first one its config. It "
    "follows links, and ends in a traceback for a folder that cannot be made.",
    unless="``OUTPUT_DIR`` is empty.",
)
def default_setup(cfg: Any, args: argparse.Namespace) -> None:
    """Take the folder first, or refuse it with a sentence; then set up the log as before."""
    from fastreid.utils import comm
    from fastreid.utils.collect_env import collect_env_info
    from fastreid.utils.env import seed_all_rng
    from fastreid.utils.logger import setup_logger

    evaluates = getattr(args, "eval_only", False)
    resumes = getattr(args, "resume", False)
    folder, rank = cfg.OUTPUT_DIR, comm.get_rank()
    if folder:
        in_main_process(lambda: _take(folder, cfg.dump(), evaluates, resumes))
    try:
        setup_logger(folder or None, distributed_rank=rank)
    except OSError as error:
        raise RunFolderError(
            f"the log in OUTPUT_DIR {folder} cannot be written ({reason(error)}); give a folder "
            "that can"
        ) from error
    logger.info("Rank %d of %d processes", rank, comm.get_world_size())
    logger.info("Environment:\n%s", collect_env_info())
    logger.info("Command line: %s", args)
    logger.info("Config:\n%s", cfg)
    # Each process its own; a trainer with METABIN.SEED sets it anew.
    seed_all_rng()
    if not evaluates:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def _take(folder: str, config: str, evaluates: bool, resumes: bool) -> None:
    if evaluates:
        prepare_folder(folder)
    else:
        begin_run(folder, resumes)
    # That of a run which is there stays: an evaluation is none, and a run that goes on writes its
    # own when it is known that it can.
    if not trace_of_run(folder):
        write_config(folder, config)


@patch(
    "fastreid.utils.logger:setup_logger",
    fault="On a full disk every line of the log prints a traceback of ``logging`` itself.",
    unless="the log can be written.",
)
def log_with_one_report(original: Callable[..., Any], *args: Any, **kwargs: Any) -> logging.Logger:
    """Say it in one line on standard error, once."""
    found: logging.Logger = original(*args, **kwargs)
    for handler in found.handlers:
        path = getattr(getattr(handler, "stream", None), "name", None)
        if isinstance(handler.handleError, _OneReport):
            continue
        if isinstance(path, str) and os.path.isfile(path):
            handler.handleError = _OneReport(path)  # type: ignore[method-assign]
    return found


class _OneReport:
    """What a handler does with an error of writing: one line on standard error, then nothing."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._has_reported = False

    def __call__(self, record: logging.LogRecord) -> None:
        if self._has_reported:
            return
        self._has_reported = True
        error = sys.exc_info()[1]
        print(
            f"warning: {self._path} cannot be written ({reason(error or OSError())}); lines of the "
            "log are missing there",
            file=sys.stderr,
        )


@patch(
    "fastreid.utils.events:CommonMetricPrinter.write",
    fault="A run of fewer than three iterations writes twice in one iteration and ends in a "
    "``ZeroDivisionError``: fastreid measures no iteration time before the third, and estimates it "
    "from its last line. A loss that is computed no more stays in every line to the end.",
    unless="the iteration is another than at the last line, and all losses are of the last 200.",
)
def write_once(original: Callable[..., Any], self: Any) -> None:
    """Write one line an iteration, without losses that ended longer ago than it looks back."""
    from fastreid.utils.events import get_event_storage

    storage = get_event_storage()
    if self._last_write is not None and self._last_write[0] == storage.iter:
        return
    begin = storage.iter - _LINE_WINDOW
    ended = [
        name for name, (_, last) in storage.latest().items() if "loss" in name and last <= begin
    ]
    left_out = {name: storage._history.pop(name) for name in ended}
    try:
        original(self)
    finally:
        storage._history.update(left_out)
