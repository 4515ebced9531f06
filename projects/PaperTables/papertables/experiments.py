"""From rows, seeds and a budget to runs and their command lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from papertables.rows import Budget, Settings, row_file, row_settings
from papertables.runs import Job, Run

ROOT = Path(__file__).resolve().parents[3]
_TRAIN = "tools/train_net.py"
_FOLDER = "OUTPUT_DIR"


@dataclass(frozen=True)
class Experiments:
    """How rows are run.

    Attributes:
        output: folder of all runs.
        budget: what is merged over the rows.
        scripts: the script of each row that tools/train_net.py does not run.
        weights: ImageNet weights to start from; None for what the row and the budget say.
    """

    output: Path
    budget: Budget
    scripts: Mapping[str, str]
    weights: Path | None = None

    def runs(self, rows: Sequence[str], seeds: Sequence[int]) -> Iterator[Run]:
        """The runs the budget covers: all rows with the first seed, then with the next."""
        for seed in seeds:
            for row in rows:
                if self.budget.covers(row):
                    yield Run(row, seed, self.output / row / f"seed{seed}")

    def settings(self, run: Run) -> Settings:
        """All that a run's config files and command line set, but its folder.

        Raises:
            ConfigError: the row's config cannot be read, or the budget changes what makes the row.
        """
        settings = {**row_settings(run.row), **self._options(run)}
        settings.pop(_FOLDER, None)
        return settings

    def job(self, run: Run) -> Job:
        """The command that trains and evaluates, going on from a checkpoint if there is one."""
        script = ROOT / self.scripts.get(run.row, _TRAIN)
        options = {**self._options(run), _FOLDER: run.folder}
        command = [sys.executable, script, "--config-file", row_file(run.row), "--resume"]
        command += [part for pair in options.items() for part in pair]
        return Job(str(run), list(map(str, command)), run.log)

    def _options(self, run: Run) -> Settings:
        options = dict(self.budget.settings(run.row))
        if self.weights is not None:
            options["MODEL.BACKBONE.PRETRAIN"] = True
            options["MODEL.BACKBONE.PRETRAIN_PATH"] = str(self.weights)
        options["METABIN.SEED"] = run.seed
        return options
