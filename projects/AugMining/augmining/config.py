"""The keys of the AUGMINING config node."""

from __future__ import annotations

from fastreid.config import CfgNode

from augmining.augmentations import AUGMENTATIONS
from metabin_plugin.config.table import Count, Key, Names, Number, add_keys

KEYS = (
    Key(
        "AUGMINING.HARD_FRACTION",
        0.25,
        Number(0, 1),
        comment="Share of a mini-batch that is hard: the images whose identity the classifier "
        "finds least probable, rounded to whole images. 0.0 trains as Baseline does.",
    ),
    Key(
        "AUGMINING.AUGMENTATIONS",
        tuple(AUGMENTATIONS),
        Names(
            AUGMENTATIONS,
            needs_one=True,
            otherwise="set AUGMINING.HARD_FRACTION 0.0 to train without",
        ),
        comment="Kinds of augmentation; each makes one copy of every hard image "
        "(augmentations.py says how strong they are).",
    ),
    Key(
        "AUGMINING.MAX_RANK",
        10,
        Count(1),
        comment="A copy is excessively augmented, and dropped, when its identity is not among the "
        "so many that the classifier finds most probable.",
    ),
)


def add_augmining_config(cfg: CfgNode) -> None:
    """Add the ``AUGMINING`` node; keys that are already there keep their values.

    Args:
        cfg: a fastreid config, not frozen.
    """
    add_keys(cfg, KEYS)
