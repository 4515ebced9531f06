"""The command: train arms with seeds on one budget, and write the raw rows and the table.

An arm is a thin config; where it differs from ``configs/MetaBIN.yml`` is what makes the arm.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from fastreid.config import CfgNode

from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.config.reading import read_yaml_file
from metabin_plugin.errors import ConfigError
from papertables.command import TABLES_LOCK, Session, positive, unique, write_text
from papertables.rows import Settings, flat, read_budget
from papertables.runs import Job, Run, one_at_a_time
from realcrops.results import markdown, raw_csv, read_results

PROJECT = Path(__file__).resolve().parents[1]
ROOT = PROJECT.parents[1]
BUDGETS, CONFIGS = PROJECT / "budgets", PROJECT / "configs"
SCRIPT = ROOT / "tools" / "train_net.py"
# What all arms inherit from; where an arm differs from it is what makes the arm.
COMMON = ROOT / "configs" / "MetaBIN.yml"
_PROTOCOL = "dg"
_FOLDER = "OUTPUT_DIR"
_CPU_INFO = Path("/proc/cpuinfo")


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
        arms: what is set for single arms, instead.
    """

    output: Path
    about: str
    budget: Settings
    arms: Mapping[str, Settings] = field(default_factory=dict)

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
        return cls(output, budget.about, options, budget.rows)

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
        overruled = sorted(makes & set(self._options(run)))
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
        return {**self.budget, **self.arms.get(run.row, {}), "METABIN.SEED": run.seed}


def _config(run: Run) -> Path:
    return CONFIGS / f"{run.row}.yml"


def _settings(path: Path) -> Mapping[str, object]:
    return flat(CfgNode.load_yaml_with_base(str(path)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the arms that are not finished, and write rows and table from all that are.

    Args:
        arguments: the command line; by default the process's.

    Raises:
        SystemExit: with status 1 after a mistake of the user's or if a run failed; with the
            signal's status when one stopped it.
    """
    titles = read_arms()
    args = _parser(titles).parse_args(arguments)
    output = args.output or Path("logs", "real-crops", args.budget)
    with run_cli():
        experiments = Experiments.of_budget(args.budget, output, args.weights)
        tables = Tables(experiments, titles, args.results or output, args.budget)
        status = 0 if args.report else _train(experiments, args, tables)
        print(f"\n{tables.write()}")
    sys.exit(status)


@dataclass(frozen=True)
class Tables:
    """What is written of the finished runs.

    Attributes:
        experiments: how the arms are run.
        titles: what the table calls each arm.
        folder: where the files are written.
        name: of the files, without ending.
    """

    experiments: Experiments
    titles: Mapping[str, str]
    folder: Path
    name: str

    def write(self) -> str:
        """Write the raw rows and the table, whose text is returned.

        Raises:
            ConfigError: the record or the results of a run are damaged or do not go with those of
                the others, or a file cannot be written.
        """
        with one_at_a_time(self.experiments.output / TABLES_LOCK):
            found = read_results(self.experiments.output, list(self.titles))
            text = markdown(found, self.titles, self.experiments.about)
            write_text(self.folder / f"{self.name}.csv", raw_csv(found))
            write_text(self.folder / f"{self.name}.md", text)
        return text


def _train(experiments: Experiments, args: argparse.Namespace, tables: Tables) -> int:
    _check_given(args.data, "--data", args.data is not None and args.data.is_dir())
    _check_given(args.weights, "--weights", args.weights is not None and args.weights.is_file())
    is_gpu = experiments.budget.get("MODEL.DEVICE") != "cpu"
    os.environ["FASTREID_DATASETS"] = str(args.data.resolve())
    # The plugin that is run is that of the commit that is recorded.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    if not is_gpu:
        # Seconds are those of one thread, however many runs there are at a time.
        os.environ["OMP_NUM_THREADS"] = "1"
    arms = args.arms or list(tables.titles)
    # What the tables cannot be made of is said before hours of training.
    read_results(experiments.output, arms)
    session = Session(experiments, arms, unique(args.seeds))
    return session.train(arms, args.processes, _place(is_gpu), tables.write)


def _check_given(path: Path | None, option: str, is_there: bool) -> None:
    if not is_there:
        fault = "is needed" if path is None else f"{str(path)!r} does not exist"
        raise ConfigError(f"{option} {fault}; see projects/RealCrops/README.md")


def _place(is_gpu: bool) -> dict[str, str]:
    """What a run is recorded with."""
    return {
        "commit": _git("rev-parse", "HEAD")
        + ("+" if _git("status", "--porcelain", "-uno") else ""),
        "torch": torch.__version__,
        "processor": torch.cuda.get_device_name() if is_gpu else _cpu_name(),
    }


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    # A copy without history.
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu_name() -> str:
    lines = _CPU_INFO.read_text(encoding="utf-8").splitlines() if _CPU_INFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _parser(titles: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--budget", choices=budget_names(), required=True, help="sizes and lengths of every run")
    add("--data", type=Path, help="folder that lay_out.py has laid out")
    add("--weights", type=Path, help="ImageNet weights to start from")
    add("--arms", nargs="+", choices=list(titles), metavar="ARM", help=f"of {', '.join(titles)}")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3], help="values of METABIN.SEED")
    add("--processes", type=positive, default=1, help="runs at a time, of all calls on one output")
    add("--output", type=Path, help="folder of the runs; by default logs/real-crops/BUDGET")
    add("--results", type=Path, help="folder of rows and table; by default that of the runs")
    add("--report", action="store_true", help="run nothing; write the rows and the table")
    return parser
