"""Write configs/KEYS.md: every config key of the plugin and of its projects, from their sources.

python tools/make_key_reference.py [--output configs/KEYS.md]

Names, defaults and comments are read from metabin_plugin/config/keys.py and from the
config.py of each project.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import metabin_plugin

metabin_plugin.register()

from fastreid.config import CfgNode

from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.config.key_page import Entry, KeyReferenceError, read_entries, section
from metabin_plugin.engine import read_config
from metabin_plugin.files import reason, replace_file

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "configs" / "KEYS.md"
PLUGIN = ROOT / "metabin_plugin" / "config" / "keys.py"
ABOUT = """# Config keys

Written by `python tools/make_key_reference.py` from the comments in
[`metabin_plugin/config/keys.py`](../metabin_plugin/config/keys.py) and in the projects'
`config.py`; change them there. Section, equation and table numbers are the paper's. Every key can
be set in a YAML file, or as `KEY VALUE` behind a command. fastreid's own keys (`MODEL`, `DATASETS`,
`SOLVER` ...) are in its [`config/defaults.py`](https://github.com/JDAI-CV/fast-reid/blob/master/fastreid/config/defaults.py).
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the sources and write the page.

    Raises:
        KeyReferenceError: a key has no comment, or the page cannot be written.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=PAGE, help="the page (configs/KEYS.md)")
    output = parser.parse_args(arguments).output
    content = page().encode()
    try:
        replace_file(output, lambda file: file.write(content))
    except OSError as error:
        raise KeyReferenceError(
            f"--output {output} cannot be written ({reason(error)}); give a file in a folder that "
            "is there"
        ) from error


def page() -> str:
    """The whole page."""
    recipe = dict(flat(read_config(str(ROOT / "configs" / "MetaBIN.yml"), [])))
    parts = [ABOUT]
    for node, entries in by_node(entries_of(PLUGIN)).items():
        about = "Beside fastreid's own." if node != "METABIN" else ""
        parts.append(section(node, about, entries, recipe))
    for path in sorted((ROOT / "projects").glob("*/*/config.py")):
        project = path.parents[1].name
        for node, entries in by_node(entries_of(path)).items():
            about = f"Of [`projects/{project}`](../projects/{project}/README.md)."
            parts.append(section(node, about, entries, {}))
    return "\n".join(parts)


def entries_of(path: Path) -> list[Entry]:
    """Keys of a source file of the repository."""
    return read_entries(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))


def by_node(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries by the first part of their names."""
    nodes: dict[str, list[Entry]] = {}
    for entry in entries:
        nodes.setdefault(next(iter(entry.defaults)).partition(".")[0], []).append(entry)
    return nodes


def flat(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a config by dotted name."""
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


if __name__ == "__main__":
    with run_cli():
        main()
