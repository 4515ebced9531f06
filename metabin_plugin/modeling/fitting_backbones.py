"""The backbones that a file of ImageNet weights fits, found without their memory."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from torch import Tensor, nn

from metabin_plugin.modeling.known_backbones import (
    BACKBONES,
    MOBILENETV2,
    RESNET,
    KnownBackbone,
)
from metabin_plugin.modeling.weight_fit import first_difference, shapes, state_for

# Others have names of their own. Non-local layers are in no file, so they tell nothing.
CANDIDATES = tuple(b for b in BACKBONES if b.name in (MOBILENETV2, RESNET) and not b.with_nl)


def fitting_backbones(weights: Mapping[str, Tensor]) -> list[KnownBackbone]:
    """Those of ``CANDIDATES`` that a file's state dict fits.

    Args:
        weights: the state dict, names as in the file.
    """
    return [backbone for backbone in CANDIDATES if _fits(backbone, weights)]


def _fits(backbone: KnownBackbone, weights: Mapping[str, Tensor]) -> bool:
    network = _network(backbone)
    return (
        first_difference(shapes(network.state_dict()), shapes(state_for(network, weights))) is None
    )


@functools.cache
def _network(backbone: KnownBackbone) -> nn.Module:
    return backbone.build()
