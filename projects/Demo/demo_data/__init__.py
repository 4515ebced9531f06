"""Draws a small synthetic pedestrian benchmark in the on-disk layouts of nine real datasets."""

from __future__ import annotations

VERSION = 1
