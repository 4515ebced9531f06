"""Draw the demo benchmark: ``python tools/make_demo_data.py --output datasets/demo --seed 0``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.environment import available_cpus
from metabin_plugin.files import reason
from metabin_plugin.repository import RENDERER


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Draw a small synthetic pedestrian benchmark in the layouts of nine datasets."
    )
    parser.add_argument("--output", type=Path, required=True, help="datasets root to fill")
    parser.add_argument("--seed", type=_natural, default=0, help="seed of all pictures")
    parser.add_argument("--scale", type=_positive, default=1.0, help="factor on the identities")
    parser.add_argument("--workers", type=int, default=available_cpus(), help="drawing processes")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(RENDERER))
    from demo_data.generate import FolderError, generate

    try:
        generate(options.output, options.seed, options.scale, max(1, options.workers), _report)
    except FolderError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(
            f"{options.output} cannot be filled ({reason(error)}); choose another --output, with "
            "space to write"
        )
    return 0


def _refuse(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 1


def _report(line: str) -> None:
    print(line, flush=True)


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 2:
        raise argparse.ArgumentTypeError("must be above 0 and at most 2")
    return value


if __name__ == "__main__":
    with run_cli("the same command draws all of it again"):
        sys.exit(main())
