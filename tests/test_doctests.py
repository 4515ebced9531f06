"""The examples in the docstrings of the pure rooms."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ("losses", "meta", "norm.network", "ranking", "style")


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"metabin_plugin.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
