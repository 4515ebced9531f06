"""The AUGMINING config node."""

from __future__ import annotations

from fastreid.config import CfgNode

from augmining.augmentations import AUGMENTATIONS
from metabin_plugin.config.values import check_count, check_names, check_number
from metabin_plugin.errors import ConfigError


def add_augmining_config(cfg: CfgNode) -> None:
    """Add the ``AUGMINING`` node; one that is already there is kept.

    Args:
        cfg: a fastreid config, not frozen.
    """
    if "AUGMINING" in cfg:
        return
    node = type(cfg)()

    # Share of a mini-batch that is hard: the images whose identity the classifier finds least
    # probable, rounded to whole images. 0.0 trains as Baseline does.
    node.HARD_FRACTION = 0.25

    # Kinds of augmentation; each makes one copy of every hard image. Choices: "crop", "affine",
    # "colour", "grey", "blur", "erase" (augmentations.py says how strong they are).
    node.AUGMENTATIONS = ("crop", "affine", "colour", "grey", "blur", "erase")

    # A copy is excessively augmented, and dropped, when its identity is not among the so many
    # that the classifier finds most probable.
    node.MAX_RANK = 10

    cfg.AUGMINING = node


def check_augmining(node: CfgNode) -> None:
    """Check the values of the AUGMINING node; their types are right.

    Args:
        node: ``cfg.AUGMINING``.

    Raises:
        ConfigError: a key's value cannot work.
    """
    check_number("AUGMINING.HARD_FRACTION", node.HARD_FRACTION, 0, 1)
    if not node.AUGMENTATIONS:
        raise ConfigError(
            f"AUGMINING.AUGMENTATIONS is empty; name at least one of {', '.join(AUGMENTATIONS)}, "
            "or set AUGMINING.HARD_FRACTION 0.0 to train without"
        )
    check_names("AUGMINING.AUGMENTATIONS", node.AUGMENTATIONS, AUGMENTATIONS)
    check_count("AUGMINING.MAX_RANK", node.MAX_RANK, 1)
