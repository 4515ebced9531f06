"""Draw the curves of one or more trainings: losses, step sizes, accuracies on the targets."""

from __future__ import annotations

import metabin_plugin

metabin_plugin.let_waiting_threads_sleep()
metabin_plugin.register()

from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.cli.plot_training import main

if __name__ == "__main__":
    with run_cli():
        main()
