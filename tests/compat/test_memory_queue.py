"""MoCo's queue takes any batch, and its loss the pairs that it should."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from fastreid.modeling.losses import utils
from fastreid.modeling.meta_arch.moco import Memory
from fastreid.utils import comm
from torch import Tensor
from torch.nn.functional import normalize

SIZE, WIDTH = 8, 5


def batch(identities: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """Features on the unit sphere and their identities."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(identities), WIDTH, generator=generator, dtype=torch.float64)
    return normalize(features, dim=1), torch.tensor(identities)


def memory() -> Memory:
    torch.manual_seed(0)
    return Memory(WIDTH, SIZE).double()


def loss_by_pairs(features: Tensor, identities: Tensor, queue: list[tuple[Tensor, int]]) -> float:
    """Of images that are the queue's last ones; a place without an identity has -1."""
    losses = []
    for row, (feature, identity) in enumerate(zip(features, identities.tolist(), strict=True)):
        itself = len(queue) - len(features) + row
        positives, negatives = [], []
        for place, (other, other_identity) in enumerate(queue):
            similarity = float(feature @ other)
            if other_identity != identity:
                negatives.append(math.exp(32 * (similarity + 0.25)))
            elif place != itself:
                positives.append(math.exp(-32 * similarity))
        losses.append(math.log1p(sum(positives) * sum(negatives)))
    return sum(losses) / len(losses)


BATCHES = [[0, 0, 1], [0, 2, 2], [1, 1, 0], [3, 3, 2], [0, 1, 2]]


def test_the_loss_is_that_of_all_pairs_around_the_end_of_the_queue() -> None:
    moco = memory()
    filled = [(feature, -1) for feature in moco.queue.T.clone()]
    for seed, identities in enumerate(BATCHES):
        features, targets = batch(identities, seed)
        filled = [*filled, *zip(features, identities, strict=True)][-SIZE:]
        loss = moco(features, targets)
        assert float(loss) == pytest.approx(loss_by_pairs(features, targets, filled), rel=1e-9)
        assert 0 <= moco.queue_ptr < SIZE
        # Oldest first.
        order = (torch.arange(SIZE) + moco.queue_ptr) % SIZE
        assert moco.queue_label[0, order].tolist() == [identity for _, identity in filled]
        torch.testing.assert_close(moco.queue[:, order].T, torch.stack([f for f, _ in filled]))


def test_each_of_two_processes_has_its_share_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [batch([0, 0, 1], 1), batch([1, 2, 2], 2), batch([0, 1, 2, 0, 1, 0], 3)]
    whole = memory()
    expected = [float(whole(*each)) for each in batches]
    everyones: list[Tensor] = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(utils, "concat_all_gather", lambda _own: everyones.pop(0))
    losses = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        moco = memory()
        halves = []
        for features, targets in [join(batches[:2]), batches[2]]:
            everyones[:] = [features, targets]
            half = slice(3 * rank, 3 * rank + 3)
            halves.append(float(moco(features[half], targets[half])))
        losses.append(halves)
        assert torch.equal(moco.queue_label, whole.queue_label)
        torch.testing.assert_close(moco.queue, whole.queue, rtol=1e-12, atol=1e-12)
    means = [(first + second) / 2 for first, second in zip(*losses, strict=True)]
    assert means[1] == pytest.approx(expected[2], rel=1e-12)


def join(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    features, targets = zip(*batches, strict=True)
    return torch.cat(features), torch.cat(targets)


def test_an_image_without_another_of_its_identity_costs_nothing() -> None:
    features, targets = batch([4], 0)
    features.requires_grad_()
    loss = memory()(features, targets)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_the_gradient_is_that_of_the_batch_and_not_of_the_queue() -> None:
    moco = memory()
    for seed, identities in enumerate(BATCHES[:4]):
        features, targets = batch(identities, seed)
        moco(features, targets)
    queue = copy.deepcopy(moco.queue)
    features.requires_grad_()
    loss = moco(features, targets)
    [gradient] = torch.autograd.grad(loss, features)
    assert gradient.abs().max() > 0
    assert not moco.queue.requires_grad and not torch.equal(queue, moco.queue)
