"""Reading a config from a file and KEY VALUE pairs."""

from __future__ import annotations

from collections.abc import Sequence

from fastreid.config import CfgNode, get_cfg

from metabin_plugin.engine.config_types import check_types
from metabin_plugin.errors import ConfigError


def read_config(config_file: str, options: Sequence[str]) -> CfgNode:
    """fastreid's defaults, changed by a file and then by KEY VALUE pairs.

    Args:
        config_file: path of a YAML file, or "" for none.
        options: keys and values in turn, as on the command line.

    Raises:
        ConfigError: the file or a pair cannot be read, a key does not exist, or a value has
            another type than the key.
    """
    cfg = get_cfg()
    try:
        if config_file:
            cfg.merge_from_file(config_file)
        cfg.merge_from_list(list(options))
    # What a malformed file makes of fastreid, yacs and PyYAML has no common type: a list in place
    # of a mapping alone raises AttributeError, TypeError or ValueError, depending on where it is.
    except Exception as error:
        raise ConfigError(
            f"--config-file {config_file!r} with {' '.join(options) or 'no further keys'}: "
            f"{_reason(error)}; correct the file or the KEY VALUE pairs"
        ) from error
    check_types(cfg, get_cfg())
    return cfg


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "its _BASE_ leads back to itself"
    if isinstance(error, (AttributeError, TypeError)):
        return "the file, or a key of it, holds no KEY: VALUE mapping where one is needed"
    # A KeyError's text is the representation of its message; YAML's texts have several lines.
    text = error.args[0] if isinstance(error, KeyError) else error
    return " ".join(str(text).split())
