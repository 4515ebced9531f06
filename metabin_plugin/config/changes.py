"""What a resumed run's config has otherwise than its checkpoint's, and what becomes of it.

A checkpoint holds what a run has learnt and where it stands. How it goes on is for its config to
say, so a changed key takes effect, unless what the checkpoint holds would then be of another run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fastreid.config import CfgNode
from fastreid.solver import build
from torch import nn

from metabin_plugin.config.reading import flat, read_yaml
from metabin_plugin.errors import ConfigError, WeightsError
from metabin_plugin.files import reason
from metabin_plugin.text import shown

_ABSENT = "(absent)"
# Keys, and nodes with a dot behind, of which a checkpoint holds what they made.
_NETWORK = ("MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.", "MODEL.HEADS.", "MODEL.QUEUE_SIZE", "KD.")
_BATCHES = (
    *("DATASETS.NAMES", "DATASETS.COMBINEALL", "DATALOADER.", "METABIN.DOMAIN", "METABIN.SEED"),
    *("SOLVER.IMS_PER_BATCH", "METABIN.IMS_PER_BATCH"),
)
_STATES = (
    *("METABIN.ITERS_PER_EPOCH", "METABIN.FIRST_BASE_UPDATES", "METABIN.HOOKS"),
    "METABIN.BASE_LOSSES",
    *("METABIN.EPISODE_SEPARATION", "MODEL.FREEZE_LAYERS", "SOLVER.FREEZE_ITERS", "SOLVER.OPT"),
    "METABIN.AVERAGE.",
)
_FIXED = (*_NETWORK, *_BATCHES, *_STATES)
# Exceptions to these. No checkpoint holds a teacher's weights, which are read at every start.
_FREE = ("DATALOADER.NUM_WORKERS", "KD.MODEL_WEIGHTS")
# Only looked at where a run begins.
_WEIGHTS = (
    *("MODEL.WEIGHTS", "MODEL.BACKBONE.PRETRAIN", "MODEL.BACKBONE.PRETRAIN_PATH"),
    "METABIN.PARTIAL_WEIGHTS",
)
# Settings that optimizer and schedules keep in their own states.
_SCHEDULE = ("SOLVER.", "METABIN.STEPS_COUNT_WARMUP")
_NO_SCHEDULE = ("SOLVER.CHECKPOINT_", "SOLVER.AMP.", "SOLVER.CLIP_GRADIENTS.")
# By whose values the optimizer groups the parameters.
_GROUPING = (
    *("SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS"),
    *("SOLVER.BIAS_LR_FACTOR", "SOLVER.HEADS_LR_FACTOR"),
)
# On what the metric of model_best depends.
_METRIC = (
    *("DATASETS.TESTS", "INPUT.SIZE_TEST"),
    *("TEST.METRIC", "TEST.FLIP.", "TEST.AQE.", "TEST.RERANK."),
)


class Outcome(Enum):
    """What becomes of a changed key."""

    TAKES_EFFECT = "takes effect"
    UNUSED = "not used: the weights are the checkpoint's"
    REFUSED = "refused"


@dataclass(frozen=True)
class Change:
    """A key that differs.

    Attributes:
        key: its full name.
        then: its value in the checkpoint's config; None where there was no such key.
        now: its value in the run's.
    """

    key: str
    then: Any
    now: Any

    def __str__(self) -> str:
        then, now = (
            _ABSENT if value is None else shown(str(value)) for value in (self.then, self.now)
        )
        return f"{shown(self.key)}: {then} -> {now}"

    @property
    def outcome(self) -> Outcome:
        """What becomes of it when a run resumes."""
        if _is_one_of(self.key, _WEIGHTS):
            return Outcome.UNUSED
        is_fixed = _is_one_of(self.key, _FIXED) and not _is_one_of(self.key, _FREE)
        # A key that one of the two versions of the plugin does not have cannot have been changed.
        if is_fixed and None not in (self.then, self.now) and not self._has_moved():
            return Outcome.REFUSED
        return Outcome.TAKES_EFFECT

    @property
    def is_of_schedule(self) -> bool:
        """Whether optimizer or schedules keep the value in their states."""
        return _is_one_of(self.key, _SCHEDULE) and not self.key.startswith(_NO_SCHEDULE)

    @property
    def is_of_groups(self) -> bool:
        """Whether the optimizer groups parameters by the value."""
        return self.key in _GROUPING

    @property
    def is_of_metric(self) -> bool:
        """Whether metrics before and after it cannot be compared."""
        return _is_one_of(self.key, _METRIC)

    def _has_moved(self) -> bool:
        """Whether the same files of data are in another folder."""
        if self.key != "DATASETS.NAMES":
            return False
        return [*map(_without_folder, self.then)] == [*map(_without_folder, self.now)]


def config_changes(saved: str, cfg: CfgNode) -> list[Change]:
    """Compare the config of a checkpoint with that of the run that resumes from it.

    Args:
        saved: the checkpoint's config, as ``CfgNode.dump`` wrote it.
        cfg: the config of the run.

    Returns:
        The keys that differ, in the order of their names.

    Raises:
        ValueError: what was saved cannot be read.
    """
    then, now = flat(read_yaml(saved)), flat(read_yaml(cfg.dump()))
    return [
        Change(key, then.get(key), now.get(key))
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]


def refuse_another_run(saved: str, cfg: CfgNode, network: nn.Module, source: str) -> None:
    """Refuse to resume where what a checkpoint holds cannot be gone on with.

    Args:
        saved: the checkpoint's config, as ``CfgNode.dump`` wrote it.
        cfg: the config of the run.
        network: the run's network.
        source: name of the checkpoint, for the sentence.

    Raises:
        ConfigError: a key has changed that cannot; the sentence names all such keys.
        WeightsError: what was saved is no config.
    """
    try:
        changes = config_changes(saved, cfg)
        for change in changes:
            # With this one the state of the schedules is counted on.
            if change.key == "SOLVER.WARMUP_ITERS" and type(change.then) is not int:
                raise ValueError(f"{change.key} is {shown(repr(change.then))}")
        refused = [change for change in changes if change.outcome is Outcome.REFUSED]
        has_other_groups = _groups(cfg, network) != _groups(_before(changes, cfg), network)
    # A file from elsewhere can have anything in the place of a value.
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{source}: the config in it cannot be read ({reason(error)}); resume from another "
            "checkpoint, or begin a run with this one as MODEL.WEIGHTS in another OUTPUT_DIR"
        ) from error
    why = "which is of another run"
    if not refused and has_other_groups:
        refused = [change for change in changes if change.is_of_groups]
        why = (
            "whose optimizer would have other groups of parameters with one step size and weight "
            "decay"
        )
    if refused:
        raise ConfigError(
            f"--resume goes on from {source}, {why}: {', '.join(map(str, refused))}; set that "
            "back, or begin a run of its own from these weights: give another OUTPUT_DIR, and the "
            "checkpoint as MODEL.WEIGHTS"
        )


def _before(changes: Sequence[Change], cfg: CfgNode) -> CfgNode:
    """The config with the former values of what parameters are grouped by."""
    cfg = cfg.clone()
    cfg.defrost()
    for change in changes:
        if change.is_of_groups and change.then is not None:
            cfg.SOLVER[change.key.removeprefix("SOLVER.")] = change.then
    return cfg


def _groups(cfg: CfgNode, network: nn.Module) -> list[int]:
    """Number of the group of each parameter, in the optimizer that fastreid would build."""
    solver = cfg.SOLVER
    parameters = build.get_default_optimizer_params(
        network,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        heads_lr_factor=solver.HEADS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    settings = [(parameter["lr"], parameter["weight_decay"]) for parameter in parameters]
    numbers = {setting: number for number, setting in enumerate(dict.fromkeys(settings))}
    return [numbers[setting] for setting in settings]


def _is_one_of(key: str, names: Sequence[str]) -> bool:
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in names)


def _without_folder(name: str) -> str:
    return os.path.basename(name) if name.lower().endswith(".csv") else name
