"""Make a manifest of photographs in folders: ``metabin manifest``."""

from __future__ import annotations

from metabin_plugin.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main("manifest"))
