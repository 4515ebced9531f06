"""Draw the gates of trained networks (Fig. 4): ``metabin plot gates``."""

from __future__ import annotations

from metabin_plugin.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main("plot", "gates"))
