"""Export a trained network as an ONNX file: ``metabin export``."""

from __future__ import annotations

from metabin_plugin.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main("export"))
