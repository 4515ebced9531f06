"""MetaBIN (Choi et al., CVPR 2021) as a plugin for the person Re-ID toolbox fastreid."""

from metabin_plugin.config import add_metabin_config
from metabin_plugin.registration import register

__version__ = "0.1.0"

__all__ = ["__version__", "add_metabin_config", "register"]
