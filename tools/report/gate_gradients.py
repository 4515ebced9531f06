"""Which way each meta-train loss moves the gates in the inner step (paper, Fig. 5).

Eq. 9 subtracts the gradient from rho: a positive one moves its gate towards instance
normalization, a negative one towards batch normalization.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from fastreid.config import CfgNode
from torch import Tensor

from metabin_plugin.engine import trained_network
from metabin_plugin.modeling import MetaBIN, logged_name
from report.files import FigureError
from report.meta_batches import MetaBatch


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
