"""Batch-instance normalization: functional form, layer, conversion of networks, gates."""

from __future__ import annotations

from metabin_plugin.norm.batch_instance_norm import BatchInstanceNorm2d
from metabin_plugin.norm.convert import convert_norm, set_norm_form, synchronize_norms
from metabin_plugin.norm.folding import Folding, fold_norms
from metabin_plugin.norm.forms import NORM_FORMS
from metabin_plugin.norm.functional import batch_instance_norm
from metabin_plugin.norm.gates import clip_gates_, count_gates, gate_parameters
from metabin_plugin.norm.synchronized_batch_norm import SynchronizedBatchNorm2d

__all__ = [
    "NORM_FORMS",
    "BatchInstanceNorm2d",
    "Folding",
    "SynchronizedBatchNorm2d",
    "batch_instance_norm",
    "clip_gates_",
    "convert_norm",
    "count_gates",
    "fold_norms",
    "gate_parameters",
    "set_norm_form",
    "synchronize_norms",
]
