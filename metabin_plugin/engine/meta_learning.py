"""Meta-learning episodes, and the MetaBIN step (Algorithm 1, lines 7-15) as a fastreid hook."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from fastreid.config import CfgNode
from fastreid.data import build as loaders
from fastreid.engine import DefaultTrainer
from fastreid.engine.train_loop import HookBase
from fastreid.solver.lr_scheduler import _get_warmup_factor_at_epoch
from fastreid.utils import comm
from torch import Tensor

from metabin_plugin.compat.training import LossScaler, autocast_dtype, build_grad_scaler
from metabin_plugin.config.keys import LARGEST_SEED
from metabin_plugin.data import DomainBalancedSampler
from metabin_plugin.data.domains import require_domains
from metabin_plugin.data.resumable import check_position
from metabin_plugin.data.sampler import stream_seed
from metabin_plugin.engine.checkpoint_schema import check_count, most_batches
from metabin_plugin.engine.finite import (
    LOWEST_LOSS_SCALE,
    Fault,
    largest_magnitudes,
    nonfinite_error,
    nonfinite_names,
)
from metabin_plugin.errors import ConfigError, DatasetError, NonFiniteError
from metabin_plugin.meta import (
    SIGNS,
    MetaStep,
    Tensors,
    meta_step,
    random_direction,
    sign_shares,
    sign_shares_by_loss,
    split_domains,
    triangular,
)
from metabin_plugin.modeling import MetaBIN, logged_name
from metabin_plugin.norm.formula import clip_
from metabin_plugin.weights.checkpoint_states import check_state

_RATES = ("SOLVER.BASE_LR", "METABIN.INNER_LR.HIGH", "METABIN.OUTER_LR")


class Episodes:
    """Domain split and inner step size of each iteration, functions of the seed and its number.

    Args:
        cfg: the config with the METABIN node.
        trainer: a trainer that already has its data loader.
        batch_size: images in the mini-batch that is split.
        batch_key: the config key of that size, for messages.

    Attributes:
        seed: of the domain splits; what a checkpoint has to hold.

    Raises:
        ConfigError: the domains, or the images of each, do not suffice for the split.
        DatasetError: the images have no domain labels.
    """

    def __init__(
        self, cfg: CfgNode, trainer: DefaultTrainer, batch_size: int, batch_key: str
    ) -> None:
        node = cfg.METABIN
        self.seed = stream_seed(cfg)
        dataset = trainer.data_loader.dataset
        require_domains(dataset, f"METABIN.HOOKS is {tuple(node.HOOKS)!r}", "num_domains")
        self.num_domains = dataset.num_domains
        self._num_meta_train = node.NUM_META_TRAIN
        self._inner_lr_range = (node.INNER_LR.LOW, node.INNER_LR.HIGH)
        self._period = _period(node.INNER_LR, trainer.iters_per_epoch)
        self._knows_order = False
        _check_split(self._num_meta_train, self.num_domains, node.DOMAIN)
        _check_sides(self._num_meta_train, self.num_domains, batch_size, batch_key)

    def split(self, iteration: int) -> tuple[list[int], list[int]]:
        """Meta-train and meta-test domains of an iteration (Algorithm 1, line 8)."""
        return split_domains(self.num_domains, self._num_meta_train, self.seed, iteration)

    def inner_lr(self, iteration: int) -> float:
        """beta of Eq. 9 at an iteration; the first one is a step above the low end."""
        return triangular(iteration + 1, self._period, *self._inner_lr_range)

    def check_order(self, labels: Tensor) -> None:
        """Refuse a mini-batch without equally many images of each domain, one domain by one.

        Only the first batch is looked at, for to look is to wait for the device.

        Args:
            labels: domain of each image (N,).

        Raises:
            DatasetError: the images are not in this order.
        """
        if self._knows_order:
            return
        per_domain, rest = divmod(len(labels), self.num_domains)
        expected = torch.arange(self.num_domains).repeat_interleave(per_domain)
        if rest or not torch.equal(labels.cpu(), expected):
            raise DatasetError(
                "the mini-batch for METABIN.HOOKS does not hold equally many images of each "
                "domain, in the order of the domains; draw it with DATALOADER.SAMPLER_TRAIN "
                "DomainBalancedSampler"
            )
        self._knows_order = True

    def select(self, batch: Mapping[str, Any], *sides: Collection[int]) -> list[dict[str, Any]]:
        """Rows of the domains of each side, say of meta-train and of meta-test.

        Rows are known by their place: to look for labels would be to wait for the device.

        Args:
            batch: a tensor or list of N entries for each name, in the order of the domains.
            *sides: numbers of the domains of each.

        Returns:
            The entries of these domains for each side.
        """
        selected = {name: self._rows(values, sides) for name, values in batch.items()}
        return [{name: rows[i] for name, rows in selected.items()} for i in range(len(sides))]

    def _rows(self, values: Any, sides: Collection[Collection[int]]) -> Sequence[Any]:
        size = len(values) // self.num_domains
        if not isinstance(values, Tensor):
            return [[v for d in side for v in values[d * size : (d + 1) * size]] for side in sides]
        # One copy for all sides, which are views of it.
        domains = values.split(size)
        rows = torch.cat([domains[d] for side in sides for d in side])
        return rows.split([size * len(side) for side in sides])


def mean_over_processes(tensors: Tensors) -> Tensors:
    """Mean over the processes, in one collective for all tensors.

    Args:
        tensors: the same names and shapes in each process.
    """
    if comm.get_world_size() == 1:
        return tensors
    mean = torch.cat([tensor.flatten() for tensor in tensors.values()])
    torch.distributed.all_reduce(mean)
    mean /= comm.get_world_size()
    parts = mean.split([tensor.numel() for tensor in tensors.values()])
    return {
        name: part.view_as(tensor)
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }


def _period(node: CfgNode, iters_per_epoch: int) -> int:
    """Iterations of a rise and fall of the inner step size."""
    period = round(node.PERIOD * iters_per_epoch)
    if period < 2 and node.LOW < node.HIGH:
        raise ConfigError(
            f"METABIN.INNER_LR.PERIOD is {node.PERIOD!r} epochs of {iters_per_epoch} iterations, "
            "less than 2 of them, so that the step size would stay at LOW; raise it, or set HIGH "
            "to LOW"
        )
    return max(1, period)


def _check_split(num_meta_train: int, num_domains: int, domain: str) -> None:
    if num_domains < 2:
        other = (
            "images of another camera"
            if domain == "camera"
            else 'set METABIN.DOMAIN "camera" for a single source'
        )
        raise ConfigError(
            f"METABIN.DOMAIN {domain!r}: the training data has {num_domains} domain(s), and "
            f"meta-learning needs at least 2; add a data set to DATASETS.NAMES, or {other}"
        )
    if not 1 <= num_meta_train < num_domains:
        raise ConfigError(
            f"METABIN.NUM_META_TRAIN is {num_meta_train!r} of {num_domains} domains; choose 1 to "
            f"{num_domains - 1}, so that meta-train and meta-test both have one"
        )


def _check_sides(num_meta_train: int, num_domains: int, size: int, key: str) -> None:
    per_domain = size // num_domains // comm.get_world_size()
    if min(num_meta_train, num_domains - num_meta_train) * per_domain < 2:
        raise ConfigError(
            f"{key} is {size!r}, which leaves one image in each process to meta-train or "
            "meta-test; raise it, for both need 2"
        )


class MetaLearningHook(HookBase):
    """Moves the gates after each base step, on a domain-balanced mini-batch of its own.

    With ``METABIN.EPISODE_SEPARATION`` False it moves all parameters. Domain split and inner step
    size are functions of the seed and the iteration; the state of the hook is the seed, the outer
    optimizer (plain SGD, Section 4.1), the loss scale, the number of updates that were skipped
    because of it, and the position in its own stream of batches.

    Args:
        cfg: the config with the METABIN node.
        trainer: a trainer that already has its model and data loader.

    Attributes:
        batches: stream of the hook's own batches; None where it draws the next of the trainer's,
            which are balanced alike.

    Raises:
        ConfigError: the model is no MetaBIN, its head has no ``pool_layer``, or the domains do not
            suffice for the split.
    """

    def __init__(self, cfg: CfgNode, trainer: DefaultTrainer) -> None:
        self.model: MetaBIN = trainer.network
        if not isinstance(self.model, MetaBIN):
            raise ConfigError(
                "METABIN.HOOKS has MetaLearningHook, which needs MODEL.META_ARCHITECTURE MetaBIN, "
                f"not {type(self.model).__name__}; change one of the two"
            )
        if not hasattr(self.model.heads, "pool_layer"):
            raise ConfigError(
                f"METABIN.HOOKS has MetaLearningHook, but MODEL.HEADS.NAME {cfg.MODEL.HEADS.NAME} "
                "has no pool_layer, which makes the features of its losses; derive the head from "
                "EmbeddingHead, or give what pools in it that name"
            )
        node = cfg.METABIN
        size = node.IMS_PER_BATCH or cfg.SOLVER.IMS_PER_BATCH
        self.episodes = Episodes(
            cfg, trainer, size, "METABIN.IMS_PER_BATCH (or SOLVER.IMS_PER_BATCH, where it is 0)"
        )
        self.train_losses, self.test_losses = node.META_TRAIN_LOSSES, node.META_TEST_LOSSES
        self.second_order = node.SECOND_ORDER
        self._is_random = node.INNER_DIRECTION == "random"
        self._with_meta_train = node.OUTER_LOSS == "sum"
        self._freeze_after = node.FREEZE_AFTER
        # Other views of the parameters: their .grad is the base optimizer's, or must stay None.
        self._moved = {name: p.detach() for name, p in self.model.meta_parameters.items()}
        self._gates = list(self.model.gates)
        self._outer_lr = node.OUTER_LR
        self._warms_up = node.OUTER_LR_WARMUP
        self.outer_optimizer = torch.optim.SGD(
            self._moved.values(), lr=self._outer_lr, foreach=True
        )
        self.amp, self.amp_dtype = cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE
        self.grad_scaler = (
            build_grad_scaler(self.model.device, self.amp_dtype)
            if self.amp
            else LossScaler(enabled=False)
        )
        self.skipped_steps = 0
        self._signs_period = node.GRADIENT_SIGNS_PERIOD
        self.batches: Any = _own_batches(cfg, trainer, self.episodes.seed)

    def after_step(self) -> None:
        """Run one meta-train / meta-test episode and update the gates.

        From iteration ``METABIN.FREEZE_AFTER`` on nothing is done, and no batch drawn.

        With a loss scale (float16) a gradient that is not finite skips the update, which is
        counted, and lowers the scale. The device is waited for once, before the update, and with a
        loss scale by the scaler too.

        Raises:
            NonFiniteError: a loss, or a gradient that no loss scale is to blame for, is not
                finite. The gates are as they were.
        """
        iteration = self.trainer.iter
        if 0 < self._freeze_after <= iteration:
            return
        if self._warms_up:
            for group in self.outer_optimizer.param_groups:
                group["lr"] = self.outer_lr()
        batch = self._next_batch()
        train, test = self.episodes.select(batch, *self.split(iteration))
        step = meta_step(
            self._moved,
            lambda parameters: self._losses(self.train_losses, train, parameters),
            lambda parameters: self._losses(self.test_losses, test, parameters),
            self.episodes.inner_lr(iteration),
            gates=self._gates,
            second_order=self.second_order,
            loss_scale=self._loss_scale(),
            average=mean_over_processes,
            inner_direction=self._inner_direction(iteration),
            with_meta_train=self._with_meta_train,
        )
        fault, losses, shares = read_step(step, self._gates)
        logged = dict(zip(_logged_names(step), losses, strict=True))
        signs = named_shares("all", shares)
        if fault is None:
            # At rho, which the update is about to change.
            signs |= self._signs_by_loss(train, iteration)
            self.outer_update(step.outer_gradients)
        elif fault.is_gradient and self._scale_may_be_too_high():
            self._skip_update(step)
        else:
            batch = train if fault.stage == "meta-train" else test
            raise self._error(fault, step, batch, logged)
        self._write(logged | signs, iteration)

    def split(self, iteration: int) -> tuple[list[int], list[int]]:
        """Meta-train and meta-test domains of an iteration (Algorithm 1, line 8)."""
        return self.episodes.split(iteration)

    def outer_lr(self) -> float:
        """gamma of Eq. 10 in this iteration."""
        if not self._warms_up:
            return self._outer_lr
        warmup = self.trainer.scheduler["warmup_sched"]
        factor = _get_warmup_factor_at_epoch(
            warmup.warmup_method, warmup.last_epoch, warmup.warmup_iters, warmup.warmup_factor
        )
        return self._outer_lr * factor

    def _inner_direction(self, iteration: int) -> Callable[[Tensors], Tensors] | None:
        if not self._is_random:
            return None
        return functools.partial(random_direction, seed=self.episodes.seed, iteration=iteration)

    def outer_update(self, gradients: Tensors) -> None:
        """Eq. 10: rho <- clip(rho - gamma * gradient) to [0, 1].

        Args:
            gradients: outer gradients by parameter name, times the loss scale, the same in all
                processes. With a loss scale, non-finite ones are skipped.
        """
        for name, parameter in self._moved.items():
            parameter.grad = gradients[name]
        self.grad_scaler.step(self.outer_optimizer)
        self.grad_scaler.update()
        self.outer_optimizer.zero_grad()
        clip_([self._moved[name] for name in self._gates])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside model and base optimizer."""
        return {
            "seed": self.episodes.seed,
            "outer_optimizer": self.outer_optimizer.state_dict(),
            "grad_scaler": self.grad_scaler.state_dict(),
            "skipped_steps": self.skipped_steps,
            "batches": self.batches.state_dict() if hasattr(self.batches, "state_dict") else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: it is not one; nothing has changed.
        """
        check_count(state["seed"])
        check_state(self.outer_optimizer, state["outer_optimizer"])
        check_state(self.grad_scaler, state["grad_scaler"])
        check_count(state["skipped_steps"])
        if state["batches"] is not None:
            most = most_batches(self.trainer.cfg, self.trainer.iters_per_epoch)
            check_position(state["batches"], most)
        self.episodes.seed = state["seed"]
        self.outer_optimizer.load_state_dict(state["outer_optimizer"])
        # The state has the step size of the run that saved it; this one has its own.
        for group in self.outer_optimizer.param_groups:
            group["lr"] = self._outer_lr
        self.grad_scaler.load_state_dict(state["grad_scaler"])
        self.skipped_steps = state["skipped_steps"]
        # Earlier versions kept the position in the trainer's stream here too.
        if state["batches"] is not None and self.batches is not None:
            self.batches.load_state_dict(state["batches"])

    def _loss_scale(self) -> float | Tensor:
        if not self.grad_scaler.is_enabled():
            return 1.0
        # get_scale() would wait for the device, and leave a new scaler uninitialised.
        return self.grad_scaler.scale(torch.ones((), device=self.model.device))

    def _scale_may_be_too_high(self) -> bool:
        return self.grad_scaler.is_enabled() and self.grad_scaler.get_scale() >= LOWEST_LOSS_SCALE

    def _skip_update(self, step: MetaStep) -> None:
        # Outer gradients at a rho' that an inner gradient spoilt can be finite; none may be used.
        self.outer_update({name: g * float("nan") for name, g in step.outer_gradients.items()})
        self.skipped_steps += 1

    def _error(
        self, fault: MetaFault, step: MetaStep, batch: dict[str, Tensor], logged: dict[str, float]
    ) -> NonFiniteError:
        parameters: Mapping[str, Tensor] = self._moved
        names = self.train_losses
        if fault.stage == "meta-test":
            names, parameters = self.test_losses, step.inner_parameters
        return nonfinite_error(
            self.trainer,
            Fault(fault.name(step), logged, _RATES),
            self.model,
            lambda: self._losses(names, batch, parameters),
        )

    def _signs_by_loss(self, batch: dict[str, Tensor], iteration: int) -> dict[str, float]:
        if not self._signs_period or (iteration + 1) % self._signs_period:
            return {}
        shares = sign_shares_by_loss(
            self.train_losses,
            lambda names, parameters: self._losses(names, batch, parameters),
            {name: self._moved[name] for name in self._gates},
            self._loss_scale(),
            mean_over_processes,
        )
        named = [named_shares(logged_name(name), pair) for name, pair in shares.items()]
        return {name: share for pair in named for name, share in pair.items()}

    def _next_batch(self) -> dict[str, Tensor]:
        batch = next(self.trainer.base_batches if self.batches is None else self.batches)
        device = self.model.device
        tensors = {name: batch[name].to(device) for name in ("images", "targets", "domains")}
        self.episodes.check_order(tensors["domains"])
        tensors["images"] = self.model.preprocess_image(tensors)
        return tensors

    def _losses(
        self, names: tuple[str, ...], batch: dict[str, Tensor], parameters: Mapping[str, Tensor]
    ) -> Tensors:
        device = self.model.device
        with torch.autocast(device.type, autocast_dtype(device, self.amp_dtype), enabled=self.amp):
            return self.model.meta_losses(names, batch, parameters)

    def _write(self, scalars: Mapping[str, float], iteration: int) -> None:
        storage = self.trainer.storage
        for name, value in scalars.items():
            storage.put_scalar(name, value)
        if self.grad_scaler.is_enabled():
            storage.put_scalar("meta_skipped_steps", self.skipped_steps, smoothing_hint=False)
        storage.put_scalar("inner_lr", self.episodes.inner_lr(iteration), smoothing_hint=False)
        if self._warms_up:
            storage.put_scalar("outer_lr", self.outer_lr(), smoothing_hint=False)


def _own_batches(cfg: CfgNode, trainer: DefaultTrainer, seed: int) -> Any:
    """Batches for the meta step; None where the trainer's are balanced alike."""
    size = cfg.METABIN.IMS_PER_BATCH or cfg.SOLVER.IMS_PER_BATCH
    balanced = DomainBalancedSampler.__name__ == cfg.DATALOADER.SAMPLER_TRAIN
    if balanced and size == cfg.SOLVER.IMS_PER_BATCH:
        return None
    dataset = trainer.data_loader.dataset
    sampler = DomainBalancedSampler(
        cfg,
        dataset,
        batch_size=size,
        batch_key="METABIN.IMS_PER_BATCH",
        # Another stream than that of a balanced base loader.
        seed=(seed + 1) % (LARGEST_SEED + 1),
    )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH = size
    images = dataset.with_one_view()
    return iter(loaders.build_reid_train_loader(cfg, train_set=images, sampler=sampler))


@dataclass(frozen=True)
class MetaFault:
    """The first number of a meta-learning step that is not finite.

    Attributes:
        stage: "meta-train" (at rho) or "meta-test" (at rho').
        is_gradient: whether it is a gradient with respect to the gates, not a loss.
    """

    stage: str
    is_gradient: bool

    def name(self, step: MetaStep) -> str:
        """How to call it in a sentence."""
        if not self.is_gradient:
            return f"the {self.stage} loss"
        inner = self.stage == "meta-train"
        gradients = step.inner_gradients if inner else step.outer_gradients
        # The backward pass meets the layers in reverse.
        gate = next(reversed(nonfinite_names(gradients)), "a gate")
        return f"the {self.stage} gradient of {gate}"


# In the order in which they are computed: what follows the first fault may be its consequence.
_IN_ORDER = (
    MetaFault("meta-train", is_gradient=False),
    MetaFault("meta-train", is_gradient=True),
    MetaFault("meta-test", is_gradient=False),
    MetaFault("meta-test", is_gradient=True),
)


class StepNumbers(NamedTuple):
    """What is read of a step.

    Attributes:
        fault: the first fault in any of the processes, the same in all; None if it is sound.
        losses: this process's losses, those of meta-train and then those of meta-test.
        shares: of gates with a positive and with a negative gradient of L_mtr.
    """

    fault: MetaFault | None
    losses: list[float]
    shares: list[float]


def read_step(step: MetaStep, gates: Collection[str]) -> StepNumbers:
    """Read from the device what the rest of the iteration needs to know, in one transfer.

    Args:
        step: what the step computed.
        gates: names of the gates among its parameters.
    """
    computed: tuple[Mapping[str, Tensor], ...] = (
        step.meta_train_losses,
        step.inner_gradients,
        step.meta_test_losses,
        step.outer_gradients,
    )
    largest = largest_magnitudes([tensor for stage in computed for tensor in stage.values()])
    shares = sign_shares({name: step.inner_gradients[name] for name in gates})
    losses = [*step.meta_train_losses.values(), *step.meta_test_losses.values()]
    numbers = iter(torch.stack([*largest, *shares, *losses]).tolist())
    faults = [
        fault
        for fault, stage in zip(_IN_ORDER, computed, strict=True)
        if not all([math.isfinite(next(numbers)) for _ in stage])
    ]
    read_shares = [next(numbers) for _ in SIGNS]
    return StepNumbers(faults[0] if faults else None, [*numbers], read_shares)


def _logged_names(step: MetaStep) -> list[str]:
    """Names in the log of a step's losses, in the order in which they are read."""
    stages = (("mtrain", step.meta_train_losses), ("mtest", step.meta_test_losses))
    return [f"{stage}_loss_{logged_name(name)}" for stage, losses in stages for name in losses]


def named_shares(name: str, shares: Collection[float]) -> dict[str, float]:
    """Shares by the names that they have in the log."""
    return {
        f"inner_gradient_{sign}/{name}": share for sign, share in zip(SIGNS, shares, strict=True)
    }
