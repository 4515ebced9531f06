"""A config that trains on a manifest: what the domains are, and how large a batch is."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metabin_plugin.data.photographs.layout import path_from
from metabin_plugin.data.photographs.photograph import Photograph
from metabin_plugin.data.sampler import too_few_identities
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import name_in_text
from metabin_plugin.text import shown

# A manifest has no empty labels.
NO_CAMERA = "0"
# How a config that this module wrote begins.
HEAD = "# Written by metabin manifest: "


# Images of an identity in a batch, as in the paper, and identities of all domains together.
INSTANCES = 4
SLOTS = 12


def manifest_text(photographs: Sequence[Photograph], folder: Path, manifest: Path) -> bytes:
    """A manifest of photographs, with the column ``domain`` if they have any.

    Args:
        photographs: with their subsets.
        folder: what their paths are relative to.
        manifest: path of the file, which paths in it are relative to.

    Returns:
        CSV, UTF-8.

    Raises:
        DatasetError: the name of a folder is not UTF-8.
    """
    has_domains = any(photograph.domain for photograph in photographs)
    start = text_of(path_from(manifest.parent, folder))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "pid", "camid", *(["domain"] if has_domains else []), "subset"])
    for p in photographs:
        # Readers take spaces off both ends of a value.
        path = f"./{p.path}" if start == "." else f"{start.rstrip('/')}/{p.path}"
        domain = [p.domain] if has_domains else []
        writer.writerow([path, p.identity, p.camera or NO_CAMERA, *domain, p.subset])
    return text.getvalue().encode()


def text_of(path: str) -> str:
    """The name of a file as manifests and configs, which are UTF-8, have it.

    Raises:
        DatasetError: it is not UTF-8.
    """
    try:
        return name_in_text(path)
    except UnicodeDecodeError:
        raise DatasetError(
            f"The name {shown(path)} is not UTF-8, which manifests and configs are; rename it"
        ) from None


@dataclass(frozen=True)
class Training:
    """How to train on some photographs.

    Attributes:
        domains: what they are, the value of ``METABIN.DOMAIN``; "" if there are not two of them,
            and so no meta-learning.
        identities: how many people each of the domains has, by its name.
        why: the reason, part of a sentence.
    """

    domains: str
    identities: Mapping[str, int]
    why: str

    @property
    def batch_size(self) -> int:
        """Images of a batch: equally many identities of each domain, at least two."""
        count = len(self.identities)
        slots = min(max(2, SLOTS // count), *self.identities.values())
        return count * slots * INSTANCES


def plan_training(photographs: Sequence[Photograph]) -> Training:
    """Choose what the domains are.

    They are the photographs' own, if there are two; else their cameras, if there are two with two
    people each; else there is just one, and nothing to meta-learn from.

    Args:
        photographs: those to train on, of two people at least.

    Raises:
        DatasetError: one of several domains has one identity.
    """
    domains = _identities([(p.domain, p.person) for p in photographs])
    cameras = _identities([(p.camera, p.person) for p in photographs])
    if len(domains) > 1:
        for name, count in domains.items():
            if count < 2:
                raise too_few_identities(name, count)
        return Training("dataset", domains, f"{len(domains)} domains")
    lone = [name for name, count in cameras.items() if count < 2]
    if len(cameras) > 1 and not lone:
        return Training("camera", cameras, f"one domain, whose {len(cameras)} cameras are taken")
    why = f"camera {shown(lone[0])} saw one person only" if len(cameras) > 1 else "one camera"
    return Training("", domains, f"one domain and {why}, so plain training without meta-learning")


def config_text(
    training: Training, manifest: Path, config: Path, base: str, *, has_test: bool
) -> bytes:
    """A config of the few keys that depend on the data.

    Args:
        training: what ``plan_training`` chose.
        manifest: the data, as ``DATASETS`` shall name it.
        config: path of the file to write.
        base: name of the recipe with all other keys.
        has_test: whether the manifest has images to test with.

    Returns:
        YAML, UTF-8.

    Raises:
        DatasetError: the name of one of these files is not UTF-8.
    """
    name = text_of(str(manifest))
    keys: dict[str, Any] = {
        "_BASE_": base,
        "DATASETS": {"NAMES": [name], "TESTS": [name] if has_test else []},
        "SOLVER": {"IMS_PER_BATCH": training.batch_size},
        "DATALOADER": {"NUM_INSTANCE": INSTANCES},
        "OUTPUT_DIR": text_of(f"logs/{config.stem}"),
    }
    if not has_test:
        keys["TEST"] = {"EVAL_PERIOD": 0}
    if training.domains:
        count = len(training.identities)
        keys["METABIN"] = {
            "DOMAIN": training.domains,
            # The larger half, as 3 of the paper's 5.
            "NUM_META_TRAIN": (count + 1) // 2,
        }
    else:
        keys["MODEL"] = {"META_ARCHITECTURE": "Baseline", "BACKBONE": {"NORM": "BN"}}
        keys["METABIN"] = {"HOOKS": []}
    dump = yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)
    return f"{HEAD}{training.why}.\n{dump}".encode()


def _identities(pairs: Sequence[tuple[str, Any]]) -> dict[str, int]:
    people: dict[str, set[Any]] = defaultdict(set)
    for name, person in pairs:
        people[name].add(person)
    return {name: len(found) for name, found in sorted(people.items())}
