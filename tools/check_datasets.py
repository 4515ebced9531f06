"""Check data before a long run: read every image, count, and list what would stop or spoil it."""

from __future__ import annotations

import metabin_plugin

metabin_plugin.let_waiting_threads_sleep()
metabin_plugin.register()

from metabin_plugin.cli.check import main
from metabin_plugin.cli.outcome import run_cli

if __name__ == "__main__":
    with run_cli():
        raise SystemExit(main())
