"""Which way each meta-train loss moves the gates in the inner step (paper, Fig. 5).

Eq. 9 subtracts the gradient from rho: a positive one moves its gate towards instance
normalization, a negative one towards batch normalization.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.data.transforms import build_transforms
from torch import Tensor

from metabin_plugin.data import DomainBalancedSampler, build_reid_train_loader, build_train_set
from metabin_plugin.engine import trained_network
from metabin_plugin.errors import ConfigError
from metabin_plugin.meta import split_domains
from metabin_plugin.modeling import MetaBIN, logged_name
from metabin_plugin.report.files import FigureError, new_figure

SIGNS = ("positive, towards IN", "negative, towards BN", "zero")
COLOURS = ("tab:red", "tab:blue", "lightgrey")

MetaBatch = dict[str, Tensor]
# Gradients by term, by iteration of the checkpoint.
Curve = Mapping[int, Mapping[str, "TermGradients"]]


class MetaTrainBatches:
    """The same meta-train mini-batches at every iteration over them.

    Each is drawn as a training draws it: ``METABIN.IMS_PER_BATCH`` augmented images, balanced over
    the domains, of which ``NUM_META_TRAIN`` random domains are kept.

    Args:
        cfg: the config of a training; a negative ``METABIN.SEED`` counts as 0.
        count: how many.

    Attributes:
        num_identities: identities in the training data.

    Raises:
        ConfigError: the training data has too few domains for the split, or a batch cannot be
            balanced over them.
        DatasetError: training data is missing or unusable.
    """

    def __init__(self, cfg: CfgNode, count: int) -> None:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.METABIN.SEED = self._seed = max(cfg.METABIN.SEED, 0)
        cfg.SOLVER.IMS_PER_BATCH = cfg.METABIN.IMS_PER_BATCH or cfg.SOLVER.IMS_PER_BATCH
        self._count, self._num_meta_train = count, cfg.METABIN.NUM_META_TRAIN
        dataset = build_train_set(cfg, build_transforms(cfg, is_train=True))
        self._num_domains, self.num_identities = dataset.num_domains, dataset.num_classes
        if not 1 <= self._num_meta_train < self._num_domains:
            raise ConfigError(
                f"METABIN.NUM_META_TRAIN is {self._num_meta_train!r} of the {self._num_domains} "
                "domains of DATASETS.NAMES; choose one that leaves a domain to meta-test"
            )
        sampler = DomainBalancedSampler(cfg, dataset)
        self._loader = build_reid_train_loader(cfg, train_set=dataset, sampler=sampler)

    def __iter__(self) -> Iterator[MetaBatch]:
        """Yield ``images`` (N, 3, H, W), RGB from 0 to 255, ``targets`` and ``domains`` (N,)."""
        for number, batch in enumerate(itertools.islice(self._loader, self._count)):
            kept, _ = split_domains(self._num_domains, self._num_meta_train, self._seed, number)
            rows = torch.isin(batch["domains"].cpu(), torch.tensor(kept))
            yield {n: batch[n][rows.to(batch[n].device)] for n in ("images", "targets", "domains")}


@dataclass(frozen=True)
class TermGradients:
    """Gradient of one term of L_mtr at every gate, over B mini-batches and L layers.

    Attributes:
        layers: names of the layers, from the image to the feature.
        gates: number of gates of each layer (L,).
        positive: how many of a layer's gates have a positive gradient (B, L).
        negative: how many have a negative one; those of the others are 0 (B, L).
        total: sum of the gradients of a layer's gates (B, L).
    """

    layers: list[str]
    gates: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    total: np.ndarray

    def shares(self) -> tuple[float, float, float]:
        """Shares of positive, negative and zero gradients, of all gates in all mini-batches."""
        count = len(self.total) * self.gates.sum()
        positive, negative = self.positive.sum() / count, self.negative.sum() / count
        return positive, negative, 1 - positive - negative

    def deviation(self) -> float:
        """Sample standard deviation of the positive share over mini-batches; nan of one alone."""
        if len(self.total) < 2:
            return float("nan")
        return float(np.std(self.positive.sum(1) / self.gates.sum(), ddof=1))

    def mean(self) -> float:
        """Mean gradient of a gate."""
        return float(self.total.sum(1).mean() / self.gates.sum())

    def layer_shares(self) -> np.ndarray:
        """Shares of positive, negative and zero gradients in each layer (L, 3)."""
        count = len(self.total) * self.gates
        positive, negative = self.positive.sum(0) / count, self.negative.sum(0) / count
        return np.stack([positive, negative, 1 - positive - negative], axis=1)

    def layer_means(self) -> np.ndarray:
        """Mean gradient of a gate of each layer (L,)."""
        return self.total.mean(0) / self.gates


def network_with_gates(cfg: CfgNode, num_identities: int) -> MetaBIN:
    """The network of ``MODEL.WEIGHTS``, ready for the meta step, however it was trained.

    Networks with jointly trained gates, of META_ARCHITECTURE Baseline, have the same parameters.

    Args:
        cfg: the config of the training.
        num_identities: of the training data; only the cross-entropy loss needs a classifier.

    Raises:
        ConfigError: the network has no gates.
        WeightsError: the checkpoint is damaged or does not fit.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = MetaBIN.__name__
    classifies = "CrossEntropyLoss" in cfg.METABIN.META_TRAIN_LOSSES
    cfg.MODEL.HEADS.NUM_CLASSES = num_identities if classifies else 0
    network = trained_network(cfg, "MODEL.WEIGHTS is empty")
    assert isinstance(network, MetaBIN)
    return network.train()


def measure_gradients(
    network: MetaBIN, terms: Sequence[str], batches: Iterable[MetaBatch]
) -> dict[str, TermGradients]:
    """Differentiate each term of L_mtr alone, in single precision, as the inner step would.

    Args:
        network: in training mode; it is not changed.
        terms: names of ``META_LOSS_REGISTRY``.
        batches: meta-train mini-batches.

    Returns:
        The gradients, by the term's name in the log.

    Raises:
        FigureError: a gradient is not finite.
    """
    gates = list(network.gates.items())
    numbers: dict[str, list[Tensor]] = {term: [] for term in terms}
    for batch in batches:
        for term, gradients in term_gradients(network, terms, batch).items():
            rows = [[(g > 0).sum(), (g < 0).sum(), g.double().sum()] for g in gradients]
            numbers[term].append(torch.stack([torch.stack(row) for row in rows]).cpu())
    layers = [name.removesuffix(".gate") for name, _ in gates]
    sizes = np.array([gate.numel() for _, gate in gates])
    measured = {}
    for term, table in numbers.items():
        positive, negative, total = torch.stack(table).double().unbind(2)
        if not total.isfinite().all():
            raise FigureError(
                f"the gradient of {term} is not finite; give an earlier checkpoint of the training"
            )
        columns = (positive.numpy(), negative.numpy(), total.numpy())
        measured[logged_name(term)] = TermGradients(layers, sizes, *columns)
    return measured


def term_gradients(
    network: MetaBIN, terms: Sequence[str], batch: MetaBatch
) -> dict[str, tuple[Tensor, ...]]:
    """Gradient of each term alone with respect to every layer's gates, in the layers' order."""
    moved = {name: tensor.to(network.device) for name, tensor in batch.items()}
    moved["images"] = network.preprocess_image(moved)
    leaves = {name: gate.detach().requires_grad_() for name, gate in network.gates.items()}
    losses = network.meta_losses(terms, moved, leaves)
    return {
        # A layer whose input is 1x1 does not use its gates.
        term: torch.autograd.grad(
            loss, list(leaves.values()), retain_graph=True, materialize_grads=True
        )
        for term, loss in losses.items()
    }


def iteration_of(checkpoint: object) -> int | None:
    """Number of iterations that a checkpoint's training had done; None where it does not say.

    Args:
        checkpoint: content of the file.
    """
    progress = checkpoint.get("progress") if isinstance(checkpoint, dict) else None
    iteration = progress.get("iteration") if isinstance(progress, dict) else None
    return iteration if isinstance(iteration, int) else None


def draw_gradients(measured: Curve) -> Any:
    """Shares of signs of the last checkpoint, in all and by layer; over iterations if several.

    Args:
        measured: at least one checkpoint.

    Returns:
        A matplotlib figure.
    """
    last = measured[max(measured)]
    several = len(measured) > 1
    figure = new_figure(10, 9 if several else 6)
    axes = figure.subplots(3 if several else 2, 1)
    _draw_shares(axes[0], last)
    _draw_layers(axes[1], last)
    if several:
        axes[0].legend_.set_title(f"gradients at iteration {max(measured)}")
        _draw_curve(axes[2], measured)
    return figure


def _draw_shares(axes: Any, terms: Mapping[str, TermGradients]) -> None:
    shares = np.array([term.shares() for term in terms.values()])
    starts = np.cumsum(shares, axis=1) - shares
    for i, (sign, colour) in enumerate(zip(SIGNS, COLOURS, strict=True)):
        axes.barh(list(terms), shares[:, i], left=starts[:, i], label=sign, color=colour)
    axes.axvline(0.5, color="black", linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of gates × mini-batches, by the sign of the loss's gradient")
    axes.legend(ncols=len(SIGNS), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _draw_layers(axes: Any, terms: Mapping[str, TermGradients]) -> None:
    means = {name: term.layer_means() for name, term in terms.items()}
    for name, mean in means.items():
        axes.plot(range(1, len(mean) + 1), mean, ".-", label=name)
    sizes = np.abs(np.concatenate(list(means.values())))
    # From layer to layer gradients differ by orders of magnitude, and in sign.
    axes.set_yscale("symlog", linthresh=float(np.median(sizes)) or 1.0)
    _finish(axes, 0, "mean gradient of a gate", "BIN layer, from the image to the feature")


def _draw_curve(axes: Any, measured: Curve) -> None:
    iterations = sorted(measured)
    for name in measured[iterations[0]]:
        positive = [measured[iteration][name].shares()[0] for iteration in iterations]
        axes.plot(iterations, positive, "o-", label=name)
    _finish(axes, 0.5, "share of positive", "iteration")


def _finish(axes: Any, balance: float, y: str, x: str) -> None:
    axes.axhline(balance, color="black", linewidth=0.8)
    axes.set_ylabel(y)
    axes.set_xlabel(x)
    axes.legend()
