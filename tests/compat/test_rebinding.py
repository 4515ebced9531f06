from __future__ import annotations

import sys
from types import ModuleType

import pytest

from metabin_plugin.compat.patching import rebind, repair


def one() -> int:
    return 1


@pytest.fixture
def modules(monkeypatch):
    """A module that defines a function, one that imported it by name, and a stranger's."""
    found = []
    for name in ("fastreid.made_up", "fastreid.made_up.user", "fastreidish"):
        module = ModuleType(name)
        module.one = one
        monkeypatch.setitem(sys.modules, name, module)
        found.append(module)
    return found


def plus_ten(original):
    return lambda: original() + 10


def doubled(original):
    return lambda: original() * 2


def test_rebind_reaches_every_fastreid_module_that_imported_the_name(modules):
    definition, user, stranger = modules
    rebind(one, min)
    assert definition.one is min
    assert user.one is min
    assert stranger.one is one


def test_repair_is_done_once(modules):
    definition, user, _ = modules
    for _ in range(2):
        repair(definition, "one", plus_ten)
    assert definition.one() == user.one() == 11
    assert definition.one.__name__ == "one"


def test_several_repairs_wrap_each_other_once(modules):
    definition, user, _ = modules
    for _ in range(2):
        repair(definition, "one", plus_ten)
        repair(definition, "one", doubled)
    assert user.one() == 22


def test_repair_of_a_method_reaches_instances():
    class Box:
        def one(self) -> int:
            return 1

    box = Box()
    for _ in range(2):
        repair(Box, "one", _plus_hundred)
    assert box.one() == 101


def _plus_hundred(original):
    return lambda self: original(self) + 100
