"""Trained networks as files for other programs. Needs fastreid, so ``register()`` first."""

from __future__ import annotations

# Versions of ONNX's operators; 17 is what TensorRT 8 reads. Here, because a command line reads them
# before anything else is imported.
OPSETS = (17, 18, 19, 20)
