from __future__ import annotations

import collections
import collections.abc
import sys
import warnings

import pytest

import metabin_plugin
from metabin_plugin.compat.imports import collections_mapping, no_cython_warnings, torch_six
from tests.compat.processes import run_python

IMPORT_BARE = """
import sys
try:
    import fastreid.data.build
except ImportError as error:
    print("bare:", error)
"""

IMPORT_PATCHED = """
import collections, sys, warnings
warnings.simplefilter("error", UserWarning)
had_mapping = hasattr(collections, "Mapping")
from metabin_plugin.compat import data, evaluation, imports, launching, networks, runs, training
from metabin_plugin.compat.patching import apply, patches_of
assert "fastreid" not in sys.modules, "importing compat must not import fastreid"
apply(patches_of(imports))
import fastreid.data.build, fastreid.evaluation.rank, fastreid.engine
assert hasattr(collections, "Mapping") == had_mapping
assert "torch._six" not in sys.modules
print("patched")
"""

START = """
import sys
import metabin_plugin
metabin_plugin.register()
import metabin_plugin.cli.train, metabin_plugin.cli.index, metabin_plugin.data.check
print(*(name for name in ("sklearn", "scipy.stats", "matplotlib", "onnx") if name in sys.modules))
from fastreid.evaluation import reid_evaluation
curve = reid_evaluation.metrics.roc_curve
import sklearn.metrics
assert curve is sklearn.metrics.roc_curve
assert sklearn.__version__ and sklearn.metrics.__name__ == "sklearn.metrics"
"""


def test_a_start_leaves_to_later_what_few_commands_need() -> None:
    started = run_python("-c", START)
    assert started.returncode == 0, started.stderr
    assert started.stdout == "\n"


def test_mapping_is_there_for_the_import_only():
    with collections_mapping():
        assert collections.Mapping is collections.abc.Mapping
    assert not hasattr(collections, "Mapping")


def test_string_classes_are_there_for_the_import_only():
    with torch_six():
        from torch._six import string_classes
    assert isinstance("text", string_classes)
    with pytest.raises(ImportError):
        from torch._six import string_classes


def test_only_the_cython_warnings_are_silenced():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with no_cython_warnings():
            warnings.warn("Cython roc evaluation (very fast) is unavailable", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["something else"]


@pytest.mark.slow
def test_fastreid_imports_with_the_patches_and_not_without():
    assert run_python("-c", IMPORT_BARE).stdout.startswith("bare: ")
    patched = run_python("-c", IMPORT_PATCHED)
    assert patched.stdout.strip() == "patched", patched.stderr


def namespaces() -> dict[tuple[str, str], int]:
    """Identity of everything that fastreid's modules and their classes hold."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != "fastreid":
            continue
        for attribute, value in list(vars(module).items()):
            found[name, attribute] = id(value)
            if isinstance(value, type) and value.__module__.startswith("fastreid"):
                for member, content in vars(value).items():
                    found[f"{name}.{attribute}", member] = id(content)
    return found


def test_registering_again_changes_nothing():
    before = namespaces()
    metabin_plugin.register()
    assert namespaces() == before
    assert len(before) > 1000
