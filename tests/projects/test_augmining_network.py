"""The AugMining architecture: losses against an independent computation, what it leaves alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from fastreid.modeling.meta_arch.baseline import Baseline
from fastreid.utils.events import EventStorage
from torch import Tensor

import augmining
from augmining.augmentations import AUGMENTATIONS, augmented_copies
from metabin_plugin.engine import check_config, read_config
from metabin_plugin.errors import ConfigError

CONFIGS = Path(augmining.__file__).parents[1] / "configs"
CLASSES = 5
PIXEL_MEAN = [255 * mean for mean in (0.485, 0.456, 0.406)]
SETTING = [
    *("MODEL.META_ARCHITECTURE", "AugMining", "MODEL.DEVICE", "cpu"),
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.DEPTH", "18x"),
    *("MODEL.BACKBONE.FEAT_DIM", "512", "MODEL.BACKBONE.PRETRAIN", "False"),
    *("MODEL.HEADS.NUM_CLASSES", str(CLASSES), "MODEL.HEADS.SCALE", "7"),
    # A margin, which the scores that images are chosen by do not have.
    *("MODEL.HEADS.MARGIN", "0.3"),
    *("AUGMINING.HARD_FRACTION", "0.5", "AUGMINING.MAX_RANK", "2"),
]


def config(*options: str) -> CfgNode:
    return read_config(str(CONFIGS / "AugMining.yml"), [*SETTING, *options])


def network(*options: str) -> Any:
    """A network whose classifier knows about the identities of ``batch``."""
    torch.manual_seed(0)
    built = build_model(config(*options)).double()
    with torch.no_grad():
        inputs = batch()
        features = built.eval()(inputs)
        neck = built.heads.bottleneck[0]
        neck.running_mean.copy_(features.mean(0))
        neck.running_var.copy_(features.var(0))
        for identity in range(4):
            known = built(inputs)[inputs["targets"] == identity].mean(0)
            built.heads.weight[identity] = known / 1000
    return built.train()


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, 3, 32, 16, generator=generator, dtype=torch.float64) * 255
    return {"images": images, "targets": torch.arange(8) // 2}


def losses(model: Any, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], EventStorage]:
    torch.manual_seed(3)
    with EventStorage(0) as storage:
        return model(inputs), storage


def probability_and_rank(model: Any, image: Tensor, identity: int) -> tuple[float, int]:
    """Of the right identity, by a network in evaluation, for one image alone."""
    with torch.no_grad():
        feature = model({"images": image[None]})[0]
        weight = model.heads.weight
        if type(model.heads.cls_layer).__name__ == "CosSoftmax":
            feature, weight = feature / feature.norm(), weight / weight.norm(dim=1)[:, None]
        scores = [float(row @ feature) * 7 for row in weight]
    total = sum(torch.tensor(score).double().exp() for score in scores)
    probability = float(torch.tensor(scores[identity]).double().exp() / total)
    return probability, sum(score >= scores[identity] for score in scores)


def mined_by_definition(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, int, int]:
    """The batch to train on, how many images were replaced and how many copies excessive."""
    images, identities = inputs["images"].clone(), inputs["targets"].tolist()
    model = copy.deepcopy(model).eval()
    ease = [probability_and_rank(model, *pair)[0] for pair in zip(images, identities, strict=True)]
    hard = sorted(range(len(images)), key=ease.__getitem__)[: len(images) // 2]
    torch.manual_seed(3)
    names = list(AUGMENTATIONS)
    replaced = excessive = 0
    for i, copies in zip(hard, augmented_copies(images[hard], names, PIXEL_MEAN), strict=True):
        lowest = ease[i]
        changed = False
        for one in copies:
            probability, rank = probability_and_rank(model, one, identities[i])
            excessive += rank > 2
            if rank <= 2 and probability < lowest:
                images[i], lowest, changed = one, probability, True
        replaced += changed
    return images, replaced, excessive


@pytest.mark.parametrize("layer", ["Linear", "CosSoftmax"])
@pytest.mark.parametrize("norm", ["BN", "BIN"])
def test_losses_are_baselines_of_the_batch_mined_by_definition(norm: str, layer: str) -> None:
    model = network("MODEL.BACKBONE.NORM", norm, "MODEL.HEADS.CLS_LAYER", layer)
    images, replaced, excessive = mined_by_definition(model, batch())
    # The case is one in which everything happens.
    assert 0 < replaced < 4
    assert 0 < excessive < 4 * len(AUGMENTATIONS)
    other = copy.deepcopy(model)
    with EventStorage(0):
        expected = Baseline.forward(other, {**batch(), "images": images})
    found, storage = losses(model, batch())
    assert found.keys() == expected.keys() == {"loss_cls", "loss_triplet"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=0)
    logged = {name: value for name, (value, _) in storage.latest().items()}
    assert logged["replaced_hard_images"] == replaced / 4
    assert logged["excessive_copies"] == pytest.approx(excessive / (4 * len(AUGMENTATIONS)))
    # Running statistics have moved as in one training pass, and modes are as they were.
    for name, value in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    assert all(module.training for module in model.modules())


def test_a_frozen_part_stays_in_evaluation() -> None:
    model = network()
    model.backbone.eval()
    losses(model, batch())
    assert not any(module.training for module in model.backbone.modules())
    assert all(module.training for module in model.heads.modules())


def plain_losses(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with EventStorage(0):
        return Baseline.forward(copy.deepcopy(model), inputs)


@pytest.mark.parametrize("nothing", ["HARD_FRACTION 0", "excessive"])
def test_with_nothing_to_replace_the_losses_are_baselines(nothing: str) -> None:
    model = network()
    if nothing == "excessive":
        # All scores are equal, so nothing is recognized.
        with torch.no_grad():
            model.heads.weight.zero_()
    else:
        model.hard_fraction = 0
    inputs = batch()
    expected = plain_losses(model, inputs)
    assert losses(model, inputs)[0] == expected
    assert torch.equal(inputs["images"], batch()["images"])


def test_the_batch_of_the_caller_stays() -> None:
    inputs = batch()
    losses(network("AUGMINING.MAX_RANK", "5"), inputs)
    assert torch.equal(inputs["images"], batch()["images"])


def test_a_pass_for_running_statistics_alone_mines_nothing() -> None:
    # fastreid's PreciseBN has targets of other data, and marks them so.
    model = network()
    inputs = {**batch(), "targets": torch.full((8,), -1)}
    generator = torch.get_rng_state()
    with torch.no_grad(), EventStorage(0):
        model(inputs)
    assert torch.equal(torch.get_rng_state(), generator)


def test_evaluation_is_baselines() -> None:
    model = network().eval()
    with torch.no_grad():
        assert torch.equal(model(batch()), Baseline.forward(model, batch()))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yml")), ids=lambda path: path.name)
def test_the_configs_pass(path: Path) -> None:
    cfg = read_config(str(path), ["MODEL.DEVICE", "cpu"])
    check_config(cfg)
    assert cfg.AUGMINING.AUGMENTATIONS == get_cfg().AUGMINING.AUGMENTATIONS
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NORM) == ("AugMining", "BN")
    assert tuple(cfg.METABIN.HOOKS) == ()


def test_the_config_node_is_added_once() -> None:
    cfg = get_cfg()
    cfg.AUGMINING.MAX_RANK = 3
    augmining.add_augmining_config(cfg)
    assert cfg.AUGMINING.MAX_RANK == 3


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("HARD_FRACTION", "1.5", "must be at least 0 and at most 1"),
        ("HARD_FRACTION", "-0.1", "must be at least 0 and at most 1"),
        ("HARD_FRACTION", "float('nan')", "finite"),
        ("AUGMENTATIONS", "()", "name at least one of crop"),
        ("AUGMENTATIONS", "('crop', 'mirror')", "'mirror'; choose among crop"),
        ("AUGMENTATIONS", "('crop', 'crop')", "twice"),
        ("MAX_RANK", "0", "must be at least 1"),
        ("MAX_RANK", "2.5", "whole number"),
    ],
)
def test_a_value_that_cannot_work_is_one_sentence(key: str, value: str, reason: str) -> None:
    cfg = config()
    cfg.AUGMINING[key] = eval(value)
    with pytest.raises(ConfigError, match=reason) as caught:
        check_config(cfg)
    assert str(caught.value).startswith(f"AUGMINING.{key} ")
    assert "\n" not in str(caught.value)
