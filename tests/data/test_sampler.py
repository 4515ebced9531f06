"""Properties of the domain-balanced sampler for any distribution of images."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
from fastreid.utils import comm
from hypothesis import given, settings
from hypothesis import strategies as st

from metabin_plugin.data import DomainBalancedSampler, DomainDataset
from metabin_plugin.errors import ConfigError, DatasetError, MetaBINError
from metabin_plugin.registries import SAMPLER_REGISTRY
from tests.campaigns import tries


class Case(NamedTuple):
    """Labels of a dataset's images and the sizes of a batch."""

    identities: list[str]
    domains: list[int]
    slots: int
    num_instances: int
    world_size: int
    seed: int

    @property
    def num_domains(self) -> int:
        return len(set(self.domains))

    @property
    def batch_size(self) -> int:
        return self.num_domains * self.slots * self.num_instances

    def sampler(self, rank: int = 0, world_size: int = 1) -> DomainBalancedSampler:
        return DomainBalancedSampler(
            self.identities,
            self.domains,
            self.batch_size,
            self.num_instances,
            self.seed,
            rank,
            world_size,
        )

    def images_of(self, domain: int, identity: str) -> set[int]:
        wanted = (domain, identity)
        pairs = zip(self.domains, self.identities, strict=True)
        return {index for index, pair in enumerate(pairs) if pair == wanted}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    world_size = draw(st.integers(1, 3))
    slots = world_size * draw(st.integers(1, 2))
    labels = []
    for domain in range(draw(st.integers(1, 4))):
        # Identities named alike in all domains, as people seen by several cameras are.
        counts = draw(st.lists(st.integers(1, 7), min_size=max(slots, 2), max_size=slots + 5))
        for number, count in enumerate(counts):
            labels += [(f"person {number}", domain)] * count
    labels = draw(st.permutations(labels))
    return Case(
        [identity for identity, _ in labels],
        [domain for _, domain in labels],
        slots,
        draw(st.integers(1, 5)),
        world_size,
        draw(st.integers(0, 2**64)),
    )


numbers = st.integers(0, 10_000)


def groups(case: Case, batch: list[int]) -> list[list[int]]:
    """Cut a batch into the images of one identity each."""
    size = case.num_instances
    return [batch[start : start + size] for start in range(0, len(batch), size)]


@given(cases(), numbers)
def test_batch_holds_distinct_identities_of_every_domain_in_equal_number(
    case: Case, number: int
) -> None:
    drawn: list[tuple[int, str]] = []
    for group in groups(case, case.sampler().batch(number)):
        owners = {(case.domains[index], case.identities[index]) for index in group}
        assert len(owners) == 1
        drawn += owners
    assert len(set(drawn)) == len(drawn)
    expected = [domain for domain in range(case.num_domains) for _ in range(case.slots)]
    assert [domain for domain, _ in drawn] == expected


@given(cases(), numbers)
def test_images_repeat_only_when_the_identity_has_too_few(case: Case, number: int) -> None:
    for group in groups(case, case.sampler().batch(number)):
        assert len(group) == case.num_instances
        available = case.images_of(case.domains[group[0]], case.identities[group[0]])
        assert len(set(group)) == min(len(group), len(available))
        assert set(group) <= available


@given(cases(), numbers)
def test_ranks_share_out_the_global_batch(case: Case, number: int) -> None:
    whole = case.sampler().batch(number)
    shares = [case.sampler(rank, case.world_size).batch(number) for rank in range(case.world_size)]
    assert Counter(itertools.chain(*shares)) == Counter(whole)
    owners = [{(case.domains[i], case.identities[i]) for i in share} for share in shares]
    assert sum(map(len, owners)) == len(set().union(*owners))
    for share in shares:
        per_domain = Counter(case.domains[index] for index in share)
        assert set(per_domain.values()) == {case.batch_size // case.num_domains // case.world_size}
        assert len(per_domain) == case.num_domains


@given(cases(), numbers)
def test_batch_does_not_depend_on_the_past(case: Case, number: int) -> None:
    used = case.sampler()
    list(itertools.islice(used, 3 * case.batch_size))
    used.batch(number + 1)
    np.random.seed(number)
    assert used.batch(number) == case.sampler().batch(number)


@given(cases(), numbers)
def test_global_random_generator_is_left_alone(case: Case, number: int) -> None:
    np.random.seed(number)
    expected = np.random.random(4).tolist()
    np.random.seed(number)
    case.sampler().batch(number)
    assert np.random.random(4).tolist() == expected


@given(cases(), st.integers(0, 50))
def test_iteration_goes_on_at_any_batch(case: Case, start: int) -> None:
    sampler = case.sampler(case.world_size - 1, case.world_size)
    sampler.start_batch = start
    expected = [*sampler.batch(start), *sampler.batch(start + 1), *sampler.batch(start + 2)]
    for _ in range(2):
        assert list(itertools.islice(sampler, len(expected))) == expected


@given(cases())
def test_one_pass_draws_no_identity_twice_and_drops_less_than_a_batch(case: Case) -> None:
    sampler = case.sampler()
    for domain in range(case.num_domains):
        total = len({p for p, d in zip(case.identities, case.domains, strict=True) if d == domain})
        batches = total // case.slots
        for turn in range(2):
            seen: list[str] = []
            for number in range(turn * batches, (turn + 1) * batches):
                indices = sampler.batch(number)[:: case.num_instances]
                seen += [case.identities[i] for i in indices if case.domains[i] == domain]
            assert len(set(seen)) == len(seen) == batches * case.slots > total - case.slots


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_every_image_is_drawn_in_the_end(seed: int) -> None:
    # Of 5 identities, 2 fill a batch: each pass drops another one.
    identities = [f"{number // 4}" for number in range(40)]
    case = Case(identities, [0] * 20 + [1] * 20, 2, 3, 1, seed)
    sampler = case.sampler()
    assert set().union(*(sampler.batch(number) for number in range(200))) == set(range(40))


def test_seeds_and_batches_differ() -> None:
    case = Case([str(i // 4) for i in range(80)], [i // 40 for i in range(80)], 4, 2, 1, 7)
    drawn = [case._replace(seed=seed).sampler().batch(b) for seed in range(5) for b in range(5)]
    assert len({tuple(batch) for batch in drawn}) == 25


class Request(NamedTuple):
    """Labels (identity and domain) of images, and the sizes asked of the sampler."""

    pairs: list[tuple[int, int]]
    batch_size: int
    instances: int
    ranks: int


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Any numbers of images by domain and identity; half with a batch of the right shape."""
    ranks, fits = draw(st.integers(1, 3)), draw(st.booleans())
    counts = st.lists(st.integers(1, 6), min_size=2 * ranks if fits else 1, max_size=7)
    pairs = [
        (identity, domain)
        for domain, images in enumerate(draw(st.lists(counts, min_size=fits, max_size=4)))
        for identity, count in enumerate(images)
        for _ in range(count)
    ]
    instances = draw(st.integers(1, 4) if fits else st.integers(-1, 4))
    unit = len({domain for _, domain in pairs}) * instances * ranks
    slots = st.integers(1, 2).map(lambda slots: slots * unit)
    batch_size = draw(slots if fits else slots | st.integers(-1, 40))
    return Request(draw(st.permutations(pairs)), batch_size, instances, ranks)


@settings(max_examples=tries(100, 300))
@given(requests(), numbers)
def test_any_distribution_gives_balanced_batches_or_is_refused(asked: Request, number: int) -> None:
    """Oracle: what a batch needs, counted from the labels alone."""
    pairs, batch_size, instances, ranks = asked
    identities, domains = [p for p, _ in pairs], [d for _, d in pairs]
    people = {d: {p for p, e in pairs if e == d} for d in set(domains)}
    unit = len(people) * instances * ranks
    possible = instances > 0 and batch_size > 0 and unit > 0 and batch_size % unit == 0
    slots = batch_size // (len(people) * instances) if possible else 0
    possible = possible and all(len(found) >= max(slots, 2) for found in people.values())

    def sampler(rank: int, world_size: int) -> DomainBalancedSampler:
        return DomainBalancedSampler(
            identities, domains, batch_size, instances, 7, rank, world_size
        )

    if not possible:
        with pytest.raises(MetaBINError) as caught:
            sampler(0, ranks)
        assert len(str(caught.value).splitlines()) == 1
        return
    whole = sampler(0, 1).batch(number)
    shares = [sampler(rank, ranks).batch(number) for rank in range(ranks)]
    assert sorted(itertools.chain(*shares)) == sorted(whole)
    drawn = [{pairs[index] for index in share} for share in shares]
    assert sum(map(len, drawn)) == len(set().union(*drawn)) == len(people) * slots
    for share in [whole, *shares]:
        assert len(set(Counter(domains[index] for index in share).values())) == 1
        assert set(Counter(pairs[index] for index in share).values()) == {instances}


GOOD: dict[str, Any] = {
    "identities": ["a", "a", "b", "b", "c", "c", "d", "d"],
    "domains": [0, 0, 0, 0, 1, 1, 1, 1],
    "batch_size": 8,
    "num_instances": 2,
    "seed": 0,
}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"batch_size": 10}, ConfigError, ["SOLVER.IMS_PER_BATCH is 10", "8 or 12", "2 domains"]),
        ({"batch_size": 2}, ConfigError, ["SOLVER.IMS_PER_BATCH is 2", "set it to 4"]),
        ({"batch_size": 0}, ConfigError, ["SOLVER.IMS_PER_BATCH is 0"]),
        ({"batch_size": -4}, ConfigError, ["SOLVER.IMS_PER_BATCH is -4"]),
        ({"world_size": 4}, ConfigError, ["SOLVER.IMS_PER_BATCH", "4 processes", "16"]),
        ({"batch_size": 10, "batch_key": "METABIN.IMS_PER_BATCH"}, ConfigError, ["METABIN.IMS"]),
        ({"num_instances": 0}, ConfigError, ["DATALOADER.NUM_INSTANCE is 0"]),
        (
            {"batch_size": 12, "domain_names": ["grid", "prid"]},
            ConfigError,
            ["SOLVER.IMS_PER_BATCH 12", "DATALOADER.NUM_INSTANCE 2", "3 identities", "'grid'"],
        ),
        (
            {"identities": list("aabbcccc"), "domain_names": ["grid", "prid"]},
            DatasetError,
            ["'prid' has 1 identity"],
        ),
        ({"identities": list("aabbcccc")}, DatasetError, ["Domain '1' has 1 identity"]),
        ({"identities": [], "domains": []}, DatasetError, ["no training images", "DATASETS.NAMES"]),
        ({"domains": [0, 1]}, DatasetError, ["8 identities but 2 domains"]),
    ],
)
def test_impossible_batches_are_refused(
    changes: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    DomainBalancedSampler(**GOOD)
    with pytest.raises(error) as caught:
        DomainBalancedSampler(**{**GOOD, **changes})
    for word in words:
        assert word in str(caught.value)


def labelled_dataset() -> DomainDataset:
    items = [(f"{i}.jpg", f"person {i // 2}", "camera") for i in range(8)]
    return DomainDataset(items, GOOD["domains"], ["grid", "prid"])


def test_registered_sampler_takes_its_sizes_from_the_config(cfg: Any) -> None:
    cfg.METABIN.SEED = 5
    sampler = SAMPLER_REGISTRY.get("DomainBalancedSampler")(cfg, labelled_dataset())
    expected = DomainBalancedSampler(**{**GOOD, "seed": 5})
    assert [sampler.batch(b) for b in range(9)] == [expected.batch(b) for b in range(9)]


def test_registered_sampler_knows_its_rank(cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.METABIN.SEED = 5
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        sampler = DomainBalancedSampler(cfg, labelled_dataset())
        expected = DomainBalancedSampler(**{**GOOD, "seed": 5, "rank": rank, "world_size": 2})
        assert sampler.batch(3) == expected.batch(3)
        assert len(sampler.batch(3)) == 4


def test_negative_seed_draws_one_and_errors_name_the_domain(cfg: Any) -> None:
    first, second = (DomainBalancedSampler(cfg, labelled_dataset()) for _ in range(2))
    assert [first.batch(b) for b in range(9)] != [second.batch(b) for b in range(9)]
    cfg.SOLVER.IMS_PER_BATCH = 12
    with pytest.raises(ConfigError, match="'grid' has 2"):
        DomainBalancedSampler(cfg, labelled_dataset())


def test_dataset_without_domains_is_refused(cfg: Any) -> None:
    with pytest.raises(DatasetError, match="object has no domain labels"):
        DomainBalancedSampler(cfg, object())
