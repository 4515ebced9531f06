"""fastreid's ``Checkpointer`` that neither loses work nor loads what is broken or does not fit."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from fastreid.utils.checkpoint import Checkpointer, _filter_reused_missing_keys
from torch import Tensor, nn

from metabin_plugin.compat.patching import patch
from metabin_plugin.errors import CheckpointError, WeightsError
from metabin_plugin.files import is_file_name, reason, replace_file, system_error
from metabin_plugin.text import shown
from metabin_plugin.weights.checkpoint_states import check_state
from metabin_plugin.weights.files import missing_entries, read_weight_file, unreadable_values

# The file that names the checkpoint to resume from.
TAG = "last_checkpoint"
_FAULTS_SHOWN = 3
_MOST_EPOCHS = 2**31
# What load_state_dict of optimizers, schedules and hooks raises when a state is not theirs.
_MISFITS = (LookupError, ValueError, TypeError, AttributeError, RuntimeError)
# Before every name of a network that was saved inside a data-parallel wrapper.
_WRAPPER = "module."
# Last part of the names that batch-instance normalization adds to those of batch normalization.
_BIN_ONLY = ("gate", "instance_weight", "instance_bias")
# A counter without use at fixed momentum, which files older than PyTorch 0.4.1 do not have.
_OPTIONAL = "num_batches_tracked"
_NAMES_SHOWN = 3


def has_tag(folder: str) -> bool:
    """Whether a folder names the checkpoint to resume from.

    Args:
        folder: the run's folder.
    """
    return os.path.isfile(os.path.join(folder, TAG))


def read_tag(folder: str) -> str:
    """File name of the checkpoint to resume from; "" if the folder names none.

    Args:
        folder: the run's folder.
    """
    try:
        with open(os.path.join(folder, TAG), encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def newest_whole(folder: str, parts: Iterable[str]) -> str | None:
    """The newest checkpoint in a folder that is intact and has all parts.

    Args:
        folder: where to look; none is found in one that is not there.
        parts: entries that the checkpoint must have.

    Returns:
        Its file name; None if there is none.
    """
    needed = list(parts)
    return next((name for name in checkpoints(folder) if not _fault(folder, name, needed)), None)


def checkpoints(folder: str) -> list[str]:
    """The names of all files of checkpoints in a folder, damaged ones too, the newest first.

    Args:
        folder: where to look; there are none in one that is not there.
    """
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        files = [entry for entry in entries if entry.name.endswith(".pth")]
    files.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns, reverse=True)
    return [entry.name for entry in files]


def faults(folder: str, parts: Iterable[str]) -> str:
    """Why none of the checkpoints in a folder can be resumed from.

    Args:
        folder: the run's folder, which has such files.
        parts: entries that a checkpoint must have.

    Returns:
        Part of a sentence that says it of the newest ones.
    """
    needed, names = list(parts), checkpoints(folder)
    found = [_fault(folder, name, needed) or f"{name} is intact" for name in names[:_FAULTS_SHOWN]]
    rest = len(names) - len(found)
    return ", ".join([*found, *([f"and {rest} more"] if rest else [])])


def advice(folder: str, parts: Iterable[str]) -> str:
    """What to do when the checkpoint to load is of no use.

    Args:
        folder: where to look for another.
        parts: entries that it must have.

    Returns:
        Part of a sentence that names the newest whole checkpoint.
    """
    newest = newest_whole(folder or os.curdir, parts)
    if newest is None:
        return "there is no intact checkpoint beside it"
    return (
        f"the newest intact checkpoint beside it is {shown(newest)}: write that name into {TAG}, "
        "or give its path as MODEL.WEIGHTS"
    )


def _fault(folder: str, name: str, parts: Sequence[str]) -> str | None:
    """What is wrong with a checkpoint, in words; None for a whole one."""
    path = os.path.join(folder, name)
    # First, as a folder may hold many large files of other weights.
    missing = missing_entries(path, parts)
    if missing:
        return f"{shown(name)} has no state of {', '.join(missing)}"
    try:
        content = read_weight_file(path, with_checksums=True)
    except WeightsError:
        return f"{shown(name)} is damaged or not a checkpoint"
    return None if isinstance(content, dict) else f"{shown(name)} is not a checkpoint"


@patch(
    "fastreid.utils.checkpoint:Checkpointer",
    fault="It loses the last checkpoint when it is killed while it writes the next one. It loads "
    "damaged files and misfits without an error, and not the NumPy values that its own checkpoints "
    "hold.",
    unless=None,
)
class SafeCheckpointer(Checkpointer):
    """``Checkpointer`` with the same files, names and calls.

    A checkpoint is complete or not there at all, whenever the process is killed. It is verified
    before it is used, refused when it does not fit, and none of it is executed. The folder must be
    a local one; paths to load may be all that fastreid's ``PathManager`` knows.

    Attributes:
        partial: load what fits of a checkpoint that does not fit the network, and log the rest.
    """

    partial: bool = False

    def save(self, name: str, *, tag_last: bool = True, **extra: Any) -> None:
        """Write ``<name>.pth`` with the states of the network and the checkpointables.

        Args:
            name: file name without its ending.
            tag_last: whether to resume from this checkpoint.
            **extra: further entries, of what ``read_weight_file`` reads.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written, or a state holds what
                could not be read again; the checkpoint before this one is as it was.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: holder.state_dict() for key, holder in self.checkpointables.items()}
        # fastreid's metrics are NumPy's.
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in extra.items()}
        data = {"model": self.model.state_dict(), **states, **plain}
        path = os.path.join(self.save_dir, f"{name}.pth")
        refused = unreadable_values(data)
        if refused:
            raise CheckpointError(
                f"{path} would hold {', '.join(refused)}, which is refused when a checkpoint is "
                "read; let every state_dict have only tensors, numbers, strings, lists and dicts"
            )
        self.logger.info("Saving checkpoint to %s", path)
        self._write(f"{name}.pth", lambda file: torch.save(data, file))
        if tag_last:
            self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make a checkpoint the one to resume from.

        Args:
            last_filename_basename: its file name.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written.
        """
        self._write(TAG, lambda file: file.write(last_filename_basename.encode()))

    def load(
        self,
        path: str,
        checkpointables: Iterable[str] | None = None,
        check: Callable[[dict[str, Any]], object] | None = None,
    ) -> Any:
        """Load a checkpoint, or nothing of it where any part is damaged or does not fit.

        Args:
            path: file or URL; "" loads nothing.
            checkpointables: names of those whose states to load; None for all.
            check: what is called with the whole content before any of it is applied, and raises
                what is wrong with it.

        Returns:
            The entries that are neither the network's nor of ``checkpointables``.

        Raises:
            WeightsError: the file is missing, damaged, not a checkpoint, would run code, or does
                not fit the network (unless ``partial``) or the checkpointables. With states to
                load, so is one in the format before PyTorch 1.6, which has no checksums.
        """
        if not path:
            return super().load(path)
        self.logger.info("Loading checkpoint from %s", path)
        local = path if os.path.isfile(path) else self.path_manager.get_local_path(path)
        names = list(self.checkpointables if checkpointables is None else checkpointables)
        checkpoint = self._read(local, with_checksums=bool(names))
        state = network_state(checkpoint, path)
        # First, as other training data are why a network does not fit.
        if check is not None:
            check(checkpoint)
        self._check_model(state, path)
        for name in names:
            if name in checkpoint:
                with _explained(name, path):
                    check_state(self.checkpointables[name], checkpoint[name])
        epoch = checkpoint.get("epoch", -1)
        # fastreid's own trainers count on from it.
        if names and (type(epoch) is not int or not -1 <= epoch < _MOST_EPOCHS):
            raise WeightsError(
                f"{path} has {shown(repr(epoch))} as its epoch, where a whole number from -1 is; "
                "resume from another checkpoint, or start anew from this one as MODEL.WEIGHTS"
            )
        # First, as these may still refuse; the network's part was checked.
        self._load_checkpointables(checkpoint, names, path)
        incompatible = self._load_model(checkpoint)
        if self.partial:
            self._log_incompatible_keys(incompatible)
        return checkpoint

    def has_checkpoint(self) -> bool:
        """Whether the folder has checkpoints, damaged ones too."""
        return has_tag(self.save_dir) or bool(checkpoints(self.save_dir))

    def get_checkpoint_file(self) -> str:
        """Path of the checkpoint to resume from, "" if the folder has no file of one.

        It is the one named in ``last_checkpoint``. A run that was killed before it wrote that file
        has the newest intact checkpoint taken that has the states of all its parts.

        Raises:
            WeightsError: ``last_checkpoint`` is empty or names a file that is not in the folder; or
                it is missing, and no checkpoint of the folder can be taken.
        """
        if not has_tag(self.save_dir):
            newest = newest_whole(self.save_dir, self._parts)
            if newest is None and not checkpoints(self.save_dir):
                self.logger.info("%s has no checkpoint to go on from", self.save_dir)
                return ""
            if newest is None:
                raise WeightsError(
                    f"{self.save_dir} has no checkpoint to resume from: "
                    f"{faults(self.save_dir, self._parts)}; write the name of one that is intact "
                    f"into {TAG} to go on without what it lacks, or start anew without --resume in "
                    "another OUTPUT_DIR"
                )
            self.logger.info("%s has no %s: taking %s", self.save_dir, TAG, newest)
            return os.path.join(self.save_dir, newest)
        tagged = read_tag(self.save_dir)
        path = os.path.join(self.save_dir, tagged)
        # A path could lead to any file of the machine.
        if not is_file_name(tagged) or not os.path.isfile(path):
            says = f"names {shown(tagged)}, which is not there" if tagged else "is empty"
            raise WeightsError(
                f"{os.path.join(self.save_dir, TAG)} {says}; {advice(self.save_dir, self._parts)}"
            )
        return path

    @property
    def _parts(self) -> list[str]:
        return ["model", *self.checkpointables]

    def _write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        path = os.path.join(self.save_dir, name)
        try:
            replace_file(path, write)
        except (OSError, RuntimeError) as error:
            # torch.save wraps the error of the file it writes to; a GPU's errors are no file's.
            if system_error(error) is None:
                raise
            before = read_tag(self.save_dir)
            earlier = (
                f"the checkpoint before it, {before}, is intact"
                if before
                else "there is no earlier one"
            )
            raise CheckpointError(
                f"{path} cannot be written ({reason(error)}); {earlier}; free space or make the "
                "folder writable, then go on with --resume"
            ) from error

    def _read(self, path: str, with_checksums: bool) -> Any:
        if not os.path.isfile(path):
            raise WeightsError(f"checkpoint {path} is not there; give the path of a .pth file")
        try:
            return read_weight_file(path, with_checksums=with_checksums)
        except WeightsError as error:
            beside = advice(os.path.dirname(path), self._parts)
            raise WeightsError(f"{error}; {beside}") from error

    def _check_model(self, state: Mapping[str, Any], path: str) -> None:
        misfit = find_misfit(self.model, state)
        if misfit.none_fits or (misfit and not self.partial):
            remedy = (
                "give a checkpoint of this network"
                if misfit.none_fits
                else "give the config that it was trained with, or set METABIN.PARTIAL_WEIGHTS "
                "True to start from what fits"
            )
            raise WeightsError(f"{path} does not fit the network: {misfit}; {remedy}")

    def _load_checkpointables(
        self, checkpoint: dict[str, Any], names: Iterable[str], path: str
    ) -> None:
        before: dict[str, Any] = {}
        for name in names:
            if name not in checkpoint:
                self.logger.warning("%s has no state of %s, which starts anew", path, name)
                continue
            self.logger.info("Loading %s from %s", name, path)
            before[name] = copy.deepcopy(self.checkpointables[name].state_dict())
            try:
                with _explained(name, path):
                    self.checkpointables[name].load_state_dict(checkpoint[name])
            except Exception:
                self._undo(before)
                raise
        for name in before:
            del checkpoint[name]

    def _undo(self, before: Mapping[str, Any]) -> None:
        for name, state in before.items():
            self.checkpointables[name].load_state_dict(state)


@contextmanager
def _explained(name: str, path: str) -> Iterator[None]:
    """A block whose exceptions say that a part's state does not fit; sentences are kept."""
    try:
        yield
    except _MISFITS as error:
        raise WeightsError(
            f"{path}: the state of {name} does not fit this run ({shown(reason(error))}); resume "
            "with the config that it was made with, or start anew with MODEL.WEIGHTS"
        ) from error


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
    return without_wrapper(state)


def without_wrapper(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict without the prefix that the wrapper of a data-parallel network gives all names.

    Args:
        state: by name; it is returned as it is where not all names have the prefix.
    """
    if all(name.startswith(_WRAPPER) for name in state):
        return {name.removeprefix(_WRAPPER): value for name, value in state.items()}
    return state


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
