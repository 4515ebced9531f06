"""A network with the weights of a training, to be used as it is."""

from __future__ import annotations

from fastreid.config import CfgNode
from fastreid.utils.checkpoint import Checkpointer
from torch import nn

from metabin_plugin.engine.trainer import MetaBINTrainer
from metabin_plugin.errors import ConfigError


def trained_network(cfg: CfgNode, if_empty: str) -> nn.Module:
    """The network of a config with ``MODEL.WEIGHTS``; ImageNet weights are not looked for.

    Args:
        cfg: the config; it is not changed.
        if_empty: first part of the sentence that refuses an empty ``MODEL.WEIGHTS``.

    Raises:
        ConfigError: ``MODEL.WEIGHTS`` is empty, or the config cannot work.
        WeightsError: the file is damaged or does not fit.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            f"{if_empty}; add MODEL.WEIGHTS and the path of a checkpoint, "
            "OUTPUT_DIR/model_final.pth for example"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.PRETRAIN = False
    network = MetaBINTrainer.build_model(cfg)
    Checkpointer(network).load(cfg.MODEL.WEIGHTS)
    return network
