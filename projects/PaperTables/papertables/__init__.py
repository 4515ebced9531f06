"""Runs the rows of the paper's tables and writes the tables."""
