"""The demo: train a BN baseline and MetaBIN on the drawn data, compare them on unseen targets."""

from __future__ import annotations

import metabin_plugin

metabin_plugin.let_waiting_threads_sleep()
metabin_plugin.register()

from metabin_plugin.cli.demo import main, resuming_command
from metabin_plugin.cli.outcome import run_cli

if __name__ == "__main__":
    with run_cli(f"go on with: {resuming_command()}"):
        main()
