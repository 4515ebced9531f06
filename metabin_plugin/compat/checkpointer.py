"""fastreid's ``Checkpointer`` that neither loses work nor loads what is broken or does not fit."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import torch
from fastreid.utils.checkpoint import Checkpointer

from metabin_plugin.compat.checkpoint_fit import find_misfit, network_state
from metabin_plugin.compat.checkpoint_folder import TAG, advice, has_tag, newest_whole, read_tag
from metabin_plugin.errors import CheckpointError, WeightsError
from metabin_plugin.files import is_file_name, reason, replace_file
from metabin_plugin.text import shown
from metabin_plugin.weight_files import (
    check_intact,
    unpickle,
    unreadable_globals,
)

# What load_state_dict of optimizers, schedules and hooks raises when a state is not theirs.
_MISFITS = (LookupError, ValueError, TypeError, AttributeError, RuntimeError)


class SafeCheckpointer(Checkpointer):
    """``Checkpointer`` with the same files, names and calls.

    A checkpoint is complete or not there at all, whenever the process is killed. It is verified
    before it is used, refused when it does not fit, and none of it is executed. The folder must be
    a local one; paths to load may be all that fastreid's ``PathManager`` knows.

    Attributes:
        partial: load what fits of a checkpoint that does not fit the network, and log the rest.
        examine: called with the entries of a checkpoint before any of them is loaded.
    """

    partial: bool = False
    examine: Callable[[Mapping[str, Any]], None] | None = None

    def save(self, name: str, *, tag_last: bool = True, **extra: Any) -> None:
        """Write ``<name>.pth`` with the states of the network and the checkpointables.

        Args:
            name: file name without its ending.
            tag_last: whether to resume from this checkpoint.
            **extra: further entries, of what ``torch.load(weights_only=True)`` reads.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written; the checkpoint
                before this one is as it was.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: holder.state_dict() for key, holder in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **extra}
        self.logger.info("Saving checkpoint to %s", os.path.join(self.save_dir, f"{name}.pth"))
        self._write(f"{name}.pth", lambda file: _dump(data, file))
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

    def load(self, path: str, checkpointables: Iterable[str] | None = None) -> Any:
        """Load a checkpoint, or nothing of it where any part is damaged or does not fit.

        Args:
            path: file or URL; "" loads nothing.
            checkpointables: names of those whose states to load; None for all.

        Returns:
            The entries that are neither the network's nor of ``checkpointables``.

        Raises:
            WeightsError: the file is missing, damaged, no checkpoint, would run code, or does not
                fit the network (unless ``partial``) or the checkpointables.
        """
        if not path:
            return super().load(path)
        self.logger.info("Loading checkpoint from %s", path)
        local = path if os.path.isfile(path) else self.path_manager.get_local_path(path)
        self._check_intact(local)
        checkpoint = self._load_file(local)
        if self.examine is not None and isinstance(checkpoint, Mapping):
            self.examine(checkpoint)
        self._check_model(checkpoint, path)
        names = list(self.checkpointables if checkpointables is None else checkpointables)
        # First, as these may still refuse; the network's part was checked.
        self._load_checkpointables(checkpoint, names, path)
        incompatible = self._load_model(checkpoint)
        if self.partial:
            self._log_incompatible_keys(incompatible)
        return checkpoint

    def has_checkpoint(self) -> bool:
        """Whether the folder has a checkpoint to resume from."""
        return has_tag(self.save_dir) or newest_whole(self.save_dir, self._parts) is not None

    def get_checkpoint_file(self) -> str:
        """Path of the checkpoint to resume from, "" if there is none.

        It is the one named in ``last_checkpoint``. A run that was killed before it wrote that file
        has the newest intact checkpoint taken.

        Raises:
            WeightsError: ``last_checkpoint`` is empty, or names a file that is not in the folder.
        """
        if not has_tag(self.save_dir):
            newest = newest_whole(self.save_dir, self._parts)
            if newest is None:
                return ""
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

    def _load_file(self, f: str) -> Any:
        return unpickle(f)

    def _write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        path = os.path.join(self.save_dir, name)
        try:
            replace_file(path, write)
        # torch.save can wrap the error of the file it writes to.
        except (OSError, RuntimeError) as error:
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

    def _check_intact(self, path: str) -> None:
        if not os.path.isfile(path):
            raise WeightsError(f"checkpoint {path} is not there; give the path of a .pth file")
        try:
            check_intact(path)
        except WeightsError as error:
            beside = advice(os.path.dirname(path), self._parts)
            raise WeightsError(f"{error}; {beside}") from error

    def _check_model(self, checkpoint: Any, path: str) -> None:
        misfit = find_misfit(self.model, network_state(checkpoint, path))
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
                self.checkpointables[name].load_state_dict(checkpoint[name])
            except Exception as error:
                self._undo(before)
                if not isinstance(error, _MISFITS):
                    raise
                raise WeightsError(
                    f"{path}: the state of {name} does not fit this run ({reason(error)}); resume "
                    "with the config that it was made with, or start anew with MODEL.WEIGHTS"
                ) from error
        for name in before:
            del checkpoint[name]

    def _undo(self, before: Mapping[str, Any]) -> None:
        for name, state in before.items():
            self.checkpointables[name].load_state_dict(state)


def _dump(data: Mapping[str, Any], file: BinaryIO) -> None:
    torch.save(data, file)
    refused = unreadable_globals(file.name)
    if refused:
        raise CheckpointError(
            f"{file.name.removesuffix('.partial')} would hold Python objects "
            f"({', '.join(refused)}), which are refused when a checkpoint is read; let every "
            "state_dict have only tensors, numbers, strings, lists and dicts"
        )
