"""Packages: the plugin's own, and what a wheel takes from elsewhere in the repository.

The recipes and the demo's renderer keep their places here, and are copied into
``metabin_plugin/shipped`` of the wheel (see ``metabin_plugin/repository.py``).
"""

from __future__ import annotations

from setuptools import find_packages, setup

SHIPPED = {
    "metabin_plugin.shipped.configs": "configs",
    "metabin_plugin.shipped.projects.Demo.demo_data": "projects/Demo/demo_data",
}

setup(
    packages=[*find_packages(include=["metabin_plugin", "metabin_plugin.*"]), *SHIPPED],
    package_dir=SHIPPED,
)
