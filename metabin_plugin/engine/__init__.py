"""Training: the meta-learning hook and the trainer that wires it into fastreid's loop."""

from metabin_plugin.config.check import check_config, check_data_keys
from metabin_plugin.config.reading import read_config
from metabin_plugin.engine.meta_learning import MetaLearningHook
from metabin_plugin.engine.mldg import MLDGHook
from metabin_plugin.engine.trainer import MetaBINTrainer, train_or_evaluate, trained_network

__all__ = [
    "MLDGHook",
    "MetaBINTrainer",
    "MetaLearningHook",
    "check_config",
    "check_data_keys",
    "read_config",
    "run_command_line",
    "train_or_evaluate",
    "trained_network",
]


def run_command_line(trainer: type[MetaBINTrainer] = MetaBINTrainer) -> None:
    """The command line of a project's trainer, see ``metabin_plugin.cli.train``."""
    # The commands know the library, and not the other way round.
    from metabin_plugin.cli import train

    train.run_command_line(trainer)
