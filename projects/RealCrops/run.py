"""Train every arm with every seed on the real crops, and write the table.

python projects/RealCrops/run.py --budget cpu --data FOLDER --weights FILE
    [--arms BN MetaBIN ...] [--seeds 1 2 3] [--processes N] [--output FOLDER] [--results FOLDER]
    [--report]
"""

from __future__ import annotations

import sys
from pathlib import Path

import metabin_plugin

metabin_plugin.register()

# The queue of runs is that of the paper's tables.
sys.path.append(str(Path(__file__).resolve().parents[1] / "PaperTables"))

from realcrops.command import main

if __name__ == "__main__":
    main()
