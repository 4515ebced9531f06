"""Search a gallery by images: ``metabin index`` and ``metabin query``."""

from __future__ import annotations

from metabin_plugin.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
