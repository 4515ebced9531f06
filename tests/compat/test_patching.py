from __future__ import annotations

import inspect
import sys
from contextlib import contextmanager
from types import ModuleType

import pytest
from fastreid.utils.registry import Registry

from metabin_plugin.compat import patching
from metabin_plugin.compat.patching import apply, patch, patches_of

PLACE = "fastreid.made_up"


def one(first=1):
    return first


one.__module__ = PLACE


class Box:
    def one(self):
        return 1

    @classmethod
    def name(cls):
        return cls.__name__

    @staticmethod
    def double(number):
        return 2 * number


@pytest.fixture
def modules(monkeypatch):
    """A module that defines a few things, one that imported some by name, and a stranger's."""
    found = []
    for name in (PLACE, f"{PLACE}.user", "fastreidish"):
        module = ModuleType(name)
        module.one = one
        module.limits = {"low": 1}
        monkeypatch.setitem(sys.modules, name, module)
        found.append(module)
    found[0].Box = type("Box", (), dict(vars(Box)))
    return found


def declared(target, change, unless=None):
    patch(target, fault="It is wrong.", unless=unless)(change)
    return vars(change)["_metabin_plugin_patch"]


def plus_ten(original, *args, **kwargs):
    return original(*args, **kwargs) + 10


def doubled(original, *args, **kwargs):
    return original(*args, **kwargs) * 2


def twelve():
    return 12


@pytest.mark.parametrize("times", [1, 2])
def test_a_patch_is_made_once_and_wherever_fastreid_holds_the_function(modules, times):
    definition, user, stranger = modules
    for _ in range(times):
        apply([declared(f"{PLACE}:one", plus_ten)])
    assert definition.one(first=5) == user.one(first=5) == 15
    assert stranger.one is one
    assert definition.one.__name__ == "one"
    assert inspect.signature(definition.one) == inspect.signature(one)


def test_later_patches_get_what_earlier_ones_made(modules):
    definition, user, _ = modules
    patches = [declared(f"{PLACE}:one", change) for change in (plus_ten, doubled)]
    for _ in range(2):
        apply(patches)
    assert definition.one() == user.one() == 22


def test_a_function_that_does_not_ask_for_the_original_takes_its_place(modules):
    apply([declared(f"{PLACE}:one", twelve)])
    assert modules[0].one is modules[1].one is twelve


def test_a_registry_gives_the_patched_function(modules):
    modules[1].registry = Registry("MADE_UP")
    modules[1].registry.register(one)
    apply([declared(f"{PLACE}:one", plus_ten)])
    assert modules[1].registry.get("one")() == 11


@pytest.mark.parametrize("times", [1, 2])
def test_a_method_is_changed_in_the_instances_that_are_there(modules, times):
    box = modules[0].Box()
    for _ in range(times):
        apply([declared(f"{PLACE}:Box.one", plus_ten)])
    assert box.one() == 11


def test_class_and_static_methods_stay_what_they_are(modules):
    def lower(original, cls):
        return original(cls).lower()

    apply([declared(f"{PLACE}:Box.name", lower), declared(f"{PLACE}:Box.double", plus_ten)])
    assert modules[0].Box.name() == modules[0].Box().name() == "box"
    assert modules[0].Box.double(4) == modules[0].Box().double(4) == 18


def test_a_class_takes_the_place_of_a_class(modules):
    class Crate(Box):
        pass

    apply([declared(f"{PLACE}:Box", Crate)])
    assert modules[0].Box is Crate


@pytest.mark.parametrize("times", [1, 2])
def test_a_value_is_replaced_in_the_named_module_alone(modules, times):
    definition, user, _ = modules
    user.limits = definition.limits

    def wider(original):
        return {**original, "high": len(original)}

    for _ in range(times):
        apply([declared(f"{PLACE}:limits", wider)])
    assert definition.limits == {"low": 1, "high": 1}
    assert user.limits == {"low": 1}


def test_what_fastreid_imports_from_elsewhere_is_replaced_in_the_named_module_alone(modules):
    def of_elsewhere():
        return 1

    definition, user, _ = modules
    definition.act = user.act = of_elsewhere
    apply([declared(f"{PLACE}:act", plus_ten)])
    assert definition.act() == 11
    assert user.act is of_elsewhere


def test_modules_are_imported_in_the_blocks_that_ask_for_it_and_only_then(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_names.py").write_text("import sys\nfound = sys.first + sys.second\n")
    opened = []

    @contextmanager
    def first():
        monkeypatch.setattr(sys, "first", 1, raising=False)
        opened.append("first")
        yield
        monkeypatch.delattr(sys, "first")

    @contextmanager
    def second():
        monkeypatch.setattr(sys, "second", 2, raising=False)
        opened.append("second")
        yield
        monkeypatch.delattr(sys, "second")

    patches = [declared("needs_names", first), declared("needs_names", second)]
    for _ in range(2):
        apply(patches)
    assert sys.modules.pop("needs_names").found == 3
    assert opened == ["first", "second"]
    assert not hasattr(sys, "first")


def test_declaring_changes_nothing_and_keeps_the_order_of_the_text(modules):
    module = ModuleType("declares")
    for name in ("zebra", "ant"):

        def change(original):
            return original() + 1

        change.__module__, change.__qualname__ = "declares", name
        setattr(module, name, patch(f"{PLACE}:one", fault=name, unless=None)(change))
    module.imported = patch(f"{PLACE}:one", fault="of another module", unless=None)(twelve)
    assert [found.fault for found in patches_of(module)] == ["zebra", "ant"]
    assert modules[0].one is one
    apply(patches_of(module))
    assert modules[0].one() == 3


def test_a_target_that_is_not_there_is_an_error(modules):
    with pytest.raises(AttributeError, match="two"):
        apply([declared(f"{PLACE}:two", plus_ten)])


def test_the_guard_outlives_the_module_of_the_patches(modules):
    apply([declared(f"{PLACE}:one", plus_ten)])
    source = inspect.getsource(patching)
    anew: dict[str, object] = {"__name__": "metabin_plugin.compat.patching"}
    exec(compile(source, "patching.py", "exec"), anew)
    anew["apply"]([declared(f"{PLACE}:one", plus_ten)])
    assert modules[0].one() == 11
