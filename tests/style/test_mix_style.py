"""MixStyle: the mixture against a loop, who is mixed with whom, and in which passes."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from metabin_plugin import style
from metabin_plugin.errors import ConfigError, DatasetError
from metabin_plugin.style import MixStyle, draw_partners, mix_style


def oracle(x: Tensor, partners: list[int], weights: list[float]) -> tuple[Tensor, Tensor]:
    """The mixture, and its derivative by each pixel of the map, pixel by pixel."""
    mixed, slope = torch.empty_like(x), torch.empty_like(x)
    for image, (partner, weight) in enumerate(zip(partners, weights, strict=True)):
        for channel in range(x.shape[1]):
            moments = []
            for one in (image, partner):
                pixels = x[one, channel].flatten().tolist()
                mean = sum(pixels) / len(pixels)
                spread = sum((pixel - mean) ** 2 for pixel in pixels) / len(pixels)
                moments.append((mean, math.sqrt(spread + 1e-6)))
            (own_mean, own_std), (other_mean, other_std) = moments
            std = weight * own_std + (1 - weight) * other_std
            mean = weight * own_mean + (1 - weight) * other_mean
            mixed[image, channel] = std * (x[image, channel] - own_mean) / own_std + mean
            slope[image, channel] = std / own_std
    return mixed, slope


def feature_map(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * 2 + 3


def test_the_mixture_and_its_gradient_are_those_of_the_paper() -> None:
    x = feature_map(4, 3, 5, 2).requires_grad_()
    partners, weights = [2, 0, 3, 1], [0.0, 0.25, 0.9, 1.0]
    mixed = mix_style(x, torch.tensor(partners), torch.tensor(weights, dtype=torch.float64))
    expected, slope = oracle(x.detach(), partners, weights)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-12)
    incoming = feature_map(4, 3, 5, 2, seed=1)
    (gradient,) = torch.autograd.grad(mixed, x, incoming)
    torch.testing.assert_close(gradient, slope * incoming, rtol=0, atol=1e-12)


def test_the_whole_own_share_changes_nothing() -> None:
    x = feature_map(3, 2, 4, 4)
    mixed = mix_style(x, torch.tensor([1, 2, 0]), torch.ones(3))
    torch.testing.assert_close(mixed, x, rtol=0, atol=1e-12)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=24), st.integers(0, 2**32))
def test_partners_are_a_permutation_across_domains(labels: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    partners = draw_partners(torch.tensor(labels)).tolist()
    assert sorted(partners) == [*range(len(labels))]
    same = sum(labels[i] == labels[p] for i, p in enumerate(partners))
    largest = max(Counter(labels).values())
    # Others than those of the largest domain are too few for all of it.
    assert same == max(0, 2 * largest - len(labels))
    if len(set(labels)) == 1 and len(labels) > 1:
        assert all(i != p for i, p in enumerate(partners))


def test_every_image_of_another_domain_can_be_the_partner() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    seen = {(i, p) for _ in range(300) for i, p in enumerate(draw_partners(labels).tolist())}
    assert seen == {(i, p) for i in range(6) for p in range(6) if labels[i] != labels[p]}


class Network(nn.Module):
    """A backbone, of whose first stage only the parts are called, as in fastreid's ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3)))
        self.rest = nn.Conv2d(4, 2, 1)

    def part(self, images: Tensor) -> Tensor:
        for layer in self.stage:
            images = layer(images)
        return self.rest(images)

    def forward(self, batch: Any) -> Tensor:
        return self.part(batch["images"])


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


def batch(**more: Any) -> dict[str, Any]:
    images = feature_map(6, 3, 9, 7).float()
    return {"images": images, "domains": torch.tensor([0, 0, 1, 1, 2, 2]), **more}


def test_training_passes_mix_and_others_do_not(network: Network) -> None:
    inputs = batch()
    plain = network(inputs)
    MixStyle(network, [network.stage], 1.0)
    assert not torch.allclose(network(inputs), plain)
    # A meta step calls the backbone itself.
    assert torch.equal(network.part(inputs["images"]), plain)
    with torch.no_grad():
        assert torch.equal(network(inputs), plain)
    network.eval()
    assert torch.equal(network(inputs), plain)
    assert not any(layer._forward_hooks for layer in network.children())


def test_a_pass_that_fails_leaves_nothing_behind(network: Network) -> None:
    MixStyle(network, [network.stage, network.rest], 1.0)
    with pytest.raises(RuntimeError):
        network(batch(images=torch.zeros(6, 5, 9, 7)))
    assert not any(layer._forward_hooks for layer in network.modules() if layer is not network)


def test_the_pass_is_a_function_of_the_seed(network: Network) -> None:
    MixStyle(network, [network.stage, network.rest], 0.5, alpha=0.5)
    outputs = []
    for seed in (1, 1, 2, 3, 4):
        torch.manual_seed(seed)
        outputs.append(network(batch()))
    assert torch.equal(outputs[0], outputs[1])
    assert len({output.sum().item() for output in outputs}) > 2


def test_how_often_it_mixes(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []

    def counted(x: Tensor, _partners: Tensor, weights: Tensor) -> Tensor:
        calls.append(weights)
        return x

    monkeypatch.setattr(style, "mix_style", counted)
    torch.manual_seed(0)
    MixStyle(network, [network.stage], 0.3, alpha=2.0)
    for _ in range(1000):
        network(batch())
    # Four deviations of a binomial distribution, and of the mean of Beta(2, 2).
    assert abs(len(calls) - 300) < 4 * math.sqrt(1000 * 0.3 * 0.7)
    weights = torch.cat(calls)
    assert weights.min() >= 0 and weights.max() <= 1
    assert abs(weights.mean().item() - 0.5) < 4 * math.sqrt(0.05 / len(weights))
    assert weights.var().item() == pytest.approx(0.05, rel=0.2)


def test_partners_of_any_domain_need_no_labels(network: Network) -> None:
    unlabelled = batch()
    del unlabelled["domains"]
    MixStyle(network, [network.stage], 1.0, by_domain=False)
    assert network(unlabelled).isfinite().all()


def test_missing_labels_and_other_outputs_are_refused(network: Network) -> None:
    unlabelled = batch()
    del unlabelled["domains"]
    MixStyle(network, [network.stage], 1.0)
    with pytest.raises(DatasetError, match="no domain labels"):
        network(unlabelled)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(189, 2))
    MixStyle(flat, [flat[0]], 1.0, by_domain=False)
    with pytest.raises(ConfigError, match="no feature map"):
        flat(feature_map(2, 3, 9, 7).float())
