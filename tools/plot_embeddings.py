"""Map features of unseen targets by t-SNE (Fig. 3): ``metabin plot embeddings``."""

from __future__ import annotations

from metabin_plugin.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main("plot", "embeddings"))
