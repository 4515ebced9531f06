"""``default_setup`` overwrites the config of an earlier run, and trains in whosever folder."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any

import torch

from metabin_plugin.compat.rebinding import repair
from metabin_plugin.errors import RunFolderError
from metabin_plugin.files import reason
from metabin_plugin.run_folder import begin_run, prepare_folder, trace_of_run, write_config

logger = logging.getLogger(__name__)


def in_main_process(act: Callable[[], None]) -> None:
    """Let the main process act on the folder of a run; all processes raise what it raises.

    Args:
        act: what to do.

    Raises:
        RunFolderError: what ``act`` raised.
    """
    from fastreid.utils import comm

    fault = ""
    if comm.is_main_process():
        try:
            act()
        except RunFolderError as error:
            fault = str(error)
    fault = comm.all_gather(fault)[0]
    if fault:
        raise RunFolderError(fault)


def _setup(cfg: Any, arguments: argparse.Namespace) -> None:
    from fastreid.utils import comm
    from fastreid.utils.collect_env import collect_env_info
    from fastreid.utils.env import seed_all_rng
    from fastreid.utils.logger import setup_logger

    evaluates = getattr(arguments, "eval_only", False)
    resumes = getattr(arguments, "resume", False)
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
    logger.info("Command line: %s", arguments)
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


def _with_own_folder(_original: Callable[..., Any]) -> Callable[..., Any]:
    def default_setup(cfg: Any, args: argparse.Namespace) -> None:
        _setup(cfg, args)

    return default_setup


def repair_run_setup() -> None:
    """``default_setup`` opens ``config.yaml`` of an earlier run for writing, whatever comes next.

    A full disk, a config that cannot work or a second run then cost the first one its config. It
    also follows links, and has a traceback for a folder that cannot be made. The replacement takes
    the folder first, and refuses it with a sentence.
    """
    from fastreid.engine import defaults

    repair(defaults, "default_setup", _with_own_folder)
