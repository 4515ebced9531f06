"""Print the page of all changes that the plugin makes to fastreid.

python tools/make_patch_page.py > metabin_plugin/compat/PATCHES.md
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Sequence
from itertools import groupby

import metabin_plugin
from metabin_plugin.cli.arguments import answer_help
from metabin_plugin.cli.outcome import run_cli

if __name__ == "__main__":
    # Before PyTorch is loaded, which takes seconds.
    answer_help(lambda parser: None, __doc__.splitlines()[0])

metabin_plugin.register()

from metabin_plugin.compat.patching import Patch
from metabin_plugin.registration import all_patches

ABOUT = """# What the plugin changes in fastreid 1.4.0

`metabin_plugin.register()` makes these changes in the memory of its process, each once, and touches
no file of fastreid. Where several change the same thing, the later one calls the earlier. What a
module of fastreid defines is replaced in all its modules and registries that hold it.

Each says what is wrong in fastreid (*fault*), what the plugin does about it (*now*), and when it
does nothing (*unless*; without that line it always acts). The page is written by
`python tools/make_patch_page.py` from what is declared with `@patch` in the code; change it there.
See [`patching.py`](patching.py).
"""
# Where a docstring goes on with arguments and the like.
_SECTION = re.compile(r"^\w+:$", re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the page."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
    print(page(), end="")


def page() -> str:
    """The whole page, with a section for each package of fastreid."""
    parts = [ABOUT]
    for package, patches in groupby(sorted(all_patches(), key=_package), key=_package):
        parts += [f"## {package}\n", *map(_entry, patches)]
    return "\n".join(parts)


def _package(patch: Patch) -> str:
    return ".".join(patch.targets[0].split(":")[0].split(".")[:2])


def _entry(patch: Patch) -> str:
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
