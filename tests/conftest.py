"""Registers the plugin, without which fastreid cannot be imported, and settles hypothesis."""

from hypothesis import settings

import metabin_plugin

# A busy machine is no reason to fail, and a test must not depend on the run's luck.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

metabin_plugin.register()
