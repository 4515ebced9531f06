"""Train or evaluate a network, with fastreid's own arguments.

python tools/train_net.py --config-file configs/MetaBIN.yml [--resume] [--eval-only]
    [--num-gpus N] [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
from typing import Any

import metabin_plugin

metabin_plugin.register()

from fastreid.config import CfgNode
from fastreid.engine import default_argument_parser, default_setup, launch

from metabin_plugin.cli import run_cli
from metabin_plugin.engine import MetaBINTrainer, check_config, read_config, trained_network


def setup(args: argparse.Namespace) -> CfgNode:
    """Read, check and log the config."""
    cfg = read_config(args.config_file, args.opts)
    # Before the config of an earlier run in OUTPUT_DIR is overwritten by one that cannot work.
    check_config(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def main(args: argparse.Namespace) -> Any:
    """Train, or with ``--eval-only`` evaluate ``MODEL.WEIGHTS``; the results by target."""
    cfg = setup(args)
    if not args.eval_only:
        trainer = MetaBINTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    return evaluate(cfg)


def evaluate(cfg: CfgNode) -> Any:
    """Evaluate ``MODEL.WEIGHTS`` on ``DATASETS.TESTS``; the results by target."""
    model = trained_network(cfg, "--eval-only evaluates MODEL.WEIGHTS, which is empty")
    return MetaBINTrainer.test(cfg, model)


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    with run_cli():
        launch(
            main,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
