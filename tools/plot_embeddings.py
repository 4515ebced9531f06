"""Map query and gallery features of unseen targets by t-SNE, networks side by side (Fig. 3)."""

from __future__ import annotations

import metabin_plugin

metabin_plugin.let_waiting_threads_sleep()
metabin_plugin.register()

from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.cli.plot_embeddings import main

if __name__ == "__main__":
    with run_cli():
        main()
