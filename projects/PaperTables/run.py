"""Run rows of the paper's tables and write the tables beside the paper's figures.

python projects/PaperTables/run.py --budget projects/PaperTables/budgets/demo.yml
    [--tables 2 3 4 fig2 systems] [--rows ROW ...] [--seeds 1 2] [--jobs 2] [--weights FILE]
    [--output logs/tables] [--report]
"""

from __future__ import annotations

import metabin_plugin

metabin_plugin.register()

from papertables.command import main

if __name__ == "__main__":
    main()
