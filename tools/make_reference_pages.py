"""Write the pages that come from the code: all config keys, and all changes made to fastreid.

python tools/make_reference_pages.py [--keys configs/KEYS.md]
    [--patches metabin_plugin/compat/PATCHES.md]

Keys come from the tables KEYS in metabin_plugin/config/keys.py and in the config.py of each
project; changes from what is declared with @patch.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import metabin_plugin
from metabin_plugin.cli.arguments import answer_help
from metabin_plugin.cli.outcome import run_cli

ROOT = Path(__file__).resolve().parents[1]
KEY_PAGE = ROOT / "configs" / "KEYS.md"
PATCH_PAGE = ROOT / "metabin_plugin" / "compat" / "PATCHES.md"


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--keys", type=Path, default=KEY_PAGE, help="the page of config keys")
    parser.add_argument("--patches", type=Path, default=PATCH_PAGE, help="the page of changes")


if __name__ == "__main__":
    # Before PyTorch is loaded, which takes seconds.
    answer_help(describe, __doc__.splitlines()[0])

metabin_plugin.register()

from fastreid.config import CfgNode

from metabin_plugin.compat.patching import Patch
from metabin_plugin.config.keys import KEYS
from metabin_plugin.config.table import Key
from metabin_plugin.engine import read_config
from metabin_plugin.errors import MetaBINError
from metabin_plugin.files import write_whole
from metabin_plugin.registration import all_patches

ABOUT_KEYS = """# Config keys

Written by `python tools/make_reference_pages.py` from the tables in
[`metabin_plugin/config/keys.py`](../metabin_plugin/config/keys.py) and in the projects'
`config.py`; change them there. Symbols are those of the method; section, equation and table
numbers are the paper's. Every key can be set in a YAML file, or as `KEY VALUE` behind a command.
fastreid's own keys (`MODEL`, `DATASETS`, `SOLVER` ...) are in its [`config/defaults.py`](https://github.com/JDAI-CV/fast-reid/blob/master/fastreid/config/defaults.py).
"""

ABOUT_PATCHES = """# What the plugin changes in fastreid 1.4.0

`metabin_plugin.register()` makes these changes in the memory of its process, each once, and touches
no file of fastreid. Where several change the same thing, the later one calls the earlier. What a
module of fastreid defines is replaced in all its modules and registries that hold it.

Each says what is wrong in fastreid (*fault*), what the plugin does about it (*now*), and when it
does nothing (*unless*; without that line it always acts). The page is written by
`python tools/make_reference_pages.py` from what is declared with `@patch` in the code; change it
there. See [`patching.py`](patching.py).
"""
# Where a docstring goes on with arguments and the like.
_SECTION = re.compile(r"^\w+:$", re.MULTILINE)


class PageError(MetaBINError):
    """A page cannot be written."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the pages and write them.

    Raises:
        PageError: one cannot be written.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    describe(parser)
    options = parser.parse_args(arguments)
    keys, patches = key_page().encode(), patch_page().encode()
    write_whole(options.keys, lambda file: file.write(keys), PageError)
    write_whole(options.patches, lambda file: file.write(patches), PageError)


def key_page() -> str:
    """The page of config keys, with a section for each of their nodes."""
    recipe = dict(flat(read_config(str(ROOT / "configs" / "MetaBIN.yml"), [])))
    parts = [ABOUT_KEYS]
    for node, keys in by_node(KEYS).items():
        about = "Beside fastreid's own." if node != "METABIN" else ""
        parts.append(section(node, about, keys, recipe))
    for project, table in project_tables().items():
        for node, keys in by_node(table).items():
            about = f"Of [`projects/{project}`](../projects/{project}/README.md)."
            parts.append(section(node, about, keys, {}))
    return "\n".join(parts)


def project_tables() -> dict[str, Sequence[Key]]:
    """The tables of the projects that have keys of their own, by the project's name."""
    tables = {}
    for path in sorted((ROOT / "projects").glob("*/*/config.py")):
        project, package = path.parents[1], path.parent.name
        if str(project) not in sys.path:
            sys.path.append(str(project))
        tables[project.name] = importlib.import_module(f"{package}.config").KEYS
    return tables


def by_node(keys: Sequence[Key]) -> dict[str, list[Key]]:
    """Keys by the first part of their names."""
    nodes: dict[str, list[Key]] = {}
    for key in keys:
        nodes.setdefault(key.name.partition(".")[0], []).append(key)
    return nodes


def flat(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a config by dotted name."""
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def section(title: str, about: str, keys: Sequence[Key], recipe: Mapping[str, Any]) -> str:
    """A heading, a sentence and a table of keys.

    Args:
        title: the heading.
        about: Markdown below it; may be empty.
        keys: the rows.
        recipe: what MetaBIN.yml sets, by dotted name; it is shown where it differs from the
            default. Columns without any entry are left out.

    Returns:
        Markdown that ends with a newline.
    """
    rows = [
        {
            "key": f"`{key.name}`",
            "default": f"`{shown(key.default)}`",
            "`MetaBIN.yml`": ""
            if recipe.get(key.name, key.default) == key.default
            else f"`{shown(recipe[key.name])}`",
            "allowed": escaped(key.allowed),
            "symbol": escaped(key.symbol),
            "meaning": escaped(key.comment),
        }
        for key in keys
    ]
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    cells = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    return "\n\n".join(filter(None, [f"## {title}", about, table])) + "\n"


def shown(value: Any) -> str:
    """A value as one writes it in Python, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        inner = ", ".join(map(shown, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def escaped(text: str) -> str:
    """A text as a cell of a Markdown table."""
    for sign in ("|", "*", "<"):
        text = text.replace(sign, f"\\{sign}")
    return text


def patch_page() -> str:
    """The page of changes, with a section for each package of fastreid."""
    parts = [ABOUT_PATCHES]
    for package, patches in groupby(sorted(all_patches(), key=_package), key=_package):
        parts += [f"## {package}\n", *map(_patch_entry, patches)]
    return "\n".join(parts)


def _package(patch: Patch) -> str:
    return ".".join(patch.targets[0].split(":")[0].split(".")[:2])


def _patch_entry(patch: Patch) -> str:
    change = patch.change
    folders = change.__module__.split(".")[1:]
    path = "/".join(folders[1:] if folders[0] == "compat" else ["..", *folders])
    now = _SECTION.split(inspect.getdoc(change) or "")[0]
    lines = (
        f"{', '.join(f'`{target}`' for target in patch.targets)}\n",
        f"- *Fault:* {patch.fault}",
        f"- *Now:* {' '.join(now.split())} [`{change.__name__}`]({path}.py)",
        *([f"- *Unless:* {patch.unless}"] if patch.unless else []),
    )
    return "\n".join(lines).replace("``", "`") + "\n"


if __name__ == "__main__":
    with run_cli():
        main()
