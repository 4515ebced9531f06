"""The arms of the comparison: one thin config each, all trained on one budget."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastreid.config import CfgNode

from metabin_plugin.config.yaml_text import read_yaml_file
from metabin_plugin.errors import ConfigError
from papertables.rows import Settings, flat, read_budget
from papertables.runs import Job, Run

PROJECT = Path(__file__).resolve().parents[1]
ROOT = PROJECT.parents[1]
BUDGETS, CONFIGS = PROJECT / "budgets", PROJECT / "configs"
SCRIPT = ROOT / "tools" / "train_net.py"
# What all arms inherit from; where an arm differs from it is what makes the arm.
COMMON = ROOT / "configs" / "MetaBIN.yml"
_PROTOCOL = "dg"
_FOLDER = "OUTPUT_DIR"


def read_arms(path: Path = PROJECT / "arms.yml") -> dict[str, str]:
    """What the table calls each arm, in the table's order.

    Args:
        path: a YAML file with a line ``NAME: TITLE`` for each config ``configs/NAME.yml``.
    """
    return {str(name): str(title) for name, title in read_yaml_file(path).items()}


def budget_names() -> list[str]:
    """All budgets, sorted."""
    return sorted(path.stem for path in BUDGETS.glob("*.yml"))


@dataclass(frozen=True)
class Experiments:
    """How arms are run.

    Attributes:
        output: folder of all runs.
        about: a sentence on the budget.
        budget: what is set for every arm.
    """

    output: Path
    about: str
    budget: Settings

    @classmethod
    def of_budget(cls, name: str, output: Path, weights: Path | None) -> Experiments:
        """The arms on a budget, from ImageNet weights.

        Args:
            name: a file of ``budgets``, without ending.
            output: folder of all runs.
            weights: file of the ImageNet weights; None if nothing will be run.

        Raises:
            ConfigError: there is no such budget, or its file is malformed.
        """
        budget = read_budget(BUDGETS / f"{name}.yml")
        options = dict(budget.protocols[_PROTOCOL])
        if weights is not None:
            options["MODEL.BACKBONE.PRETRAIN_PATH"] = str(weights.resolve())
        return cls(output, budget.about, options)

    def runs(self, rows: Sequence[str], seeds: Sequence[int]) -> Iterator[Run]:
        """All arms with the first seed, then with the next."""
        for seed in seeds:
            for arm in rows:
                yield Run(arm, seed, self.output / arm / f"seed{seed}")

    def settings(self, run: Run) -> Settings:
        """All that a run's config files and the budget set, but its folder.

        Raises:
            ConfigError: the arm's config cannot be read, or the budget changes what makes the arm.
        """
        arm, common = _settings(_config(run)), _settings(COMMON)
        makes = {key for key, value in arm.items() if key not in common or common[key] != value}
        overruled = sorted(makes & set(self.budget))
        if overruled:
            raise ConfigError(
                f"the budget sets {', '.join(overruled)}, which makes arm {run.row!r} what it is; "
                "remove it from the budget or from the arm"
            )
        settings = {**arm, **self._options(run)}
        settings.pop(_FOLDER, None)
        return settings

    def job(self, run: Run) -> Job:
        """The command that trains and evaluates, going on from a checkpoint if there is one."""
        options = {**self._options(run), _FOLDER: run.folder}
        command = [sys.executable, SCRIPT, "--config-file", _config(run), "--resume"]
        command += [part for pair in options.items() for part in pair]
        return Job(str(run), list(map(str, command)), run.log)

    def _options(self, run: Run) -> Settings:
        return {**self.budget, "METABIN.SEED": run.seed}


def _config(run: Run) -> Path:
    return CONFIGS / f"{run.row}.yml"


def _settings(path: Path) -> Mapping[str, object]:
    return flat(CfgNode.load_yaml_with_base(str(path)))
