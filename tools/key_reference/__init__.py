"""Reads config keys from source code and writes them as a page."""
