"""Search a gallery by images, with a trained network and Faiss.

python tools/search.py index --config-file CONFIG --gallery FOLDER --output gallery.index
    MODEL.WEIGHTS CHECKPOINT [KEY VALUE ...]
python tools/search.py query gallery.index IMAGE_OR_FOLDER ... [--top 10] [--output found.csv]
python tools/search.py bench [--vectors 1000000]

Each has more arguments (index --help).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from metabin_plugin.cli import bench, index, query

COMMANDS = {"index": index, "query": query, "bench": bench}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=(module.__doc__ or "").splitlines()[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
    options = parser.parse_args(arguments)
    COMMANDS[options.command].run(options)
