"""A script that trains on two ranks for ever: ``python launched_run.py FOLDER``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import metabin_plugin

metabin_plugin.register()

from fastreid.engine import launch

from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.engine import MetaBINTrainer
from tests.engine.tiny_data import tiny_config


def train(folder: Path) -> None:
    """Train; every rank leaves its process id when it is in the midst of it."""
    from fastreid.utils import comm

    from tests.distributed import small_backbone

    rank = comm.get_rank()
    own = folder / str(rank)
    own.mkdir()
    options = [*small_backbone.OPTIONS, "METABIN.ITERS_PER_EPOCH", "1000000"]
    trainer = MetaBINTrainer(tiny_config(own, *options))

    def mark(*_: object) -> None:
        if trainer.iter == 3:
            (folder / f"part{rank}").write_text(str(os.getpid()))
            (folder / f"part{rank}").rename(folder / f"training{rank}")

    trainer.optimizer.register_step_pre_hook(mark)
    trainer.train()


def main(folder: Path) -> None:
    """What the script does."""
    with run_cli():
        launch(train, 2, args=(folder,))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
