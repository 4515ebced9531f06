"""RegNets and EfficientNets are what their own files say, wherever and in whichever order."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from metabin_plugin.modeling.backbones import KnownBackbone

REGNET, EFFNET = "build_regnet_backbone", "build_effnet_backbone"


def shapes(name: str, depth: str) -> dict[str, tuple[int, ...]]:
    network: nn.Module = KnownBackbone(name, depth).build()
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_regnetx_after_a_regnety_has_no_squeeze_and_excitation() -> None:
    assert any(".se." in name for name in shapes(REGNET, "200y"))
    assert not any(".se." in name for name in shapes(REGNET, "200x"))


def test_a_second_build_is_the_first_one_again() -> None:
    first = shapes(REGNET, "400x"), shapes(EFFNET, "b0")
    for depth in ("800y", "6400y", "1600x"):
        shapes(REGNET, depth)
    shapes(EFFNET, "b3")
    assert (shapes(REGNET, "400x"), shapes(EFFNET, "b0")) == first


def test_widths_are_those_of_the_papers() -> None:
    # RegNetX-200MF and RegNetY-400MF (Radosavovic et al., 2020), EfficientNet-B0 (Tan, Le, 2019).
    widths = {"200x": (24, 56, 152, 368), "400y": (48, 104, 208, 440)}
    for depth, expected in widths.items():
        network = shapes(REGNET, depth)
        stages = range(1, 5)
        assert tuple(network[f"s{stage}.b1.f.c.weight"][0] for stage in stages) == expected
    network = shapes(EFFNET, "b0")
    blocks = tuple(network[f"s{stage}.b1.lin_proj.weight"][0] for stage in range(1, 8))
    assert blocks == (16, 24, 40, 80, 112, 192, 320)
