"""``python -m metabin_plugin SCRIPT ARGS...``: an unmodified fastreid script, with the plugin."""

from __future__ import annotations

import sys
from pathlib import Path

from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.cli.script import run_script
from metabin_plugin.environment import let_waiting_threads_sleep

_USAGE = "usage: python -m metabin_plugin SCRIPT [ARGS...]"


def main(arguments: list[str]) -> None:
    """Run the script that the command line names.

    Args:
        arguments: The script's path and its own arguments.

    Raises:
        SystemExit: Status 2 without a readable script, 1 after a user's error.
    """
    if not arguments or arguments[0].startswith("-"):
        print(_USAGE, file=sys.stderr)
        raise SystemExit(2)
    path = arguments[0]
    if not Path(path).is_file():
        print(f"error: there is no script {path}; {_USAGE}", file=sys.stderr)
        raise SystemExit(2)
    let_waiting_threads_sleep()
    with run_cli():
        run_script(path, arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
