"""Train or evaluate a network, with fastreid's own arguments.

python tools/train_net.py --config-file configs/MetaBIN.yml [--resume] [--eval-only]
    [--num-gpus N] [KEY VALUE ...]
"""

from __future__ import annotations

import metabin_plugin

metabin_plugin.let_waiting_threads_sleep()
metabin_plugin.register()

from metabin_plugin.engine import run_command_line

if __name__ == "__main__":
    run_command_line()
