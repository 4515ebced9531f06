"""``metabin train`` and ``metabin eval``, also for a project's trainer."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from fastreid.config import CfgNode
from fastreid.engine import default_setup, launch
from fastreid.utils.checkpoint import Checkpointer
from torch import nn

from metabin_plugin.cli.arguments import train
from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.config.check import checked
from metabin_plugin.config.reading import read_config
from metabin_plugin.engine.trainer import MetaBINTrainer
from metabin_plugin.errors import ConfigError


def trained_network(cfg: CfgNode, if_empty: str) -> nn.Module:
    """The network of a config with ``MODEL.WEIGHTS``; ImageNet weights are not looked for.

    Args:
        cfg: the config; it is not changed.
        if_empty: first part of the sentence that refuses an empty ``MODEL.WEIGHTS``.

    Raises:
        ConfigError: ``MODEL.WEIGHTS`` is empty, or the config cannot work.
        WeightsError: the file is damaged or does not fit.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            f"{if_empty}; add MODEL.WEIGHTS and the path of a checkpoint, "
            "OUTPUT_DIR/model_final.pth for example"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.PRETRAIN = False
    network = MetaBINTrainer.build_model(cfg)
    Checkpointer(network).load(cfg.MODEL.WEIGHTS)
    return network


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
    parser = ArgumentParser()
    train(parser)
    run(parser.parse_args(), trainer)


def run(options: Namespace, trainer: type[MetaBINTrainer] = MetaBINTrainer) -> None:
    """Train or evaluate, in this process or in several.

    Args:
        options: what the arguments of ``train`` gave.
        trainer: what trains and evaluates.

    Raises:
        SystemExit: after a user's error or Ctrl-C, with a sentence and status 1 or 130.
    """
    with run_cli(_GO_ON):
        launch(
            train_or_evaluate,
            options.num_gpus,
            num_machines=options.num_machines,
            machine_rank=options.machine_rank,
            dist_url=options.dist_url,
            args=(options, trainer),
        )


def train_or_evaluate(options: Namespace, trainer: type[MetaBINTrainer] = MetaBINTrainer) -> Any:
    """Train, or with ``--eval-only`` evaluate ``MODEL.WEIGHTS``.

    Args:
        options: what the arguments of ``train``, or fastreid's ``default_argument_parser``, gave.
        trainer: what trains and evaluates.

    Returns:
        The results by target; None if nothing was evaluated.

    Raises:
        MetaBINError: config, data or weights cannot work.
    """
    cfg = read_config(options.config_file, options.opts)
    # Before OUTPUT_DIR is made for a config that cannot work.
    with checked(cfg):
        cfg.freeze()
        default_setup(cfg, options)
        if options.eval_only:
            network = trained_network(cfg, "--eval-only evaluates MODEL.WEIGHTS, which is empty")
            return trainer.test(cfg, network)
        training = trainer(cfg)
        training.resume_or_load(resume=options.resume)
        return training.train()
