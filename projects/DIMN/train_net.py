"""Train or evaluate DIMN, with fastreid's own arguments.

python projects/DIMN/train_net.py --config-file projects/DIMN/configs/DIMN.yml [--resume]
    [--eval-only] KEY VALUE...
"""

from __future__ import annotations

import metabin_plugin
from metabin_plugin.cli.arguments import answer_help, train

if __name__ == "__main__":
    # Before PyTorch is loaded, which takes seconds.
    answer_help(train)

metabin_plugin.let_waiting_threads_sleep()
metabin_plugin.register()

from dimn import DIMNTrainer
from metabin_plugin.engine import run_command_line

if __name__ == "__main__":
    run_command_line(DIMNTrainer)
