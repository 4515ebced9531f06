"""Which images of a mini-batch are gallery and which are probes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Roles of the images of a mini-batch with G identities.

    Attributes:
        gallery: position of each identity's gallery image (G,), by ascending identity.
        probes: positions of all other images, ascending.
    """

    gallery: Tensor
    probes: Tensor


def gallery_and_probes(identities: Tensor) -> Pairs:
    """Take the first image of every identity as its gallery image, the others as probes.

    The sampler has put an identity's images in random order. An identity with one image has no
    probe.

    Args:
        identities: identity of each image (N,).

    Returns:
        The roles.
    """
    labels, group = identities.unique(return_inverse=True)
    positions = torch.arange(len(identities), device=identities.device)
    last = positions.new_full(labels.shape, len(identities))
    gallery = last.scatter_reduce(0, group, positions, "amin")
    is_probe = torch.ones_like(positions, dtype=torch.bool).index_fill(0, gallery, False)
    return Pairs(gallery, positions[is_probe])
