"""Registers the plugin, without which fastreid cannot be imported, and settles hypothesis."""

import torch
from hypothesis import settings

import metabin_plugin

# A busy machine is no reason to fail, and a test must not depend on the run's luck.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# Networks this small are slower on several threads, and far slower on a busy machine.
torch.set_num_threads(1)

metabin_plugin.register()
