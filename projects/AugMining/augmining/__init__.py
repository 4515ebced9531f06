"""AugMining (Tamura and Murakami, 2019) on fastreid, beside the MetaBIN plugin.

Importing it registers the plugin, ``MODEL.META_ARCHITECTURE AugMining`` and the AUGMINING node.
"""

import metabin_plugin

metabin_plugin.register()

from fastreid.config.defaults import _C

from augmining.config import add_augmining_config
from augmining.meta_arch import AugMining

add_augmining_config(_C)

__all__ = ["AugMining", "add_augmining_config"]
