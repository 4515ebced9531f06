"""Runs the arms of the comparison on real crops and writes its table."""
