"""Train or evaluate a network: ``metabin train``, with fastreid's own arguments.

python tools/train_net.py --config-file configs/MetaBIN.yml [--resume] [--eval-only]
    [--num-gpus N] [KEY VALUE ...]
"""

from __future__ import annotations

from metabin_plugin.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main("train"))
