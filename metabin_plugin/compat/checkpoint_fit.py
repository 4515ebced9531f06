"""Whether a checkpoint holds a network's state, and in what it differs from a given network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastreid.utils.checkpoint import _filter_reused_missing_keys
from torch import Tensor, nn

from metabin_plugin.errors import WeightsError
from metabin_plugin.text import shown

# Before every name of a network that was saved inside a data-parallel wrapper.
_WRAPPER = "module."
# Last part of the names that batch-instance normalization adds to those of batch normalization.
_BIN_ONLY = ("gate", "instance_weight", "instance_bias")
# A counter without use at fixed momentum, which files older than PyTorch 0.4.1 do not have.
_OPTIONAL = "num_batches_tracked"
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Misfit:
    """Parameters and buffers in which a checkpoint and a network differ.

    Attributes:
        missing: names that only the network has.
        surplus: names that only the checkpoint has.
        shapes: names of different shape, with both.
        none_fits: whether they have no name in common at the same shape.
    """

    missing: Sequence[str]
    surplus: Sequence[str]
    shapes: Sequence[str]
    none_fits: bool

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus or self.shapes)

    def __str__(self) -> str:
        parts = [
            _counted(self.missing, "missing from it"),
            _counted(self.surplus, "unknown to the network"),
            _counted(self.shapes, "of another shape"),
        ]
        return "; ".join([*filter(None, parts), *filter(None, [self._cause()])])

    def _cause(self) -> str:
        if self.missing and _all_bin_only(self.missing):
            return (
                "what is missing are gates and instance parameters: it is of a network with "
                "another MODEL.BACKBONE.NORM than this one's batch-instance normalization"
            )
        if self.surplus and _all_bin_only(self.surplus):
            return (
                "what is unknown are gates and instance parameters: it is of a network with batch-"
                "instance normalization, which MODEL.BACKBONE.NORM is not"
            )
        return ""


def network_state(checkpoint: Any, path: str) -> dict[str, Any]:
    """The state dict of the network in a checkpoint.

    Args:
        checkpoint: content of the file.
        path: the file, for the message.

    Returns:
        Parameter or buffer name to tensor; without the prefix of a data-parallel wrapper.

    Raises:
        WeightsError: there is none, or it holds something else than tensors.
    """
    state = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise WeightsError(
            f"{path} is not a checkpoint: it has no entry 'model' with a state dict; save "
            "{'model': network.state_dict()} by torch.save"
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path}: entry {shown(repr(name))} of 'model' is a {type(value).__name__}, where "
                "only tensors can be; save network.state_dict()"
            )
    if all(name.startswith(_WRAPPER) for name in state):
        return {name.removeprefix(_WRAPPER): value for name, value in state.items()}
    return state


def find_misfit(model: nn.Module, state: Mapping[str, Any]) -> Misfit:
    """Compare the names and shapes of a state dict with those of a network.

    Parameters that are empty in the network, as the classifier of one built for evaluation is,
    take nothing and fit any shape. Of a parameter with several names, one is enough.

    Args:
        model: the network.
        state: parameter or buffer name to tensor.

    Returns:
        The differences; false where there are none.
    """
    own = model.state_dict()
    taking = {
        name: value
        for name, value in own.items()
        if isinstance(value, Tensor) and value.numel() > 0
    }
    missing = [name for name in taking if name not in state and not name.endswith(_OPTIONAL)]
    needed = set(_filter_reused_missing_keys(model, missing))
    both = [name for name in taking if name in state]
    fitting = [name for name in both if tuple(taking[name].shape) == tuple(state[name].shape)]
    return Misfit(
        missing=[name for name in missing if name in needed],
        surplus=[name for name in state if name not in own],
        shapes=[
            f"{name} {tuple(state[name].shape)} there, {tuple(taking[name].shape)} here"
            for name in both
            if name not in set(fitting)
        ],
        none_fits=bool(taking) and not fitting,
    )


def _all_bin_only(names: Sequence[str]) -> bool:
    return all(name.rpartition(".")[2] in _BIN_ONLY for name in names)


def _counted(entries: Sequence[str], what: str) -> str:
    if not entries:
        return ""
    first = ", ".join(map(shown, entries[:_NAMES_SHOWN]))
    rest = f", and {len(entries) - _NAMES_SHOWN} more" if len(entries) > _NAMES_SHOWN else ""
    return f"{len(entries)} {what} ({first}{rest})"
