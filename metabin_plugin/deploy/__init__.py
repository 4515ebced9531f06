"""Trained networks as files for other programs. Needs fastreid, so ``register()`` first."""

from __future__ import annotations
