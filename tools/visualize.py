"""Draw ranked galleries: ``metabin ranked``."""

from __future__ import annotations

from metabin_plugin.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main("ranked"))
