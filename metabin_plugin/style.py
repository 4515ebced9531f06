"""Style of an image: mean and deviation of every channel of its feature map, and changes of it.

MixStyle: Zhou, Yang, Qiao and Xiang, "Domain Generalization with MixStyle", ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.utils.hooks import RemovableHandle

from metabin_plugin.errors import ConfigError, DatasetError
from metabin_plugin.norm import formula
from metabin_plugin.precision import at_least_float32

# MixStyle's paper has none; without it a channel that is constant in an image has no normal form.
_EPS = 1e-6


def instance_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of each image (MixStyle, Eq. 2 and 3).

    The deviation is the biased one, of all pixels. A small number is added to the variance before
    the square root, so that nothing is divided by zero. Gradients pass through both.

    Args:
        x: feature map (N, C, H, W).

    Returns:
        Mean and deviation, each (N, C, 1, 1), in float32 for half precision, else in the type of
        the map.

    Example:
        >>> mean, std = instance_statistics(torch.tensor([[[[1.0, 3.0]]]]))
        >>> mean.flatten().tolist(), round(std.item(), 3)
        ([2.0], 1.0)
    """
    mean, var = formula.instance_statistics(at_least_float32(x), keepdim=True)
    return mean, (var + _EPS).sqrt()


def restyle(
    x: Tensor, mean: Tensor, std: Tensor, own: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Give each image another style in the place of its own (AdaIN; MixStyle, Eq. 4 and 7).

    Its own style is a constant in the gradient by ``x``, as in MixStyle: the gradient is that of an
    affine map. Gradients by ``mean`` and ``std`` pass.

    Args:
        x: feature map (N, C, H, W).
        mean: new mean of each channel, such as (N, C, 1, 1).
        std: new deviation of each channel, of the same shape.
        own: ``instance_statistics`` of ``x``, where they are known.

    Returns:
        Feature map of the shape and type of ``x``.
    """
    values = at_least_float32(x)
    with torch.no_grad():
        own_mean, own_std = instance_statistics(values) if own is None else own
    return torch.addcmul(mean, values - own_mean.detach(), std / own_std.detach()).to(x.dtype)


def mix_style(x: Tensor, partners: Tensor, weights: Tensor) -> Tensor:
    """Mix the style of each image with that of another one (MixStyle, Eq. 5 to 7).

    Both styles are constants in the gradient.

    Args:
        x: feature map (N, C, H, W).
        partners: number of the other image, for each (N,).
        weights: lambda, the share of the image's own style, in [0, 1], for each (N,).

    Returns:
        Feature map of the shape and type of ``x``.
    """
    with torch.no_grad():
        mean, std = own = instance_statistics(x)
        share = weights.to(mean)[:, None, None, None]
        mixed_mean = torch.lerp(mean[partners], mean, share)
        mixed_std = torch.lerp(std[partners], std, share)
    return restyle(x, mixed_mean, mixed_std, own)


def draw_partners(domains: Tensor) -> Tensor:
    """Draw a permutation of a batch that gives each image a partner of another domain.

    The paper has two domains in a batch and swaps them. Here the images are put in a random order
    that keeps domains together, in a random order too, and each is given the one that comes a
    random number of places later. With at least the largest domain's size, and at most the size of
    all others together, that one is of another domain. Where a domain has more than half of the
    images, as few of its images as possible get a partner of their own domain; where there is but
    one domain, all do.

    Random numbers are from PyTorch's CPU generator, whatever the device, which is not waited for.

    Args:
        domains: domain of each image (N,).

    Returns:
        Number of each image's partner (N,), on the device of ``domains``.
    """
    count = len(domains)
    # Two float32 of a batch are often enough the same.
    keys = torch.rand(2, count, dtype=torch.float64).to(domains.device, non_blocking=True)
    place = torch.rand((), dtype=torch.float64)
    together = domains[:, None] == domains
    order_of_domains = keys[0].expand(count, count).masked_fill(~together, 1).amin(1)
    order = keys[1].argsort()
    order = order[order_of_domains[order].argsort(stable=True)]
    largest = together.sum(1).amax()
    lowest = torch.minimum(largest, count - largest)
    # With one domain, no shift would be one.
    lowest = lowest.clamp(min=min(1, count - 1))
    shifts = torch.maximum(largest, count - largest).clamp(max=max(1, count - 1)) - lowest + 1
    shift = lowest + (place.to(domains.device, non_blocking=True) * shifts).long()
    places = torch.arange(count, device=domains.device)
    partners = torch.empty_like(order)
    partners[order] = order[(places + shift) % count]
    return partners


def draw_styles(mean: Tensor, std: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Draw each image a style from those that a batch makes likely (interleaved learning).

    Per channel, mean and deviation are uniform within ``reach`` standard deviations, over the
    images, of their average over the images: styles that no image of the batch has. Tan et al.,
    "Style Interleaved Learning for Generalizable Person Re-identification", IEEE TMM 2023, whose
    published code has a reach of 3; the text was not at hand. A deviation that falls below 0, which
    that code uses as it is, is 0 here.

    Args:
        mean: of each channel of each image (N, C, 1, 1), as of ``instance_statistics``.
        std: deviation of the same shape.
        reach: 0 or more; 0 gives every image the average style.

    Returns:
        Mean and deviation, each (N, C, 1, 1).
    """
    return _uniform_around(mean, reach), _uniform_around(std, reach).clamp_min(0)


def _uniform_around(values: Tensor, reach: float) -> Tensor:
    centre = values.mean(dim=0, keepdim=True)
    # That of a single image is 0.
    spread = values.std(dim=0, keepdim=True, correction=min(1, len(values) - 1))
    return torch.addcmul(centre, torch.rand_like(values) * 2 - 1, reach * spread)


class MixStyle:
    """Mixes styles behind layers of a network, in the forward passes of its training.

    Behind each of the layers, at each pass: with a given probability every image gets a partner,
    and a weight from Beta(alpha, alpha) (paper, Section 3.2). The layers are watched during these
    passes alone, so that all others, those of evaluation, of an export and of a meta-learning that
    calls a part of the network itself, are what they were. Parameters, buffers and their names stay
    as they are.

    Random numbers are from PyTorch's CPU generator.

    Args:
        network: called with a batch, a dictionary; with ``"domains"`` (N,) for ``by_domain``.
        layers: parts of the network that give feature maps (N, C, H, W). Of a sequence the last
            part counts, for some networks call only the parts.
        probability: in [0, 1].
        alpha: above 0.
        by_domain: whether partners are of another domain, see ``draw_partners``; else the batch is
            shuffled.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[nn.Module],
        probability: float,
        alpha: float = 0.1,
        by_domain: bool = True,
    ) -> None:
        self._layers = [last_part(layer) for layer in layers]
        self._probability = probability
        # In float32 both of its two sides are now and then 0.
        self._weights = Beta(*torch.full((2,), alpha, dtype=torch.float64))
        self._by_domain = by_domain
        self._domains: Tensor | None = None
        self._handles: list[RemovableHandle] = []
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end, always_call=True)

    def _begin(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        # fastreid's PreciseBN takes statistics in training mode, without gradients.
        if not (network.training and torch.is_grad_enabled()):
            return
        batch = inputs[0] if inputs and isinstance(inputs[0], Mapping) else {}
        if self._by_domain and "domains" not in batch:
            raise DatasetError(
                "METABIN.MIXSTYLE.PARTNERS is 'domain', but the batches have no domain labels; "
                "give the loader a metabin_plugin.data.DomainDataset, or set it to 'any'"
            )
        self._domains = batch["domains"] if self._by_domain else None
        self._handles = [layer.register_forward_hook(self._mix) for layer in self._layers]

    def _end(self, *_arguments: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._domains = None

    def _mix(self, _layer: nn.Module, _inputs: tuple[Any, ...], x: Any) -> Tensor:
        if not isinstance(x, Tensor) or x.dim() != 4:
            raise ConfigError(
                "METABIN.MIXSTYLE.LAYERS names a layer that gives no feature map (N, C, H, W); "
                "name stages of a convolutional backbone"
            )
        # A network may have passes of its own within one, without gradients.
        if not torch.is_grad_enabled() or torch.rand(()) >= self._probability:
            return x
        count = len(x)
        if self._domains is None:
            partners = torch.randperm(count)
        else:
            # A batch of two views has each image twice, one view after the other.
            partners = draw_partners(self._domains.repeat(count // len(self._domains)))
        weights = self._weights.sample((count,))
        device = x.device
        return mix_style(
            x, partners.to(device, non_blocking=True), weights.to(device, non_blocking=True)
        )


def last_part(layer: nn.Module) -> nn.Module:
    """The part of a network that gives a stage's feature map, however the network calls the stage.

    Args:
        layer: a stage.

    Returns:
        Of a sequence its last part, for some networks call only the parts; else the stage itself.
    """
    while isinstance(layer, nn.Sequential) and len(layer):
        layer = layer[-1]
    return layer
