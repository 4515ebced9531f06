"""The list of patches: what each declares, and the page that is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastreid.modeling.backbones import BACKBONE_REGISTRY

import make_reference_pages
import metabin_plugin
from metabin_plugin.compat.patching import Patch
from metabin_plugin.modeling.backbones import FAMILIES
from metabin_plugin.registration import all_patches

PATCHES = all_patches()
FOLDER = Path(metabin_plugin.__file__).parent


def test_the_committed_page_is_that_of_the_declarations() -> None:
    committed = make_reference_pages.PATCH_PAGE.read_text(encoding="utf-8")
    assert committed == make_reference_pages.patch_page(), "run tools/make_reference_pages.py"


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.change.__name__)
def test_a_patch_says_what_is_wrong_and_what_it_does(patch: Patch) -> None:
    texts = [patch.fault, patch.change.__doc__ or "", *([patch.unless] if patch.unless else [])]
    assert all(text.strip() for text in texts)
    assert all(text.endswith(".") for text in (patch.fault, patch.unless or "."))
    assert all(target.startswith("fastreid.") for target in patch.targets)


def test_no_module_with_patches_is_forgotten() -> None:
    sources = [path for path in FOLDER.rglob("*.py") if path.name != "patching.py"]
    declaring = {path for path in sources if "@patch(" in path.read_text(encoding="utf-8")}
    modules = {patch.change.__module__ for patch in PATCHES}
    assert {FOLDER.parent / f"{name.replace('.', '/')}.py" for name in modules} == declaring
    count = sum(path.read_text(encoding="utf-8").count("@patch(") for path in declaring)
    assert len(PATCHES) == count > 40


def test_every_known_backbone_checks_its_weights() -> None:
    targets = {target for patch in PATCHES for target in patch.targets}
    assert {
        f"{BACKBONE_REGISTRY.get(name).__wrapped__.__module__}:{name}" for name in FAMILIES
    } <= targets
