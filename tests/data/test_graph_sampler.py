"""Batches of a domain's identities that look alike, against distances counted one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metabin_plugin.data import DomainBalancedSampler, DomainDataset, GraphSampler
from metabin_plugin.data.sampler import nearest
from metabin_plugin.errors import ConfigError
from metabin_plugin.registries import SAMPLER_REGISTRY

# Identities of each domain, three images each; of two domains some have the same name.
PEOPLE = (7, 5)
SLOTS, INSTANCES = 4, 2
LABELS = [(f"person {p}", d) for d, count in enumerate(PEOPLE) for p in range(count) for _ in "abc"]
GOOD: dict[str, Any] = {
    "identities": [person for person, _ in LABELS],
    "domains": [domain for _, domain in LABELS],
    "batch_size": 2 * SLOTS * INSTANCES,
    "num_instances": INSTANCES,
    "seed": 5,
}


def distance(a: Tensor, b: Tensor) -> float:
    """One minus the cosine of the angle between two vectors."""
    pairs = [*zip(a.tolist(), b.tolist(), strict=True)]
    lengths = (math.sqrt(sum(x * x for x in v.tolist())) for v in (a, b))
    return 1 - sum(x * y for x, y in pairs) / math.prod(lengths)


def features(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=generator, dtype=torch.float64)


def test_the_nearest_are_those_of_the_smallest_distance() -> None:
    rows = features(9)
    found = nearest(rows, 5)
    for number, own in enumerate(rows):
        others = sorted((j for j in range(9) if j != number), key=lambda j: distance(own, rows[j]))
        assert found[number].tolist() == [number, *others[:4]]


def test_equal_ones_are_in_the_order_of_their_numbers() -> None:
    assert nearest(torch.ones(4, 2), 3).tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1], [3, 0, 1]]


def connected(seed: int = 0, number: int = 0, **changes: Any) -> tuple[GraphSampler, Any, Tensor]:
    """A sampler with a graph, its nodes, and their features."""
    sampler = GraphSampler(**{**GOOD, **changes})
    nodes = sampler.draw_nodes(number)
    rows = features(len(nodes.images), seed)
    sampler.connect(nodes, rows)
    return sampler, nodes, rows


def people(batch: list[int]) -> list[tuple[str, int]]:
    """Owner of each group of images of a batch."""
    found = []
    for start in range(0, len(batch), INSTANCES):
        (owner,) = {LABELS[image] for image in batch[start : start + INSTANCES]}
        found.append(owner)
    return found


@settings(max_examples=30)
@given(st.integers(0, 100), st.integers(0, 1000), st.integers(SLOTS, 8))
def test_a_batch_is_an_anchor_and_its_nearest_in_each_domain(
    seed: int, number: int, most: int
) -> None:
    sampler, nodes, rows = connected(seed, number, max_identities=most)
    owners = people(sampler.batch(number))
    described = [LABELS[image] for image in nodes.images]
    assert len(set(described)) == len(described) == sum(min(most, count) for count in PEOPLE)
    assert [domain for _, domain in owners] == [0] * SLOTS + [1] * SLOTS
    for domain in range(2):
        anchor, *others = owners[domain * SLOTS : (domain + 1) * SLOTS]
        own = rows[described.index(anchor)]
        candidates = {
            owner: distance(own, rows[row])
            for row, owner in enumerate(described)
            if owner[1] == domain and owner != anchor
        }
        assert others == sorted(candidates, key=candidates.__getitem__)[: SLOTS - 1]


def test_every_identity_is_an_anchor_once_per_pass() -> None:
    sampler, _, _ = connected()
    for turn in range(3):
        for domain, count in enumerate(PEOPLE):
            numbers = range(turn * count, (turn + 1) * count)
            anchors = {people(sampler.batch(n))[domain * SLOTS] for n in numbers}
            assert len(anchors) == count


def test_other_graphs_have_other_identities_and_images() -> None:
    sampler = GraphSampler(**GOOD, max_identities=4)
    drawn = [sampler.draw_nodes(number) for number in range(20)]
    assert {int(i) for nodes in drawn for i in nodes.identities[0]} == set(range(7))
    assert len({tuple(nodes.images) for nodes in drawn}) > 15
    again = GraphSampler(**GOOD, max_identities=4).draw_nodes(3)
    assert again.images == drawn[3].images


def test_without_a_graph_it_is_the_balanced_sampler() -> None:
    plain, graph = DomainBalancedSampler(**GOOD), GraphSampler(**GOOD)
    assert [plain.batch(n) for n in range(9)] == [graph.batch(n) for n in range(9)]


def test_ranks_share_the_batch() -> None:
    whole, nodes, rows = connected()
    ranks = [GraphSampler(**GOOD, rank=rank, world_size=2) for rank in range(2)]
    for sampler in ranks:
        sampler.connect(nodes, rows)
    for number in range(9):
        shares = [people(sampler.batch(number)) for sampler in ranks]
        expected = people(whole.batch(number))
        for domain in range(2):
            part = slice(domain * SLOTS // 2, (domain + 1) * SLOTS // 2)
            own = expected[domain * SLOTS : (domain + 1) * SLOTS]
            assert [*shares[0][part], *shares[1][part]] == own


def test_a_state_gives_the_same_batches() -> None:
    sampler, _, _ = connected()
    other = GraphSampler(**{**GOOD, "seed": 6})
    other.load_state_dict(sampler.state_dict())
    assert [other.batch(n) for n in range(9)] == [sampler.batch(n) for n in range(9)]
    other.load_state_dict(GraphSampler(**GOOD).state_dict())
    assert other.graph is None


ROWS = torch.arange(SLOTS)[None]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"seed": -1, "graph": None}, "seed"),
        ({"seed": 2**32, "graph": None}, "seed"),
        ({"seed": "5", "graph": None}, "seed"),
        ({"seed": 5, "graph": [ROWS]}, "2 domains"),
        ({"seed": 5, "graph": ROWS}, "2 domains"),
        ({"seed": 5, "graph": [ROWS, ROWS.float()]}, r"graph\[1\]"),
        ({"seed": 5, "graph": [ROWS, ROWS[:, :3]]}, r"graph\[1\]"),
        ({"seed": 5, "graph": [ROWS, ROWS[:0]]}, r"graph\[1\]"),
        ({"seed": 5, "graph": [ROWS, ROWS.expand(6, -1)]}, r"graph\[1\]"),
        ({"seed": 5, "graph": [ROWS, torch.tensor([[0, 1, 2, 5]])]}, r"graph\[1\]"),
        ({"seed": 5, "graph": [ROWS, torch.tensor([[-1, 1, 2, 3]])]}, r"graph\[1\]"),
        ({"seed": 5, "graph": [ROWS, torch.tensor([[1, 1, 2, 3]])]}, r"graph\[1\]"),
        ({"seed": 5, "graph": [ROWS, "rows"]}, r"graph\[1\]"),
    ],
)
def test_a_state_of_something_else_is_refused(state: dict[str, Any], words: str) -> None:
    sampler, _, _ = connected()
    before = sampler.batch(3)
    with pytest.raises(ValueError, match=words):
        sampler.load_state_dict(state)
    assert sampler.batch(3) == before


def test_a_graph_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="a batch has 4 identities of each domain"):
        GraphSampler(**GOOD, max_identities=3)


def test_the_config_sets_the_size_of_the_graph(cfg: Any) -> None:
    cfg.METABIN.SEED = 5
    cfg.METABIN.GRAPH_SAMPLER.MAX_IDENTITIES = 2
    items = [(f"{i}.jpg", f"person {i // 2}", "camera") for i in range(12)]
    dataset = DomainDataset(items, np.repeat([0, 1], 6).tolist(), ["grid", "prid"])
    sampler = SAMPLER_REGISTRY.get("GraphSampler")(cfg, dataset)
    assert [len(own) for own in sampler.draw_nodes(0).identities] == [2, 2]
