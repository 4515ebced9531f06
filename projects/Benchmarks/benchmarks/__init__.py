"""What tools/benchmark.py measures, and how: a module for each benchmark."""
