"""Runs another project's script as ``__main__``, in this process and in those that it spawns.

A spawned process imports the parent's main module anew, before anything of the plugin: that is this
module (under the name ``__mp_main__``), which registers the plugin and then becomes the script.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import metabin_plugin

SCRIPT_VARIABLE = "METABIN_PLUGIN_SCRIPT"


def run_script(path: str, arguments: list[str]) -> None:
    """Run a script as ``python PATH ARGUMENTS...`` would, with the plugin registered.

    Args:
        path: The script.
        arguments: Its command line.

    Raises:
        OSError: The script can't be read.
    """
    source = Path(path).read_bytes()
    sys.argv = [path, *arguments]
    _set_import_path(path)
    # Spawned processes look at __spec__ to find what to import; a script proper has none.
    main = ModuleType("__main__")
    main.__spec__ = importlib.util.find_spec(f"{metabin_plugin.__name__}.cli.script")
    sys.modules["__main__"] = main
    os.environ[SCRIPT_VARIABLE] = os.path.abspath(path)
    metabin_plugin.register()
    _execute(source, path, vars(main))


def _set_import_path(path: str) -> None:
    sys.path[0] = str(Path(path).resolve().parent)
    home = str(Path(metabin_plugin.__file__).resolve().parents[1])
    if home not in sys.path:
        # The folder just replaced was the only way to the plugin, and spawned processes need it.
        sys.path.append(home)


def _execute(source: bytes, path: str, namespace: dict[str, Any]) -> None:
    namespace["__file__"] = path
    exec(compile(source, path, "exec"), namespace)


if __name__ == "__mp_main__":
    metabin_plugin.register()
    _path = os.environ[SCRIPT_VARIABLE]
    sys.argv[0] = _path
    _execute(Path(_path).read_bytes(), _path, globals())
