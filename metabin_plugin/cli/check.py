"""Check data before a long run: read every image, count, and list what would stop or spoil it.

python tools/check_datasets.py --config-file configs/MetaBIN.yml [--workers N] [KEY VALUE ...]
python tools/check_datasets.py [--workers N] --datasets NAME_OR_MANIFEST ...

With a config its training data (DATASETS.NAMES), its targets (DATASETS.TESTS) and its batches are
checked; with --datasets all images of the named ones. A picture that is on both sides of a test,
in another file or format too, is a problem, and so are people of a manifest who are trained on and
tested with. Counts of the benchmark's datasets are shown beside the published ones, and a
difference is a warning. The exit status is 1 if there is a problem; warnings leave it 0.
--drop-unreadable rewrites manifests without the images that cannot be read, and checks what is
left.
"""

from __future__ import annotations

import argparse
import os

from metabin_plugin.data.check import Report, check_configured, check_named, drop_images
from metabin_plugin.data.manifest import is_manifest
from metabin_plugin.engine import check_data_keys, read_config
from metabin_plugin.text import shown, visible


def main() -> int:
    """Print the report; the exit status."""
    arguments = parse()
    names, report = check(arguments)
    if arguments.drop_unreadable:
        dropped = drop_images(names, set(report.unreadable))
        for name, count in dropped.items():
            print(f"{shown(name)}: {count} lines of images that cannot be read were taken out")
        if dropped:
            _, report = check(arguments)
    print(visible(text(report)))
    unreadable = any(is_manifest(name) for name in names) and report.unreadable
    if unreadable and not arguments.drop_unreadable:
        print("--drop-unreadable takes images that cannot be read out of the manifests")
    return 1 if report.problems else 0


def check(arguments: argparse.Namespace) -> tuple[list[str], Report]:
    """Names of the datasets and manifests, and the report on them."""
    if arguments.datasets:
        return arguments.datasets, check_named(arguments.datasets, arguments.workers)
    cfg = read_config(arguments.config_file, arguments.opts)
    check_data_keys(cfg)
    names = [*cfg.DATASETS.NAMES, *cfg.DATASETS.TESTS]
    return names, check_configured(cfg, arguments.workers)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", help="check the data of this config")
    what.add_argument(
        "--datasets", nargs="+", metavar="NAME", help="check these datasets and manifests"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that read images (all cores); 0 reads in this one",
    )
    parser.add_argument(
        "--drop-unreadable",
        action="store_true",
        help="rewrite manifests without the images that cannot be read",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, with a config")
    arguments = parser.parse_args()
    if arguments.workers < 0:
        parser.error("--workers must be at least 0")
    return arguments


def text(report: Report) -> str:
    """The table, then each problem and warning in a line of its own."""
    lines = [report.table, ""]
    if report.published:
        lines += [report.published, ""]
    lines += [f"problem: {problem}" for problem in report.problems]
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines.append(f"{len(report.problems)} problem(s), {len(report.warnings)} warning(s)")
    return "\n".join(lines)
