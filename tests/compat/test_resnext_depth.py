"""ResNeXt-152, which fastreid lists and cannot build."""

from __future__ import annotations

import pytest
from torch import nn

from metabin_plugin.modeling.backbones import KnownBackbone

RESNEXT = "build_resnext_backbone"


@pytest.mark.parametrize(("depth", "layers"), [("50x", 50), ("101x", 101), ("152x", 152)])
def test_a_resnext_has_as_many_layers_as_its_name_says(depth: str, layers: int) -> None:
    network = KnownBackbone(RESNEXT, depth).build()
    convolutions = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d) and "downsample" not in name
    ]
    # The last one is the classifier, which a backbone has not.
    assert len(convolutions) == layers - 1
    assert network.layer3[1].conv2.groups == 32


def test_it_has_no_non_local_layers_and_takes_ibn() -> None:
    plain = KnownBackbone(RESNEXT, "152x").build()
    both = KnownBackbone(RESNEXT, "152x", with_ibn=True, with_nl=True).build()
    assert not [name for name, _ in both.named_parameters() if name.startswith("NL_")]
    assert "layer1.0.bn1.IN.weight" in both.state_dict()
    assert "layer1.0.bn1.IN.weight" not in plain.state_dict()
