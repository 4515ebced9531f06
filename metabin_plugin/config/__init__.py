"""Config: the plugin's keys, reading files, checking values, changes at resume."""

from metabin_plugin.config.keys import add_metabin_config

__all__ = ["add_metabin_config"]
