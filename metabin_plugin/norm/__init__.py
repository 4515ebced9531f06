"""Batch-instance normalization: functional form, layer, conversion of networks, gates."""

from __future__ import annotations

from metabin_plugin.norm.batch_instance_norm import BatchInstanceNorm2d
from metabin_plugin.norm.convert import convert_norm, synchronize_norms
from metabin_plugin.norm.functional import batch_instance_norm
from metabin_plugin.norm.gates import clip_gates_, count_gates, gate_parameters
from metabin_plugin.norm.synchronized_batch_norm import SynchronizedBatchNorm2d

__all__ = [
    "BatchInstanceNorm2d",
    "SynchronizedBatchNorm2d",
    "batch_instance_norm",
    "clip_gates_",
    "convert_norm",
    "count_gates",
    "gate_parameters",
    "synchronize_norms",
]
