"""What is broken in fastreid 1.4.0 on current Python, PyTorch and NumPy, and on CPU.

Each module declares patches; ``metabin_plugin.registration`` applies them, and ``PATCHES.md`` lists
them. None of these modules imports fastreid before a patch is applied: fastreid cannot be imported
without them.
"""
