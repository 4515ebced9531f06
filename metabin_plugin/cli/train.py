"""``metabin train`` and ``metabin eval``, also for a project's trainer."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from fastreid.engine import launch

from metabin_plugin.cli.arguments import train
from metabin_plugin.cli.outcome import run_cli, without_tracebacks
from metabin_plugin.compat.launching import peer_is_gone
from metabin_plugin.engine.trainer import MetaBINTrainer, train_or_evaluate

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
            run_here,
            options.num_gpus,
            num_machines=options.num_machines,
            machine_rank=options.machine_rank,
            dist_url=options.dist_url,
            args=(options, trainer),
        )


def run_here(options: Namespace, trainer: type[MetaBINTrainer]) -> None:
    """What each process does, whose log is the reader's if it is the first.

    Args:
        options: what the arguments of ``train`` gave.
        trainer: what trains and evaluates.
    """
    with without_tracebacks(peer_is_gone):
        train_or_evaluate(options, trainer)
