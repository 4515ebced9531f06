"""What an exception of a backbone's builder says about pretrained weights."""

from __future__ import annotations

import pickle

from fastreid.config import CfgNode

from metabin_plugin.modeling.known_backbones import is_known
from metabin_plugin.modeling.weights import STATE_DICT_NAMES


def weights_fault(error: Exception, backbone: CfgNode) -> str | None:
    """What is wrong with the weights, in words.

    Args:
        error: of a builder that was asked for pretrained weights.
        backbone: ``cfg.MODEL.BACKBONE``.

    Returns:
        A clause; None where the error is about something else.
    """
    # gdown's errors have only Exception in common.
    if type(error).__module__.startswith("gdown."):
        return _line(error)
    if isinstance(error, OSError):
        return _line(error)
    if isinstance(error, (pickle.UnpicklingError, EOFError)):
        return f"the file is damaged ({_line(error)})"
    if isinstance(error, KeyError):
        return _missing(error, backbone)
    if isinstance(error, RuntimeError):
        return _misfit(error)
    return None


def _missing(error: KeyError, backbone: CfgNode) -> str | None:
    if error.args[0] in STATE_DICT_NAMES:
        return f"the file has no {error.args[0]!r}"
    # fastreid's tables of downloads have keys that are made of depth and flags.
    if not backbone.PRETRAIN_PATH and is_known(backbone.NAME, backbone.DEPTH):
        return f"fastreid has none of {error.args[0]} to download"
    return None


def _misfit(error: RuntimeError) -> str | None:
    # PyTorch's list of misfits: a heading, then a line for each.
    heading, *misfits = str(error).splitlines() or [""]
    if misfits and "loading state_dict" in heading:
        return misfits[0].strip()
    # Of torch.hub, of torch.load.
    named = ("invalid hash value", "PytorchStreamReader")
    return heading if heading.startswith(named) else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
