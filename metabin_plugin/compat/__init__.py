"""What is broken in fastreid 1.4.0 on current Python, PyTorch and NumPy, and on CPU.

A defect of fastreid is repaired here and nowhere else. A module elsewhere declares a patch only
where a part of the plugin takes the place of one of fastreid's: a trainer, a loader, a registry.
``metabin_plugin.registration`` has the list of both and applies their patches, and ``PATCHES.md``
lists these.

None of the modules here imports fastreid before a patch is applied, as fastreid cannot be imported
without them, nor a room of the plugin, as the rooms import what they need from here.
"""
