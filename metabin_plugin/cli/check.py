"""``metabin check``: the report on data, and the manifests without what cannot be read."""

from __future__ import annotations

from argparse import Namespace

from metabin_plugin.data.check import Report, check_configured, check_named, drop_images
from metabin_plugin.data.manifest import is_manifest
from metabin_plugin.engine import check_data_keys, read_config
from metabin_plugin.errors import ConfigError
from metabin_plugin.text import shown, visible


def run(options: Namespace) -> int:
    """Print the report.

    Returns:
        The exit status: 1 if there is a problem.
    """
    names, report = check(options)
    if options.drop_unreadable:
        dropped = drop_images(names, set(report.unreadable))
        for name, count in dropped.items():
            print(f"{shown(name)}: {count} lines of images that cannot be read were taken out")
        if dropped:
            _, report = check(options)
    print(visible(text(report)))
    unreadable = any(is_manifest(name) for name in names) and report.unreadable
    if unreadable and not options.drop_unreadable:
        print("--drop-unreadable takes images that cannot be read out of the manifests")
    return 1 if report.problems else 0


def check(options: Namespace) -> tuple[list[str], Report]:
    """Names of the datasets and manifests, and the report on them."""
    if options.datasets:
        if options.opts:
            raise ConfigError(
                f"KEY VALUE pairs {shown(' '.join(options.opts))} change a config, and --datasets "
                "are checked without one; leave them out, or give --config-file"
            )
        return options.datasets, check_named(options.datasets, options.workers)
    cfg = read_config(options.config_file, options.opts)
    check_data_keys(cfg)
    names = [*cfg.DATASETS.NAMES, *cfg.DATASETS.TESTS]
    return names, check_configured(cfg, options.workers)


def text(report: Report) -> str:
    """The table, then each problem and warning in a line of its own."""
    lines = [report.table, ""]
    if report.published:
        lines += [report.published, ""]
    lines += [f"problem: {problem}" for problem in report.problems]
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines.append(f"{len(report.problems)} problem(s), {len(report.warnings)} warning(s)")
    return "\n".join(lines)
