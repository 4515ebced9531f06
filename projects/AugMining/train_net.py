"""Train or evaluate AugMining, with fastreid's own arguments.

python projects/AugMining/train_net.py --config-file projects/AugMining/configs/AugMining.yml
    [--resume] [--eval-only] [--num-gpus N] [KEY VALUE ...]
"""

from __future__ import annotations

import metabin_plugin
from metabin_plugin.cli.arguments import answer_help, train

if __name__ == "__main__":
    # Before PyTorch is loaded, which takes seconds.
    answer_help(train)

metabin_plugin.let_waiting_threads_sleep()

import augmining  # noqa: F401  # makes the architecture and its config node known
from metabin_plugin.engine import run_command_line

if __name__ == "__main__":
    run_command_line()
