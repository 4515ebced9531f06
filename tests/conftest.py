"""Registers the plugin, without which fastreid cannot be imported."""

import metabin_plugin

metabin_plugin.register()
