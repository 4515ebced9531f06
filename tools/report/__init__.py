"""Reading the results, logs and checkpoints of runs, and drawing tables and figures of them."""
