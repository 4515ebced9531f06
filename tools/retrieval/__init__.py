"""The parts of tools/search.py and tools/visualize.py: features, indexes, contact sheets."""
