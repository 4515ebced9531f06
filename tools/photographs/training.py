"""A config that trains on a manifest: what the domains are, and how large a batch is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metabin_plugin.data.balance import too_few_identities
from metabin_plugin.text import shown
from photographs.manifest_text import text_of
from photographs.paths import path_from
from photographs.photograph import Photograph

# Images of an identity in a batch, as in the paper, and identities of all domains together.
INSTANCES = 4
SLOTS = 12


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
    training: Training, manifest: Path, config: Path, base: Path, *, has_test: bool
) -> bytes:
    """A config of the few keys that depend on the data.

    Args:
        training: what ``plan_training`` chose.
        manifest: the data, as ``DATASETS`` shall name it.
        config: path of the file to write.
        base: the config with all other keys.
        has_test: whether the manifest has images to test with.

    Returns:
        YAML, UTF-8.

    Raises:
        DatasetError: the name of one of these files is not UTF-8.
    """
    name = text_of(str(manifest))
    keys: dict[str, Any] = {
        "_BASE_": text_of(path_from(config.parent, base)),
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
    return f"# Written by make_manifest.py: {training.why}.\n{dump}".encode()


def _identities(pairs: Sequence[tuple[str, Any]]) -> dict[str, int]:
    people: dict[str, set[Any]] = defaultdict(set)
    for name, person in pairs:
        people[name].add(person)
    return {name: len(found) for name, found in sorted(people.items())}
