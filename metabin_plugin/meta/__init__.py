"""Meta-learning of the gates (paper, Section 3.3) and MLDG, independent of any toolbox."""

from metabin_plugin.meta.held_call import held_call
from metabin_plugin.meta.mldg import MLDGStep, mldg_step
from metabin_plugin.meta.schedule import triangular
from metabin_plugin.meta.split import split_domains
from metabin_plugin.meta.step import MetaStep, inner_update, meta_step

__all__ = [
    "MLDGStep",
    "MetaStep",
    "held_call",
    "inner_update",
    "meta_step",
    "mldg_step",
    "split_domains",
    "triangular",
]
