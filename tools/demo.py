"""Train a BN baseline and MetaBIN on drawn people, and compare them: ``metabin demo``."""

from __future__ import annotations

from metabin_plugin.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main("demo"))
