"""The DIMN architecture: what it learns from in a batch, what it gives, which configs it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.utils.events import EventStorage
from torch import Tensor

from dimn import DIMN, DIMNTrainer, add_dimn_config
from metabin_plugin.engine import check_config
from metabin_plugin.errors import ConfigError
from metabin_plugin.meta import held_call
from tests.engine.tiny_data import CONFIGS, tiny_options

PROJECT = CONFIGS.parent / "projects" / "DIMN" / "configs"
IDENTITIES = [4, 4, 1, 1, 1, 6]


def config(folder: Path, *extra: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(PROJECT / "DIMN.yml"))
    cfg.merge_from_list([*tiny_options(folder), "MODEL.HEADS.NUM_CLASSES", "8", *extra])
    return cfg


def network(folder: Path, *extra: str) -> DIMN:
    torch.manual_seed(0)
    return DIMNTrainer.build_model(config(folder, *extra)).double()


def batch(seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    images = 255 * torch.rand(len(IDENTITIES), 3, 32, 16, generator=random, dtype=torch.float64)
    return {"images": images, "targets": torch.tensor(IDENTITIES)}


@pytest.fixture(autouse=True)
def storage() -> Iterator[None]:
    with EventStorage():
        yield


def features_of(model: DIMN, images: Tensor) -> Tensor:
    """The pooled features of a batch in training, with nothing moved."""
    maps = held_call(model.backbone, (images - model.pixel_mean) / model.pixel_std)
    return maps.mean((2, 3))


@torch.no_grad()
def expected_losses(model: DIMN, features: Tensor, margin: float) -> Mapping[str, float]:
    """The formulas, probe by probe, given the features of the batch ``IDENTITIES``."""
    weights = model.mapping.weight
    new = {}
    for identity, position in ((4, 0), (1, 2), (6, 5)):
        row = weights @ features[position]
        new[identity] = row / row.square().sum().sqrt()
    old = {i: model.memory.classifiers[i] for i in range(8) if model.memory.known[i]}
    matching = triplet = 0.0
    for position in (1, 3, 4):
        scores = {i: math.exp(features[position] @ row) for i, row in (old | new).items()}
        shares = {i: score / sum(scores.values()) for i, score in scores.items()}
        right = shares.pop(IDENTITIES[position])
        matching -= math.log(right) / 3
        triplet += max(0.0, margin - right + max(shares.values())) / 3
    gaps = [float((new[i] - old[i]).square().sum()) for i in new if i in old]
    logits = features @ model.heads.weight.t()
    picked = logits.log_softmax(1)[range(6), IDENTITIES]
    return {
        "loss_cls": -float(picked.mean()),
        "loss_matching": matching,
        "loss_probability_triplet": triplet,
        "loss_regularization": sum(gaps) / max(len(gaps), 1),
    }


@pytest.mark.parametrize("known", [[], [0, 4, 7], list(range(8))])
def test_losses_are_the_formulas(tmp_path: Path, known: list[int]) -> None:
    scales = {"MATCHING_SCALE": 0.5, "REGULARIZATION_SCALE": 2.0, "TRIPLET_SCALE": 3.0}
    keys = [part for key, value in scales.items() for part in (f"DIMN.{key}", str(value))]
    model = network(tmp_path, *keys, "DIMN.TRIPLET_MARGIN", "0.7")
    if known:
        model.memory.update(torch.tensor(known), torch.randn(len(known), 512).double())
    images = batch()
    expected = expected_losses(model, features_of(model, images["images"]), 0.7)
    factors = {"loss_cls": 1, "loss_matching": 0.5, "loss_probability_triplet": 3}
    found = model(images)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(factors.get(name, 2) * value, rel=1e-9), name


def test_a_step_remembers_the_classifiers_of_the_gallery_images(tmp_path: Path) -> None:
    model, images = network(tmp_path), batch()
    with torch.no_grad():
        expected = model.generate(features_of(model, images["images"])[[2, 0, 5]])
    model(images)
    assert model.memory.known.nonzero().flatten().tolist() == [1, 4, 6]
    torch.testing.assert_close(model.memory.classifiers[[1, 4, 6]], expected)


def test_every_loss_reaches_encoder_and_mapping(tmp_path: Path) -> None:
    model = network(tmp_path)
    model.memory.update(torch.arange(8), torch.randn(8, 512).double())
    for name, loss in model(batch()).items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        assert model.backbone.conv1.weight.grad.any(), name
        gradient = model.mapping.weight.grad
        assert (gradient is not None and bool(gradient.any())) == (name != "loss_cls"), name


def test_the_mapping_learns_to_match(tmp_path: Path) -> None:
    model = network(tmp_path).float()
    images = batch()
    optimizer = torch.optim.Adam(model.parameters(), 3.5e-4)
    history = []
    for _ in range(30):
        losses = model({**images, "images": images["images"].float()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name in ("loss_cls", "loss_matching", "loss_probability_triplet"):
        assert history[-1][name] < 0.2 * history[0][name], name


def test_a_call_without_gradient_leaves_the_memory(tmp_path: Path) -> None:
    model, images = network(tmp_path), batch()
    # As for the statistics of fastreid's precise BN, with no image of anyone twice.
    images["targets"] = torch.arange(6)
    with torch.no_grad():
        model(images)
    assert not model.memory.known.any()
    held_call(model, batch())
    assert not model.memory.known.any()


def test_evaluation_gives_feature_and_unit_classifier(tmp_path: Path) -> None:
    model, images = network(tmp_path).eval(), batch()
    with torch.no_grad():
        found = model({"images": images["images"].clone()})
        maps = model.backbone((images["images"] - model.pixel_mean) / model.pixel_std)
        features = maps.mean((2, 3))
        classifiers = features @ model.mapping.weight.t()
    torch.testing.assert_close(found[:, :512], features)
    torch.testing.assert_close(found[:, 512:], classifiers / classifiers.norm(dim=1, keepdim=True))


def test_the_feature_may_have_a_neck_and_another_length(tmp_path: Path) -> None:
    options = ("MODEL.HEADS.WITH_BNNECK", "True", "MODEL.HEADS.EMBEDDING_DIM", "32")
    model = network(tmp_path, *options, "MODEL.BACKBONE.NORM", "BIN")
    assert set(model(batch())) > {"loss_matching"}
    assert model.eval()(batch()).shape == (6, 64)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("DIMN.MATCHING_SCALE", "-1.0", "at least 0"),
        ("DIMN.REGULARIZATION_SCALE", "float('nan')", "finite"),
        ("DIMN.TRIPLET_SCALE", "-0.1", "at least 0"),
        ("DIMN.TRIPLET_MARGIN", "1.5", "at most 1"),
        ("DIMN.MEMORY_RATE", "1.01", "at most 1"),
        ("MODEL.LOSSES.NAME", '("CircleLoss",)', "CrossEntropyLoss"),
        ("MODEL.HEADS.NECK_FEAT", "before", "set it to after"),
        ("DATALOADER.NUM_INSTANCE", "1", "2 or more"),
        ("DATALOADER.SAMPLER_TRAIN", "TrainingSampler", "DomainBalancedSampler"),
        ("TEST.METRIC", "euclidean", "set it to cosine"),
        ("TEST.RERANK.ENABLED", "True", "set it to False"),
        ("TEST.AQE.ENABLED", "True", "set it to False"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, key: str, value: str, words: str) -> None:
    cfg = config(tmp_path)
    if value.startswith("float"):
        cfg.DIMN[key.removeprefix("DIMN.")] = float("nan")
    else:
        cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=words) as caught:
        DIMNTrainer.build_model(cfg)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, CfgNode):
        return {prefix: node}
    return {k: v for n, value in node.items() for k, v in flat(value, f"{prefix}.{n}").items()}


def differing(first: Path, second: Path) -> dict[str, Any]:
    """What the second config has otherwise than the first."""
    values = []
    for path in (first, second):
        cfg = get_cfg()
        cfg.merge_from_file(str(path))
        cfg.MODEL.DEVICE = "cpu"
        check_config(cfg)
        values.append(flat(cfg))
    return {key: value for key, value in values[1].items() if value != values[0][key]}


def test_the_demo_config_differs_in_size_and_length_alone() -> None:
    method = differing(CONFIGS / "MetaBIN.yml", PROJECT / "DIMN.yml")
    assert method == differing(CONFIGS / "MetaBIN-demo.yml", PROJECT / "DIMN-demo.yml") | {
        ".OUTPUT_DIR": "logs/dimn"
    }
    assert set(method) == {
        ".MODEL.META_ARCHITECTURE",
        ".MODEL.BACKBONE.NORM",
        ".MODEL.HEADS.WITH_BNNECK",
        ".MODEL.HEADS.NECK_FEAT",
        ".MODEL.LOSSES.NAME",
        ".MODEL.LOSSES.CE.EPSILON",
        ".METABIN.HOOKS",
        ".SOLVER.OPT",
        ".SOLVER.BASE_LR",
        ".OUTPUT_DIR",
    }


def test_the_node_is_added_once() -> None:
    cfg = get_cfg()
    cfg.DIMN.MEMORY_RATE = 0.1
    add_dimn_config(cfg)
    assert cfg.DIMN.MEMORY_RATE == 0.1
