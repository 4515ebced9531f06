"""Figures and tables of trained networks and of their runs."""
