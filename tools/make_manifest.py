"""Make a manifest, and a config that trains on it, of photographs in folders."""

from __future__ import annotations

import metabin_plugin

metabin_plugin.let_waiting_threads_sleep()
metabin_plugin.register()

from metabin_plugin.cli.manifest import main
from metabin_plugin.cli.outcome import run_cli

if __name__ == "__main__":
    with run_cli():
        main()
