"""Domain-Invariant Mapping Network (Song et al., CVPR 2019) on the plugin's loaders and evaluator.

Importing it adds the DIMN node to fastreid's defaults and the architecture to its registry; the
plugin must be registered first.
"""

from __future__ import annotations

from fastreid.config.defaults import _C

from dimn.config import add_dimn_config, check_dimn
from dimn.network import DIMN, DIMNTrainer

add_dimn_config(_C)

__all__ = ["DIMN", "DIMNTrainer", "add_dimn_config", "check_dimn"]
