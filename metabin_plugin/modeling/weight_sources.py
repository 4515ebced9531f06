"""Weights that are named rather than given as a file: those that torchvision publishes."""

from __future__ import annotations

import os
import re

from torch import hub
from torchvision.models import get_weight

from metabin_plugin.errors import WeightsError

PREFIX = "torchvision:"
# A file name's beginning of its SHA-256, as torchvision's files have it.
_HASH = re.compile(r"-([0-9a-f]{8,})\.pth$")


def local_file(path: str) -> str:
    """The file of ``MODEL.BACKBONE.PRETRAIN_PATH``, downloaded if it is a name and not there yet.

    Args:
        path: a file, or ``torchvision:`` and a member of one of torchvision's enumerations of
            weights, as ``torchvision:ResNet50_Weights.IMAGENET1K_V1``.

    Returns:
        ``path`` itself, or the file in PyTorch's folder of downloads.

    Raises:
        WeightsError: torchvision does not know the name, or the download fails.
    """
    if not path.startswith(PREFIX):
        return path
    try:
        url = get_weight(path.removeprefix(PREFIX)).url
    except (ValueError, AttributeError, KeyError) as error:
        raise WeightsError(
            f"MODEL.BACKBONE.PRETRAIN_PATH is {path!r}, which torchvision does not have; give a "
            f"name like {PREFIX}MobileNet_V2_Weights.IMAGENET1K_V1, or a file"
        ) from error
    name = url.rpartition("/")[2]
    file = os.path.join(hub.get_dir(), "checkpoints", name)
    if not os.path.isfile(file):
        _download(url, file)
    return file


def _download(url: str, file: str) -> None:
    checksum = _HASH.search(file)
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        hub.download_url_to_file(url, file, checksum[1] if checksum else None, progress=False)
    # A failed connection, or another checksum.
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"MODEL.BACKBONE.PRETRAIN_PATH: {url} cannot be downloaded ({error}); put the file at "
            f"{file}, give another, or set MODEL.BACKBONE.PRETRAIN False to do without"
        ) from error
