"""Draw which way the losses move the gates (Fig. 5): ``metabin plot gate-gradients``."""

from __future__ import annotations

from metabin_plugin.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main("plot", "gate-gradients"))
