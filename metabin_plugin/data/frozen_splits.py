"""The record of the benchmark's splits, which no change of the rule that made it can change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from metabin_plugin.errors import DatasetError

# SHA-256 of each file in split_files: published numbers depend on their content.
SHA256 = {
    "grid": "64572c35bdddf966ca5b419e86e289ce91da28c719b1cd1dc186883f5a173a74",
    "ilids": "c0de09764298f251adb06e29d522dc7d9d40caa2d87c61d656ca800e1a72cac5",
    "prid": "997dad9ec332a15c1a72b5e43517840fe8dbe74d2bc9fad89053145027eb6ab4",
    "viper": "ea05f6eb0883513760bfb1724c2c47e16d4923fc0700524e021231c54157dec2",
}


def frozen_splits(dataset: str, population: Sequence[int], unpaired: int) -> list[Any] | None:
    """Return the ten recorded splits of a target dataset.

    A record is a JSON object. ``population`` numbers what the splits are drawn from: the
    identities that both cameras saw (VIPeR, PRID, GRID), or the images, as 1000 x identity +
    image, of identities with two or more of them (i-LIDS). ``unpaired`` counts the gallery images
    of other people, which every split has. ``splits`` lists for each split the query identities,
    which are the gallery's too, or the pairs of a query and a gallery image (i-LIDS).

    Args:
        dataset: name of the dataset, a key of ``SHA256``.
        population: what the copy at hand has, in ascending order.
        unpaired: number of gallery images of people who are in no query.

    Returns:
        ``splits``; None if the copy at hand has not the people or images of the record.

    Raises:
        DatasetError: the record is not the file that the plugin was released with.
    """
    file = resources.files("metabin_plugin.data") / "split_files" / f"{dataset}.json"
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SHA256[dataset]:
        raise DatasetError(
            f"The splits in {file} are not those that metabin_plugin was released with; install "
            "it again."
        )
    record = json.loads(content)
    fits = (record["population"], record["unpaired"]) == (list(population), unpaired)
    return record["splits"] if fits else None
