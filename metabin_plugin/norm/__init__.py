"""Batch-instance normalization and the norms beside it; conversion of networks, gates."""

from __future__ import annotations

from metabin_plugin.norm.batch_instance_norm import (
    NORM_FORMS,
    BatchInstanceNorm2d,
    HalfInstanceNorm2d,
    InstanceNorm2d,
    MixedNorm2d,
    SynchronizedBatchNorm2d,
    batch_instance_norm,
)
from metabin_plugin.norm.network import (
    NORMS,
    clip_gates_,
    convert_norm,
    count_gates,
    gate_parameters,
    network_parts,
    set_norm_form,
    synchronize_norms,
)

__all__ = [
    "NORMS",
    "NORM_FORMS",
    "BatchInstanceNorm2d",
    "HalfInstanceNorm2d",
    "InstanceNorm2d",
    "MixedNorm2d",
    "SynchronizedBatchNorm2d",
    "batch_instance_norm",
    "clip_gates_",
    "convert_norm",
    "count_gates",
    "gate_parameters",
    "network_parts",
    "set_norm_form",
    "synchronize_norms",
]
