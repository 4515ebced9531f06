"""Draw the ranked galleries of a data set's queries, right matches framed green, wrong ones red."""

from __future__ import annotations

import metabin_plugin

metabin_plugin.let_waiting_threads_sleep()
metabin_plugin.register()

from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.cli.ranked import main

if __name__ == "__main__":
    with run_cli():
        main()
