"""Try every backbone with BIN, and write what came out to BACKBONES.md and README.md of configs.

python projects/Benchmarks/make_backbone_table.py run [--export none|smallest|all] [--again]
    [--json FILE]
python projects/Benchmarks/make_backbone_table.py write [--json FILE] [--output FILE]
    [--readme FILE]

"run" trains and evaluates each backbone for a moment, in a process of its own, and exports the
smallest of each family; it goes on where it was stopped. "write" makes the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import metabin_plugin

metabin_plugin.register()

from backbones import (
    BackboneTableError,
    family_table,
    page,
    read_results,
    run_all,
    smallest,
    with_block,
)
from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.files import make_folder_of, write_whole
from metabin_plugin.modeling.backbones import BACKBONES

ROOT = Path(__file__).resolve().parents[2]
OUTCOMES = ROOT / "configs" / "BACKBONES.json"
PAGE = ROOT / "configs" / "BACKBONES.md"
README = ROOT / "configs" / "README.md"
EXPORTS = {"none": [], "smallest": smallest(), "all": list(BACKBONES)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Raises:
        BackboneTableError: there are no outcomes, or a file cannot be read or written.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="try the backbones that have no outcome yet")
    run.add_argument(
        "--export", choices=EXPORTS, default="smallest", help="which to export (of each family)"
    )
    run.add_argument("--again", action="store_true", help="try those that have failed again")
    write = commands.add_parser("write", help="write the tables")
    write.add_argument("--output", type=Path, default=PAGE, help="the page (configs/BACKBONES.md)")
    write.add_argument("--readme", type=Path, default=README, help="the page with the short table")
    for command in (run, write):
        command.add_argument("--json", type=Path, default=OUTCOMES, help="the file of outcomes")
    options = parser.parse_args(arguments)
    if options.command == "run":
        make_folder_of(options.json, BackboneTableError)
        run_all(options.json, EXPORTS[options.export], options.again)
    else:
        write_tables(options.json, options.output, options.readme)


def write_tables(outcomes: Path, output: Path, readme: Path) -> None:
    """Write the page of all backbones, and the short table between its marks.

    Raises:
        BackboneTableError: there are no outcomes, or a file cannot be read or written.
    """
    results = read_results(outcomes)
    absent = [backbone for backbone in BACKBONES if backbone not in results.outcomes]
    if absent:
        raise BackboneTableError(
            f"--json {outcomes} has no outcome of {len(absent)} backbones ({absent[0]} ...); run "
            "`make_backbone_table.py run` first"
        )
    contents = {output: page(results), readme: with_block(readme, family_table(results))}
    for path, content in contents.items():
        _write(path, content)


def _write(path: Path, content: str) -> None:
    write_whole(path, lambda file: file.write(content.encode()), BackboneTableError)


if __name__ == "__main__":
    with run_cli("the same command goes on where it was stopped"):
        main()
