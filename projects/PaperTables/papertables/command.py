"""The command: run the rows of chosen tables, and write the tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.environment import available_cpus
from metabin_plugin.errors import STATUS_BASE, ConfigError
from metabin_plugin.files import make_folder_of, write_whole
from papertables.rows import Budget, Settings, read_budget, row_file, row_settings
from papertables.runs import Ended, Job, JobQueue, Record, Run, one_at_a_time
from papertables.tables import (
    Outcome,
    Plan,
    Table,
    markdown,
    outcome,
    read_plan,
    runs_csv,
    table_csv,
)

ROOT = Path(__file__).resolve().parents[3]
_TRAIN = "tools/train_net.py"
_FOLDER = "OUTPUT_DIR"
# Calls that finish runs at the same time write the tables one after the other.
TABLES_LOCK = "tables.lock"


_LOG_LINES = 15


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rows that are not finished, and write the tables from all that are.

    Args:
        arguments: the command line; by default the process's.

    Raises:
        SystemExit: with status 1 after a mistake of the user's or if a run failed; with the
            signal's status when one stopped it.
    """
    plan = read_plan()
    args = _parser(plan).parse_args(arguments)
    with run_cli():
        experiments = Experiments(args.output, read_budget(args.budget), plan.scripts, args.weights)
        tables = [plan.tables[_table_name(plan, name)] for name in args.tables]
        in_tables = list(dict.fromkeys(line.row for table in tables for line in table.rows))
        _check_rows(args.rows or [], in_tables)
        seeds = unique(args.seeds)
        session = Session(experiments, in_tables, seeds)
        status = 0 if args.report else session.train(args.rows or in_tables, args.jobs)
        write_tables(experiments, in_tables, seeds, tables)
    sys.exit(status)


class Runnable(Protocol):
    """Rows and how they are run, ``Experiments`` for one."""

    @property
    def output(self) -> Path:
        """Folder of all runs."""

    def runs(self, rows: Sequence[str], seeds: Sequence[int]) -> Iterator[Run]:
        """The runs of rows, in order."""

    def settings(self, run: Run) -> Settings:
        """All that is set for a run."""

    def job(self, run: Run) -> Job:
        """The command of a run."""


class Session:
    """One call of the command.

    Args:
        experiments: how rows are run.
        rows: all rows that the call is about.
        seeds: the chosen seeds.

    Raises:
        ConfigError: a run that was started has had other settings since.
    """

    def __init__(self, experiments: Runnable, rows: Sequence[str], seeds: Sequence[int]) -> None:
        self._experiments, self._seeds = experiments, seeds
        self._failed: list[Run] = []
        for run in experiments.runs(rows, seeds):
            if run.record() is not None:
                run.check_unchanged(experiments.settings(run))

    def train(
        self,
        rows: Sequence[str],
        slots: int,
        place: Mapping[str, str] | None = None,
        on_finished: Callable[[], object] = lambda: None,
    ) -> int:
        """Run what is not finished.

        Args:
            rows: the rows to run.
            slots: how many processes run at a time.
            place: what each run's record is to say of the commit and the machine.
            on_finished: called when a run has finished.

        Returns:
            The exit status.

        Raises:
            ConfigError: a row cannot be read, or a file of a run cannot be written; what runs is
                stopped before.
        """
        runs = list(self._experiments.runs(rows, self._seeds))
        todo = {str(run): run for run in runs if not run.is_finished()}
        print(f"{len(runs)} runs, {len(runs) - len(todo)} of them finished before", flush=True)
        settings = {name: self._experiments.settings(run) for name, run in todo.items()}
        jobs = [self._experiments.job(run) for run in todo.values()]
        threads = max(1, available_cpus() // slots)
        queue = JobQueue(slots, threads, self._experiments.output)

        def started(job: Job) -> bool:
            run = todo[job.name]
            # Another call may have finished it meanwhile.
            if run.is_finished():
                return False
            # Or have started it, with what its own checkout sets.
            run.check_unchanged(settings[job.name])
            record = run.record() or Record(settings[job.name])
            run.write_record(record.before_attempt(place or {}))
            number = list(todo).index(job.name) + 1
            print(f"{job.name}: started, {number} of {len(todo)}, {job.log}", flush=True)
            return True

        def ended(job: Job, how: Ended) -> None:
            if self._keep(todo[job.name], how, bool(queue.stopped_by)):
                on_finished()

        queue.run(jobs, started, ended)
        if queue.elsewhere:
            names = ", ".join(job.name for job in queue.elsewhere)
            print(f"left to another call that is running them: {names}", flush=True)
        if queue.stopped_by:
            print("stopped; the same command goes on", file=sys.stderr)
            return STATUS_BASE + queue.stopped_by
        return self._report_failures()

    def _keep(self, run: Run, how: Ended, is_stopping: bool) -> bool:
        record = run.record()
        assert record is not None
        is_finished = how.status == 0 and run.results.exists()
        run.write_record(record.after_attempt(is_finished, how))
        if is_finished:
            one = outcome(run)
            assert one is not None
            figures = f"Rank-1 {one.rank1:.1f}, mAP {one.average_precision:.1f}"
            print(f"{run}: {how.seconds:.0f} s, {figures}", flush=True)
        elif is_stopping:
            print(f"{run}: stopped", flush=True)
        else:
            self._failed.append(run)
            tail = run.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
            print(f"{run}: failed with status {how.status}; {run.log} ends:", file=sys.stderr)
            print("\n".join(f"    {line}" for line in tail), file=sys.stderr, flush=True)
        return is_finished

    def _report_failures(self) -> int:
        if self._failed:
            names = ", ".join(map(str, self._failed))
            print(f"{len(self._failed)} runs failed: {names}", file=sys.stderr)
        return 1 if self._failed else 0


def write_tables(
    experiments: Experiments, rows: Sequence[str], seeds: Sequence[int], tables: Sequence[Table]
) -> None:
    """Write every table and ``runs.csv`` from the runs that are finished.

    Args:
        experiments: how the rows were run.
        rows: all rows of the tables.
        seeds: the chosen seeds.
        tables: what to write.

    Raises:
        ConfigError: the results of a run are damaged, or a file cannot be written.
    """
    output = experiments.output
    with one_at_a_time(output / TABLES_LOCK):
        found = [outcome(run) for run in experiments.runs(rows, seeds)]
        outcomes = [o for o in found if o is not None]
        by_row: dict[str, list[Outcome]] = {}
        for one in outcomes:
            by_row.setdefault(one.run.row, []).append(one)
        for table in tables:
            text = markdown(table, by_row, experiments.budget.about)
            write_text(output / f"{table.name}.md", text)
            write_text(output / f"{table.name}.csv", table_csv(table, by_row))
            print(f"\n{text}")
        write_text(output / "runs.csv", runs_csv(outcomes))


def _check_rows(rows: Sequence[str], in_tables: Sequence[str]) -> None:
    unknown = [row for row in rows if row not in in_tables]
    if unknown:
        raise ConfigError(
            f"--rows names {', '.join(unknown)}, which the chosen tables do not have; choose "
            f"from {', '.join(in_tables)}"
        )


def _parser(plan: Plan) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--budget", type=Path, required=True, help="YAML file with sizes, lengths and data")
    add("--tables", nargs="+", default=list(plan.tables), help=f"of {', '.join(plan.tables)}")
    add("--rows", nargs="+", help="rows to run; by default all of the tables")
    add("--seeds", nargs="+", type=int, default=[1, 2], help="values of METABIN.SEED")
    add("--jobs", type=positive, default=1, help="runs at a time")
    add("--weights", type=Path, help="ImageNet weights to start from")
    add("--output", type=Path, default=Path("logs/tables"), help="folder of runs and tables")
    add("--report", action="store_true", help="run nothing; write the tables of what is there")
    return parser


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _table_name(plan: Plan, name: str) -> str:
    """The table's name; ``2`` is ``table2``."""
    for candidate in (name, f"table{name}"):
        if candidate in plan.tables:
            return candidate
    raise ConfigError(f"--tables names {name!r}; choose from {', '.join(plan.tables)}")


def write_text(path: Path, text: str) -> None:
    """Write a table, whole or not at all; its folder is made.

    Raises:
        ConfigError: it cannot be written.
    """
    make_folder_of(path, ConfigError)
    write_whole(path, lambda file: file.write(text.encode()), ConfigError)


def unique(seeds: Sequence[int]) -> list[int]:
    """Seeds without those that are given again, which would count twice."""
    return list(dict.fromkeys(seeds))
