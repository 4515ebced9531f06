"""Checking data before a long run: everything that would stop or spoil it, in one report."""

from metabin_plugin.data.check.images import drop_images
from metabin_plugin.data.check.report import Report, check_configured, check_named

__all__ = ["Report", "check_configured", "check_named", "drop_images"]
