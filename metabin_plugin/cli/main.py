"""The command ``metabin``: it reads the arguments, and only then imports what does the work."""

from __future__ import annotations

import importlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import NamedTuple

import metabin_plugin
from metabin_plugin.cli import arguments
from metabin_plugin.cli.outcome import run_cli


class Command(NamedTuple):
    """A command.

    Attributes:
        describe: adds its arguments to a parser; its docstring is the help.
        home: the module whose ``run(options)`` does the work.
    """

    describe: arguments.Describe
    home: str


COMMANDS = {
    "train": Command(arguments.train, "metabin_plugin.cli.train"),
    "eval": Command(arguments.evaluate, "metabin_plugin.cli.train"),
    "check": Command(arguments.check, "metabin_plugin.cli.check"),
    "manifest": Command(arguments.manifest, "metabin_plugin.cli.manifest"),
    "index": Command(arguments.index, "metabin_plugin.cli.index"),
    "query": Command(arguments.query, "metabin_plugin.cli.query"),
    "threshold": Command(arguments.threshold, "metabin_plugin.cli.threshold"),
    "ranked": Command(arguments.ranked, "metabin_plugin.cli.ranked"),
    "plot": Command(arguments.plot, "metabin_plugin.cli.plot"),
    "export": Command(arguments.export, "metabin_plugin.cli.export"),
    "convert": Command(arguments.convert, "metabin_plugin.cli.convert"),
    "demo": Command(arguments.demo, "metabin_plugin.cli.demo"),
}


def main(*front: str) -> int:
    """Run the command line.

    Args:
        front: words in front of it, for a script that is one command.

    Returns:
        The exit status.

    Raises:
        SystemExit: after a mistake of the user's, Ctrl-C or ``--help``.
    """
    with run_cli():
        return execute([*front, *sys.argv[1:]])


def execute(words: Sequence[str]) -> int:
    """Do what some words say, as they are behind ``metabin``.

    Returns:
        The exit status.

    Raises:
        MetaBINError: a mistake of the user's.
        SystemExit: the words are no command, or ask for help.
    """
    options = parse(words)
    metabin_plugin.let_waiting_threads_sleep()
    metabin_plugin.register()
    return importlib.import_module(COMMANDS[options.command].home).run(options) or 0


def parse(words: Sequence[str]) -> Namespace:
    """Read a command line.

    Raises:
        SystemExit: the words are no command, or ask for help.
    """
    parser = ArgumentParser(
        prog="metabin", description="Generalizable person re-identification: MetaBIN on fastreid."
    )
    describe = {name: command.describe for name, command in COMMANDS.items()}
    arguments.add_commands(parser, "command", describe)
    return parser.parse_args(words)


if __name__ == "__main__":
    raise SystemExit(main())
