"""Any value of any METABIN key and any sizes: two iterations of training, or one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from metabin_plugin.data import SAMPLER_NAMES
from metabin_plugin.engine import MetaLearningHook
from metabin_plugin.errors import MetaBINError, NonFiniteError
from metabin_plugin.modeling import BASE_LOSSES, META_LOSSES
from tests.campaigns import tries
from tests.engine.test_trainer import started
from tests.engine.tiny_data import CONFIGS

DOMAINS, IDENTITIES, IMAGES = 4, 4, 3


def build_two_convolutions(cfg: CfgNode) -> nn.Module:
    """A backbone with eight gates, so that an example takes a tenth of a second."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, 2),
        nn.BatchNorm2d(4),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Images of all domains and identities, and the backbone's registration."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for domain in range(DOMAINS):
        for identity in range(IDENTITIES):
            for image in range(IMAGES):
                pixels = rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{domain}_{identity}_{image}.png")
    (folder / "out").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        name = build_two_convolutions.__name__
        patch.setitem(BACKBONE_REGISTRY._obj_map, name, build_two_convolutions)
        yield folder


class Run(NamedTuple):
    """A drawn run.

    Attributes:
        counts: for each domain and identity the number of images.
        sampler: value of DATALOADER.SAMPLER_TRAIN.
        sizes: values of the keys that fix the sizes of batches.
        metabin: values of some keys of the METABIN node, by dotted name.
    """

    counts: list[list[int]]
    sampler: str
    sizes: dict[str, int]
    metabin: dict[str, Any]


def flat(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Leaves of a node by dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in node.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else None
        leaves |= {prefix + name: value} if inner is None else inner
    return leaves


losses = st.lists(st.sampled_from(sorted(META_LOSSES)), min_size=1, unique=True).map(tuple)
step_sizes = st.floats(0.05, 1) | st.floats(0.05, 3e38)


def good_values(domains: int = 2, identity_images: int = 2) -> dict[str, st.SearchStrategy[Any]]:
    """For every key of the METABIN node values that can train.

    Args:
        domains: number of domains.
        identity_images: images of each identity in a batch.
    """
    unit = domains * identity_images
    return {
        "SEED": st.integers(-1, 2**32 - 1),
        "DOMAIN": st.sampled_from(["dataset", "camera"]),
        "ITERS_PER_EPOCH": st.integers(0, 2**31 - 1),
        "STEPS_COUNT_WARMUP": st.booleans(),
        "FIRST_BASE_UPDATES": st.integers(1, 3),
        "HOOKS": st.sampled_from([(), ("MetaLearningHook",), ["MetaLearningHook"]]),
        "IMS_PER_BATCH": st.integers(0, 3).map(lambda slots: slots * unit),
        "NUM_META_TRAIN": st.integers(1, max(1, domains - 1)),
        "META_TRAIN_LOSSES": losses,
        "META_TEST_LOSSES": losses,
        "SCATTER_AVERAGE": st.sampled_from(["sample", "domain"]),
        "EPISODE_SEPARATION": st.booleans(),
        "SECOND_ORDER": st.booleans(),
        "INNER_DIRECTION": st.sampled_from(["gradient", "random"]),
        "INNER_LR.LOW": st.floats(0, 0.05),
        "INNER_LR.HIGH": step_sizes,
        "INNER_LR.PERIOD": st.floats(0, 1e6) | st.integers(0, 10),
        "OUTER_LR": step_sizes,
        "OPERATING_POINTS": st.booleans(),
        "OUTER_LR_WARMUP": st.booleans(),
        "OUTER_LOSS": st.sampled_from(["meta-test", "sum"]),
        "FREEZE_AFTER": st.integers(0, 3),
        "AVERAGE.DECAY": st.floats(0, 0.999999),
        "AVERAGE.OF": st.sampled_from(["all", "gates"]),
        "GRADIENT_SIGNS_PERIOD": st.integers(0, 3),
        "GRAPH_SAMPLER.PERIOD": st.integers(1, 2**31 - 1),
        "GRAPH_SAMPLER.MAX_IDENTITIES": st.integers(2, 2**31 - 1),
        "TEST.CAMERA_STANDARDIZATION": st.booleans(),
        "MIXSTYLE.PROBABILITY": st.floats(0, 1),
        "MIXSTYLE.ALPHA": st.floats(0.01, 1000),
        "MIXSTYLE.LAYERS": st.sampled_from([("0",), ("2", "3")]),
        "MIXSTYLE.PARTNERS": st.sampled_from(["domain", "any"]),
        "BASE_LOSSES": st.lists(st.sampled_from(sorted(BASE_LOSSES)), unique=True).map(tuple),
        "STRONG_VIEW.PROB": st.floats(0, 1),
        "ALIGNMENT.SCALE": step_sizes,
        "ALIGNMENT.NEIGHBOURS": st.integers(1, 2**31 - 1),
        "UNIFORMITY.SCALE": step_sizes,
        "DOMAIN_UNIFORMITY.SCALE": step_sizes,
        "DOMAIN_UNIFORMITY.MOMENTUM": st.floats(0, 1),
        "INTERLEAVED_MEMORY.SCALE": step_sizes,
        "INTERLEAVED_MEMORY.TEMPERATURE": st.floats(0.01, 3e38),
        "INTERLEAVED_MEMORY.MOMENTUM": st.floats(0, 1),
        "INTERLEAVED_MEMORY.STYLE_REACH": st.floats(0, 3e38),
        "INTERLEAVED_MEMORY.LAYERS": st.sampled_from([("0",), ("2", "3")]),
        "SYNC_STATS": st.booleans(),
        "PARTIAL_WEIGHTS": st.booleans(),
        "NORM_FORM": st.sampled_from(["auto", "native", "plain"]),
        "CHANNELS_LAST": st.booleans(),
        # Compiling takes longer than all else; a test of its own has it.
        "COMPILE": st.just(False),
        "CUDA_GRAPHS": st.booleans(),
        "KEEP_MEMORY": st.booleans(),
        "FOLD_TOLERANCE": st.floats(0, 1),
    }


KEYS = sorted(good_values())

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-2, -1, 0, 2**31, 2**32, 2**63, 10**400])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["dataset", "MetaLearningHook", *META_LOSSES])
    | st.binary(max_size=3)
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(st.sampled_from([*META_LOSSES, "MetaLearningHook"]), max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


def endless(key: str, value: Any) -> bool:
    """Whether a value is allowed but makes the first iteration take for ever, or seconds."""
    many_updates = key == "FIRST_BASE_UPDATES" and isinstance(value, int) and value > 3
    return many_updates or (key == "COMPILE" and value is True)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Half of them runs that can train, half with sizes and up to two keys of any value."""
    fits = draw(st.booleans())
    images = st.lists(st.integers(1, IMAGES), min_size=1 + fits, max_size=IDENTITIES)
    counts = draw(st.lists(images, min_size=1 + fits, max_size=DOMAINS))
    instances = draw(st.integers(1 + fits, 3))
    slots = draw(st.integers(1, min(map(len, counts))))
    sizes = {
        "SOLVER.IMS_PER_BATCH": len(counts) * slots * instances,
        "DATALOADER.NUM_INSTANCE": instances,
    }
    sampler = draw(st.sampled_from(["DomainBalancedSampler", *SAMPLER_NAMES]))
    good = good_values(len(counts), instances)
    metabin = {"NUM_META_TRAIN": 1, "ITERS_PER_EPOCH": 2}
    metabin |= {key: draw(good[key]) for key in draw(st.sets(st.sampled_from(KEYS), max_size=9))}
    if not fits:
        for key in draw(st.sets(st.sampled_from(KEYS), max_size=2)):
            metabin[key] = draw(anything.filter(lambda value, key=key: not endless(key, value)))
        other = st.integers(-2, 30) | st.just(10**12)
        sizes |= draw(st.fixed_dictionaries({}, optional=dict.fromkeys(sizes, other)))
    return Run(counts, sampler, sizes, metabin)


def config(folder: Path, run: Run) -> CfgNode:
    """The paper's config with the run's data and values."""
    names = []
    for domain, identities in enumerate(run.counts):
        lines = ["path,pid,camid"]
        for identity, images in enumerate(identities):
            lines += [f"{domain}_{identity}_{i}.png,{identity},{i % 2}" for i in range(images)]
        names.append(str(folder / f"domain{domain}.csv"))
        Path(names[-1]).write_text("\n".join(lines))
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "MetaBIN.yml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SOLVER.AMP.ENABLED", "False"])
    cfg.MODEL.BACKBONE.NAME = build_two_convolutions.__name__
    cfg.MODEL.BACKBONE.FEAT_DIM = 4
    cfg.INPUT.SIZE_TRAIN = [16, 8]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATASETS.NAMES = tuple(names)
    cfg.OUTPUT_DIR = str(folder / "out")
    cfg.DATALOADER.SAMPLER_TRAIN = run.sampler
    for key, value in run.sizes.items():
        section, name = key.split(".")
        cfg[section][name] = value
    for key, value in run.metabin.items():
        *nodes, name = key.split(".")
        node = cfg.METABIN
        for inner in nodes:
            node = node[inner]
        # Not by attribute, where yacs would refuse some types.
        node[name] = value
    return cfg


def check(folder: Path, run: Run) -> bool:
    """Train two iterations, or fail with one sentence about a key; whether it trained."""
    cfg = config(folder, run)
    try:
        trainer = started(cfg)
        with trainer.storage:
            for trainer.iter in range(2):
                trainer.run_step()
                for hook in trainer._hooks:
                    if isinstance(hook, MetaLearningHook):
                        hook.after_step()
    except MetaBINError as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert len(sentence) < 600
        if not isinstance(error, NonFiniteError):
            assert any(f"{part}." in sentence for part in ("METABIN", *get_cfg())), sentence
        return False
    assert all(0 <= gate.min() <= gate.max() <= 1 for gate in trainer.model.gates.values())
    return True


def test_every_key_is_drawn() -> None:
    assert sorted(flat(get_cfg().METABIN)) == KEYS


ONE_IMAGE_FOR_EACH_SIDE = Run(
    [[1, 1], [1, 1]],
    "DomainBalancedSampler",
    {"SOLVER.IMS_PER_BATCH": 2, "DATALOADER.NUM_INSTANCE": 1},
    {"NUM_META_TRAIN": 1, "ITERS_PER_EPOCH": 2, "META_TEST_LOSSES": ("CrossEntropyLoss",)},
)


TWO_VIEWS_OF_ONE_IMAGE = Run(
    [[1, 1], [1, 1]],
    "TrainingSampler",
    {"SOLVER.IMS_PER_BATCH": 1, "DATALOADER.NUM_INSTANCE": 1},
    {"HOOKS": (), "ITERS_PER_EPOCH": 2, "BASE_LOSSES": tuple(sorted(BASE_LOSSES)[:2])},
)
ALL_BASE_LOSSES = Run(
    [[2, 2], [2, 2]],
    "DomainBalancedSampler",
    {"SOLVER.IMS_PER_BATCH": 8, "DATALOADER.NUM_INSTANCE": 2},
    {
        "ITERS_PER_EPOCH": 2,
        "NUM_META_TRAIN": 1,
        "BASE_LOSSES": tuple(sorted(BASE_LOSSES)),
        "INTERLEAVED_MEMORY.LAYERS": ("2",),
        "INTERLEAVED_MEMORY.STYLE_REACH": 3e38,
    },
)


ONE_IDENTITY = Run(
    [[2]],
    "TrainingSampler",
    {"SOLVER.IMS_PER_BATCH": 2, "DATALOADER.NUM_INSTANCE": 1},
    {"HOOKS": (), "ITERS_PER_EPOCH": 2},
)


@settings(max_examples=tries(40, 120))
@given(runs())
@example(ONE_IMAGE_FOR_EACH_SIDE)
@example(ONE_IDENTITY)
@example(TWO_VIEWS_OF_ONE_IMAGE)
@example(ALL_BASE_LOSSES)
def test_any_run_trains_or_says_why_not(folder: Path, run: Run) -> None:
    check(folder, run)


@pytest.mark.exhaustive
@pytest.mark.slow
@settings(max_examples=200)
@given(runs())
def test_many_more_runs_train_or_say_why_not(folder: Path, run: Run) -> None:
    check(folder, run)
