"""The command line of training and evaluation, shared by ``tools/train_net.py`` and projects."""

from __future__ import annotations

import argparse
from typing import Any

from fastreid.engine import default_argument_parser, default_setup, launch

from metabin_plugin.cli import run_cli
from metabin_plugin.engine.config_check import checked
from metabin_plugin.engine.config_file import read_config
from metabin_plugin.engine.trained import trained_network
from metabin_plugin.engine.trainer import MetaBINTrainer

_GO_ON = (
    "the same command with --resume goes on from the last checkpoint in OUTPUT_DIR, or starts "
    "again where there is none"
)


def run_command_line(trainer: type[MetaBINTrainer] = MetaBINTrainer) -> None:
    """Train or evaluate as the command line says, with fastreid's own arguments.

    Call it under ``if __name__ == "__main__":`` of a script that, when imported, registers the
    plugin and whatever else its configs name: processes that are spawned import the script anew.

    Args:
        trainer: what trains and evaluates.
    """
    arguments = default_argument_parser().parse_args()
    with run_cli(_GO_ON):
        launch(
            train_or_evaluate,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments, trainer),
        )


def train_or_evaluate(
    arguments: argparse.Namespace, trainer: type[MetaBINTrainer] = MetaBINTrainer
) -> Any:
    """Train, or with ``--eval-only`` evaluate ``MODEL.WEIGHTS``.

    Args:
        arguments: what fastreid's ``default_argument_parser`` gives.
        trainer: what trains and evaluates.

    Returns:
        The results by target; None if nothing was evaluated.

    Raises:
        MetaBINError: config, data or weights cannot work.
    """
    cfg = read_config(arguments.config_file, arguments.opts)
    # Before OUTPUT_DIR is made for a config that cannot work.
    with checked(cfg):
        cfg.freeze()
        default_setup(cfg, arguments)
        if arguments.eval_only:
            network = trained_network(cfg, "--eval-only evaluates MODEL.WEIGHTS, which is empty")
            return trainer.test(cfg, network)
        run = trainer(cfg)
        run.resume_or_load(resume=arguments.resume)
        return run.train()
