"""What a resumed run's config has otherwise than its checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastreid.config import CfgNode

from metabin_plugin.yaml_text import read_yaml


def config_changes(saved: str, cfg: CfgNode) -> list[str]:
    """Compare the config of a checkpoint with that of the run that resumes from it.

    Args:
        saved: the checkpoint's config, as ``CfgNode.dump`` wrote it.
        cfg: the config of the run.

    Returns:
        One line ``KEY: then -> now`` for each key that differs, in the order of their names.
    """
    then, now = _flat(read_yaml(saved)), _flat(read_yaml(cfg.dump()))
    absent = "(absent)"
    return [
        f"{key}: {then.get(key, absent)} -> {now.get(key, absent)}"
        for key in sorted({*then, *now})
        if then.get(key, absent) != now.get(key, absent)
    ]


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            values.update(_flat(value, f"{prefix}{key}."))
        else:
            values[prefix + key] = value
    return values
