"""The DIMN config node, and what a config with it must and cannot have."""

from __future__ import annotations

from fastreid.config import CfgNode

from metabin_plugin.config.values import check_choice, check_names, check_number
from metabin_plugin.errors import ConfigError

_LOSSES = ("CrossEntropyLoss", "TripletLoss")
# They draw images without regard to identities.
_UNPAIRED_SAMPLERS = ("TrainingSampler", "ImbalancedDatasetSampler")


def add_dimn_config(cfg: CfgNode) -> None:
    """Add the ``DIMN`` node; one that is already there is kept.

    Args:
        cfg: a fastreid config, not frozen.
    """
    if "DIMN" in cfg:
        return
    node = type(cfg)()

    # Weights of the three losses of the mapping network. That of the identity loss is
    # MODEL.LOSSES.CE.SCALE.
    node.MATCHING_SCALE = 1.0
    node.REGULARIZATION_SCALE = 0.01
    node.TRIPLET_SCALE = 1.0

    # Delta, by how much the probability of the right identity shall exceed that of any other,
    # in [0, 1].
    node.TRIPLET_MARGIN = 0.8

    # alpha, the share of a newly generated classifier in the running average that the memory
    # bank keeps for its identity, in [0, 1].
    node.MEMORY_RATE = 0.5

    cfg.DIMN = node


def check_dimn(cfg: CfgNode) -> None:
    """Check the DIMN node and the keys of others that the method depends on.

    Args:
        cfg: the config; the types of its values are right.

    Raises:
        ConfigError: a key's value cannot work; the sentence names both and the remedy.
    """
    for key in ("MATCHING_SCALE", "REGULARIZATION_SCALE", "TRIPLET_SCALE"):
        check_number(f"DIMN.{key}", cfg.DIMN[key], 0)
    for key in ("TRIPLET_MARGIN", "MEMORY_RATE"):
        check_number(f"DIMN.{key}", cfg.DIMN[key], 0, 1)
    check_names("MODEL.LOSSES.NAME", cfg.MODEL.LOSSES.NAME, _LOSSES)
    check_choice("MODEL.HEADS.NAME", cfg.MODEL.HEADS.NAME, ("EmbeddingHead",))
    _check_feature(cfg.MODEL.HEADS.NECK_FEAT)
    _check_pairs(cfg.DATALOADER)
    _check_evaluation(cfg.TEST)


def _check_feature(neck_feat: str) -> None:
    if neck_feat != "after":
        raise ConfigError(
            f"MODEL.HEADS.NECK_FEAT is {neck_feat}, but DIMN must map the same feature in training "
            "as in evaluation, which takes it after the neck; set it to after"
        )


def _check_pairs(loader: CfgNode) -> None:
    if loader.NUM_INSTANCE < 2:
        raise ConfigError(
            f"DATALOADER.NUM_INSTANCE is {loader.NUM_INSTANCE}, but DIMN needs a gallery and a "
            "probe image of each identity in a batch; set it to 2 or more"
        )
    if loader.SAMPLER_TRAIN in _UNPAIRED_SAMPLERS:
        raise ConfigError(
            f"DATALOADER.SAMPLER_TRAIN is {loader.SAMPLER_TRAIN}, but DIMN needs several images of "
            "each identity in a batch; set it to DomainBalancedSampler"
        )


def _check_evaluation(test: CfgNode) -> None:
    if test.METRIC != "cosine":
        raise ConfigError(
            f"TEST.METRIC is {test.METRIC}, but DIMN ranks by the product of probe feature and "
            "generated classifier, as cosine does; set it to cosine"
        )
    for key in ("AQE", "RERANK"):
        if test[key].ENABLED:
            raise ConfigError(
                f"TEST.{key}.ENABLED is True, but it compares galleries as if they were probes, "
                "which DIMN represents differently; set it to False"
            )
