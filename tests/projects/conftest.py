"""Projects' config nodes, which other tests do without (see the conftest above)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastreid.config.defaults import _C

from augmining import add_augmining_config
from dimn import add_dimn_config


@pytest.fixture(autouse=True, scope="module")
def config_nodes() -> Iterator[None]:
    """fastreid's defaults with the nodes of all projects, as after their import."""
    add_augmining_config(_C)
    add_dimn_config(_C)
    yield
    for node in ("AUGMINING", "DIMN"):
        _C.pop(node, None)
