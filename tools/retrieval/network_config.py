"""The config of a network as an index keeps it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from fastreid.config import CfgNode, get_cfg

from metabin_plugin.engine import read_config
from metabin_plugin.engine.config_types import check_types
from metabin_plugin.errors import ConfigError
from metabin_plugin.files import open_regular, reason
from metabin_plugin.text import shown
from metabin_plugin.yaml_text import read_yaml
from retrieval.faults import SearchError

# Where and how fast features are computed is no part of what they are.
_IRRELEVANT = (
    *("MODEL.DEVICE", "cpu", "TEST.IMS_PER_BATCH", 1, "DATALOADER.NUM_WORKERS", 0),
    *("OUTPUT_DIR", "", "METABIN.COMPILE", False, "METABIN.CHANNELS_LAST", False),
)


def kept_config(cfg: CfgNode) -> str:
    """The text that an index keeps: YAML, with the whole path of the weights."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = os.path.abspath(cfg.MODEL.WEIGHTS)
    return cfg.dump()


def restored_config(text: str, options: Sequence[str]) -> CfgNode:
    """The config that an index has kept, with changes.

    Args:
        text: of ``kept_config``.
        options: keys and values in turn.

    Raises:
        ConfigError: an option cannot be read, or there are no weights at the path any more.
        SearchError: the text is no config of this version.
    """
    try:
        kept = CfgNode(read_yaml(text))
        cfg = get_cfg()
        cfg.merge_from_other_cfg(kept)
        check_types(cfg, get_cfg())
        # Each is a process, and an index may come from anyone.
        workers = cfg.DATALOADER.NUM_WORKERS, get_cfg().DATALOADER.NUM_WORKERS
        cfg.DATALOADER.NUM_WORKERS = min(workers)
    # A damaged or foreign config has as many types of errors as ways to be wrong.
    except Exception as error:
        raise SearchError(
            f"the index was made with another version of the config ({shown(reason(error))});"
            " index the gallery anew"
        ) from error
    read_config("", options)
    cfg.merge_from_list(list(options))
    if not os.path.isfile(cfg.MODEL.WEIGHTS):
        raise ConfigError(
            f"MODEL.WEIGHTS {shown(cfg.MODEL.WEIGHTS)} of the index is not there any more; "
            "add --opts MODEL.WEIGHTS and its path now"
        )
    return cfg


def feature_source(cfg: CfgNode) -> list[str]:
    """Texts that are the same as long as a config gives the same features.

    Args:
        cfg: its ``MODEL.WEIGHTS`` is a file.
    """
    same = cfg.clone()
    same.defrost()
    same.merge_from_list(list(_IRRELEVANT))
    same.MODEL.WEIGHTS = ""
    with open_regular(cfg.MODEL.WEIGHTS) as file:
        summed = hashlib.sha256()
        while chunk := file.read(1 << 20):
            summed.update(chunk)
    return [same.dump(), summed.hexdigest()]
