"""Averaged weights: an exponential moving average of a network, which is what a run hands on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.engine.train_loop import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from metabin_plugin.engine.checkpoint_schema import check_count
from metabin_plugin.errors import ConfigError
from metabin_plugin.norm import gate_parameters
from metabin_plugin.weights.checkpointer import find_misfit


def decay_at(update: int, largest: float) -> float:
    """Decay of an exponential moving average, warmed up: min(largest, (1 + n) / (10 + n)).

    The average thus spans about a ninth of what was trained so far, until ``largest`` ends its
    growth: a short training has one too, and nothing of the weights that it began with is left.
    The rule is that of TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``.

    Args:
        update: number n of the update, from 0.
        largest: the decay of a long training, in [0, 1).

    Returns:
        In [0, ``largest``].
    """
    return min(largest, (1 + update) / (10 + update))


class WeightAverage(HookBase):
    """Follows a network that is trained, with a second one that holds averages of its values.

    After each iteration an averaged value moves to ``decay * own + (1 - decay) * trained``, and a
    value that is not averaged is copied: whole numbers, and with ``METABIN.AVERAGE.OF`` "gates" all
    but the gates. Running statistics are averaged as weights are. All processes hold the same
    averages, except of running statistics that are each process's own.

    The averaged network is what is evaluated, and what is saved as a checkpoint's ``model``. Its
    ``state_dict`` is the other half of a checkpoint: the network that training goes on with.

    Args:
        cfg: the config with the METABIN node.
        network: the network that is trained, not wrapped for several processes.

    Attributes:
        network: the averaged one, a copy whose forward passes are neither compiled nor recorded.

    Raises:
        ConfigError: gates are to be averaged, and there are none.
    """

    def __init__(self, cfg: CfgNode, network: nn.Module) -> None:
        self._trained, self.network = network, copy.deepcopy(network)
        self._decay, self._updates = cfg.METABIN.AVERAGE.DECAY, 0
        self._gates = frozenset(gate_parameters(network))
        self._of_gates = cfg.METABIN.AVERAGE.OF == "gates"
        if self._of_gates and not self._gates:
            raise ConfigError(
                "METABIN.AVERAGE.OF is 'gates', but the network has none; set it to all, or "
                'MODEL.BACKBONE.NORM "BIN"'
            )

    def after_step(self) -> None:
        """Move the averages: two operators, however many values there are."""
        trained, own = _values(self._trained), _values(self.network)
        averaged = [name for name, value in own.items() if self._is_averaged(name, value)]
        copied = [name for name in own if name not in set(averaged)]
        decay = decay_at(self._updates, self._decay)
        get_ema_multi_avg_fn(decay)([own[n] for n in averaged], [trained[n] for n in averaged], 0)
        if copied:
            torch._foreach_copy_([own[n] for n in copied], [trained[n] for n in copied])
        self._updates += 1

    def start_from_average(self) -> None:
        """Let the trained network begin with the averaged one's values, which were just loaded."""
        self._trained.load_state_dict(self.network.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The trained network, and how often the averages have moved."""
        return {"updates": self._updates, "model": self._trained.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``; the averages are the checkpoint's ``model``.

        Raises:
            ValueError: it is not one; nothing has changed.
        """
        check_count(state["updates"])
        model = state["model"]
        if not isinstance(model, dict) or not all(isinstance(v, Tensor) for v in model.values()):
            raise ValueError("model is not a state dict")
        misfit = find_misfit(self._trained, model)
        if misfit:
            raise ValueError(f"model does not fit the network: {misfit}")
        self._trained.load_state_dict(model)
        self._updates = state["updates"]

    def _is_averaged(self, name: str, value: Tensor) -> bool:
        return value.is_floating_point() and (name in self._gates or not self._of_gates)


def _values(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once, as they are now."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: tensor.detach() for name, tensor in tensors.items()}
