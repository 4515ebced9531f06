"""The DIMN config node, and what a config with it must and cannot have."""

from __future__ import annotations

from collections.abc import Mapping

from fastreid.config import CfgNode

from metabin_plugin.config.table import (
    Choice,
    Key,
    Names,
    Number,
    Rule,
    add_keys,
    check_keys,
    check_values,
)
from metabin_plugin.errors import ConfigError

# What the method needs of fastreid's keys.
_NEEDED: Mapping[str, Rule] = {
    "MODEL.LOSSES.NAME": Names(("CrossEntropyLoss", "TripletLoss")),
    "MODEL.HEADS.NAME": Choice(("EmbeddingHead",)),
}
# They draw images without regard to identities.
_UNPAIRED_SAMPLERS = ("TrainingSampler", "ImbalancedDatasetSampler")


KEYS = (
    Key(
        "DIMN.MATCHING_SCALE",
        1.0,
        Number(0),
        comment="Weight of the matching loss of the mapping network. That of the identity loss is "
        "MODEL.LOSSES.CE.SCALE.",
    ),
    Key(
        "DIMN.REGULARIZATION_SCALE",
        0.01,
        Number(0),
        comment="Weight of the distance between generated and remembered classifiers.",
    ),
    Key(
        "DIMN.TRIPLET_SCALE",
        1.0,
        Number(0),
        comment="Weight of the triplet loss of probabilities.",
    ),
    Key(
        "DIMN.TRIPLET_MARGIN",
        0.8,
        Number(0, 1),
        comment="By how much the probability of the right identity shall exceed that of any other.",
        symbol="Delta",
    ),
    Key(
        "DIMN.MEMORY_RATE",
        0.5,
        Number(0, 1),
        comment="Share of a newly generated classifier in the running average that the memory bank "
        "keeps for its identity.",
        symbol="alpha",
    ),
)


def add_dimn_config(cfg: CfgNode) -> None:
    """Add the ``DIMN`` node; keys that are already there keep their values.

    Args:
        cfg: a fastreid config, not frozen.
    """
    add_keys(cfg, KEYS)


def check_dimn(cfg: CfgNode) -> None:
    """Check the DIMN node and the keys of others that the method depends on.

    Args:
        cfg: the config; the types of its values are right.

    Raises:
        ConfigError: a key's value cannot work; the sentence names both and the remedy.
    """
    check_keys(cfg, KEYS)
    check_values(cfg, _NEEDED)
    _check_feature(cfg.MODEL.HEADS.NECK_FEAT)
    _check_pairs(cfg.DATALOADER)
    _check_evaluation(cfg.TEST)


def _check_feature(neck_feat: str) -> None:
    if neck_feat != "after":
        raise ConfigError(
            f"MODEL.HEADS.NECK_FEAT is {neck_feat!r}, but DIMN must map the same feature in "
            "training as in evaluation, which takes it after the neck; set it to after"
        )


def _check_pairs(loader: CfgNode) -> None:
    if loader.NUM_INSTANCE < 2:
        raise ConfigError(
            f"DATALOADER.NUM_INSTANCE is {loader.NUM_INSTANCE!r}, but DIMN needs a gallery and a "
            "probe image of each identity in a batch; set it to 2 or more"
        )
    if loader.SAMPLER_TRAIN in _UNPAIRED_SAMPLERS:
        raise ConfigError(
            f"DATALOADER.SAMPLER_TRAIN is {loader.SAMPLER_TRAIN!r}, but DIMN needs several "
            "images of each identity in a batch; set it to DomainBalancedSampler"
        )


def _check_evaluation(test: CfgNode) -> None:
    if test.METRIC != "cosine":
        raise ConfigError(
            f"TEST.METRIC is {test.METRIC!r}, but DIMN ranks by the product of probe feature and "
            "generated classifier, as cosine does; set it to cosine"
        )
    for key in ("AQE", "RERANK"):
        if test[key].ENABLED:
            raise ConfigError(
                f"TEST.{key}.ENABLED is True, but it compares galleries as if they were probes, "
                "which DIMN represents differently; set it to False"
            )
