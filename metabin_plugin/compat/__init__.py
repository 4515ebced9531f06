"""What is broken in fastreid 1.4.0 on current Python, PyTorch and NumPy, and on CPU.

Each module declares patches, and so does a module elsewhere whose subject fastreid has in another
way: ``metabin_plugin.registration`` has the list of them and applies their patches, and
``PATCHES.md`` lists these. None of the modules here imports fastreid before a patch is applied:
fastreid cannot be imported without them.
"""
