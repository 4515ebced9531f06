"""Losses of the base step beside fastreid's: what they see, keep and leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.utils.events import EventStorage
from torch import Tensor, nn

from metabin_plugin import style
from metabin_plugin.config.check import check_config
from metabin_plugin.deploy.export import (
    fold_network,
    network_to_export,
    operators,
    random_images,
    to_onnx,
)
from metabin_plugin.engine import MetaBINTrainer, trained_network
from metabin_plugin.errors import ConfigError, NonFiniteError, WeightsError
from metabin_plugin.losses import uniformity_loss
from metabin_plugin.modeling import BaseLoss, BaseRows, IdentityMemory, MemoryStates
from metabin_plugin.modeling import base_losses as module
from metabin_plugin.registries import BASE_LOSS_REGISTRY
from tests.distributed import small_backbone
from tests.engine.tiny_data import tiny_config

BAU = '("Alignment", "Uniformity", "DomainUniformity")'
PLAIN = ["MODEL.META_ARCHITECTURE", "BaselineWithLosses", "METABIN.HOOKS", "()"]


def config(folder: Path, *options: str, losses: str = BAU) -> CfgNode:
    names = ["METABIN.BASE_LOSSES", losses]
    return tiny_config(folder, *small_backbone.OPTIONS, *names, *options)


def step(trainer: MetaBINTrainer) -> None:
    """One iteration, hooks included."""
    trainer.iter = trainer.start_iter = trainer.epoch = 0
    with EventStorage(0) as trainer.storage:
        trainer.before_train()
        trainer.before_step()
        trainer.run_step()
        trainer.after_step()


def unit(row: Tensor) -> Tensor:
    length = (row @ row) ** 0.5
    return row / length if length else row


def test_memory_follows_the_mean_of_an_identitys_images() -> None:
    memory = IdentityMemory(5, 4, momentum=0.3).double()
    generator = torch.Generator().manual_seed(0)
    expected: dict[int, Tensor] = {}
    for _ in range(3):
        features = torch.randn(6, 4, generator=generator).double()
        identities = torch.randint(0, 4, (6,), generator=generator)
        memory.update(features, identities, identities % 2)
        for identity in set(identities.tolist()):
            own = [unit(f) for f, i in zip(features, identities, strict=True) if i == identity]
            new = unit(sum(own))
            if identity in expected:
                new = unit(0.3 * expected[identity] + 0.7 * new)
            expected[identity] = new
    for identity in range(5):
        known = identity in expected
        assert memory.domains[identity] == (identity % 2 if known else -1)
        row = expected.get(identity, torch.zeros(4, dtype=torch.float64))
        torch.testing.assert_close(memory.features[identity], row, rtol=1e-12, atol=1e-14)


def test_the_order_of_the_images_makes_no_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 4, generator=generator).double()
    identities = torch.tensor([0, 1, 0, 1, 0, 1])
    rows = []
    for order in (torch.arange(6), torch.arange(6).flip(0)):
        memory = IdentityMemory(2, 4, momentum=0.3).double()
        memory.update(features[order], identities[order], identities[order])
        rows.append(memory.features)
    torch.testing.assert_close(*rows)


@pytest.mark.parametrize("options", [[], PLAIN], ids=["MetaBIN", "BaselineWithLosses"])
def test_either_architecture_trains_with_them(tmp_path: Path, options: list[str]) -> None:
    trainer = MetaBINTrainer(config(tmp_path, *options))
    trainer.train()
    logged = {name for name in trainer.storage.histories() if name.startswith("loss_")}
    added = {"loss_alignment", "loss_uniformity", "loss_domainuniformity"}
    assert logged == added | {"loss_cls", "loss_triplet"}


def test_the_strong_view_is_in_these_losses_alone(tmp_path: Path) -> None:
    trainer = MetaBINTrainer(config(tmp_path))
    network = trainer.network
    batch = next(trainer.base_batches)
    with EventStorage(0):
        network(batch)
    network.update_base_losses()

    def losses(strong: Tensor) -> dict[str, Tensor]:
        with EventStorage(0):
            return network({**batch, "images_strong": strong})

    # In evaluation mode of the norms no image has a part in another's features.
    for part in network.modules():
        part.eval()
    network.training = network.heads.training = True
    first, second = losses(batch["images_strong"]), losses(255 - batch["images_strong"])
    for name, loss in first.items():
        is_fastreids = name in ("loss_cls", "loss_triplet")
        assert torch.allclose(loss, second[name], rtol=1e-6) == is_fastreids, name
    with EventStorage(0), mock.patch.object(network, "base_losses", nn.ModuleDict()):
        alone = network(batch)
    assert alone.keys() == {"loss_cls", "loss_triplet"}
    for name, loss in alone.items():
        torch.testing.assert_close(first[name], loss, rtol=1e-6, atol=1e-6)


def test_losses_are_of_the_features_that_evaluation_compares(tmp_path: Path) -> None:
    trainer = MetaBINTrainer(config(tmp_path, losses='("Uniformity",)'))
    network = trainer.network
    batch = next(trainer.base_batches)
    for part in network.modules():
        part.eval()
    weak, strong = (network(batch[name]) for name in ("images", "images_strong"))
    network.training = network.heads.training = True
    with EventStorage(0):
        found = network(batch)["loss_uniformity"]
    torch.testing.assert_close(found, (uniformity_loss(weak) + uniformity_loss(strong)) / 2)


def test_scales_are_weights(tmp_path: Path) -> None:
    found = []
    for scale in (1.0, 3.0):
        nodes = ("ALIGNMENT", "UNIFORMITY", "DOMAIN_UNIFORMITY")
        options = [word for n in nodes for word in (f"METABIN.{n}.SCALE", str(scale))]
        options += ["MODEL.HEADS.NUM_CLASSES", "3"]
        network = MetaBINTrainer.build_model(config(tmp_path, *options))
        generator = torch.Generator().manual_seed(0)
        features, strong = (torch.randn(6, 24, generator=generator) for _ in range(2))
        targets = torch.tensor([0, 0, 1, 1, 2, 2])
        rows = BaseRows(features, strong, targets, targets, images=torch.empty(0))
        for loss in network.base_losses.values():
            loss.update(rows, network)
        rows = BaseRows(features, strong, targets, targets * 0 + 1, images=torch.empty(0))
        found.append(torch.stack([loss(rows) for loss in network.base_losses.values()]))
    assert (found[0] != 0).all()
    torch.testing.assert_close(3 * found[0], found[1])


def test_the_prototypes_move_after_the_step_and_know_who_was_seen(tmp_path: Path) -> None:
    trainer = MetaBINTrainer(config(tmp_path))
    memory = trainer.network.base_losses["DomainUniformity"].memory
    seen: dict[str, Any] = {}

    def keep(_model: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.update(inputs[0], known=int((memory.domains >= 0).sum()))

    trainer.model.register_forward_pre_hook(keep)
    step(trainer)
    assert seen["known"] == 0
    for identity, domain in enumerate(memory.domains.tolist()):
        of_batch = seen["domains"][seen["targets"] == identity]
        assert domain == (of_batch[0] if len(of_batch) else -1)
        length = memory.features[identity].norm().item()
        assert length == pytest.approx(1.0 if len(of_batch) else 0.0)


def test_the_meta_step_has_one_view(tmp_path: Path) -> None:
    own_stream = ["METABIN.IMS_PER_BATCH", "6"]
    for options in ([], own_stream):
        trainer = MetaBINTrainer(config(tmp_path, *options))
        hook = trainer.hook("MetaLearningHook")
        with mock.patch.object(hook, "_losses", wraps=hook._losses) as losses:
            step(trainer)
        assert {*losses.call_args.args[1]} == {"images", "targets", "domains"}
        if options:
            assert "images_strong" not in next(hook.batches)


def test_mldg_leaves_the_rows_of_the_base_step(tmp_path: Path) -> None:
    options = ["METABIN.HOOKS", '("MLDGHook",)', "METABIN.EPISODE_SEPARATION", "False"]
    trainer = MetaBINTrainer(config(tmp_path, *options))
    step(trainer)
    train, _ = trainer.hook("MLDGHook").split(0)
    known = trainer.network.base_losses["DomainUniformity"].memory.domains
    assert {*known.tolist()} == {-1, *train}


def test_styles_are_mixed_in_both_views(tmp_path: Path) -> None:
    mixing = ["METABIN.MIXSTYLE.PROBABILITY", "1.0", "METABIN.MIXSTYLE.LAYERS", '("2",)']
    trainer = MetaBINTrainer(config(tmp_path, *mixing))
    with mock.patch.object(style, "draw_partners", wraps=style.draw_partners) as draw:
        step(trainer)
    (domains,) = draw.call_args.args
    assert domains.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2] * 2


def test_off_nothing_is_there(tmp_path: Path) -> None:
    trainer = MetaBINTrainer(config(tmp_path, losses="()"))
    assert "images_strong" not in next(trainer.base_batches)
    assert "base_losses" not in trainer.checkpointer.checkpointables
    assert not [*trainer.network.base_losses.children()]


class Mean(BaseLoss):
    """A stranger's, without a second view and with a trained parameter."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.ones(cfg.MODEL.BACKBONE.FEAT_DIM))

    def forward(self, rows: BaseRows) -> Tensor:
        assert rows.strong_features is None
        return (rows.features - self.centre).square().mean()


def test_a_stranger_adds_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASE_LOSS_REGISTRY._obj_map, "Mean", Mean)
    trainer = MetaBINTrainer(config(tmp_path, losses='("Mean",)'))
    assert "images_strong" not in next(trainer.base_batches)
    before = trainer.network.base_losses["Mean"].centre.detach().clone()
    trainer.train()
    assert "loss_mean" in trainer.storage.histories()
    assert not torch.equal(before, trainer.network.base_losses["Mean"].centre)


@pytest.mark.parametrize("entry", [lambda _cfg: nn.Identity(), lambda _cfg: torch.zeros(())])
def test_an_entry_that_makes_no_base_loss_is_refused(
    entry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BASE_LOSS_REGISTRY._obj_map, "Mean", entry)
    with pytest.raises(ConfigError, match=r"has 'Mean', whose entry gave a .*; derive it from"):
        MetaBINTrainer(config(tmp_path, losses='("Mean",)'))


def test_no_checkpoint_is_made_of_a_memory_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(memory: IdentityMemory, *_rows: Any) -> None:
        memory.features[0] = torch.nan

    monkeypatch.setattr(IdentityMemory, "update", spoil)
    # The losses themselves stay finite.
    monkeypatch.setattr(
        module.DomainUniformity, "forward", lambda _self, rows: rows.features.mean()
    )
    trainer = MetaBINTrainer(config(tmp_path, losses='("DomainUniformity",)'))
    with pytest.raises(NonFiniteError, match=r"DomainUniformity\.memory\.features is not finite"):
        trainer.train()
    assert not list((tmp_path / "out").glob("*.pth"))


def test_a_loss_that_is_no_scalar_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BASE_LOSS_REGISTRY._obj_map, "Mean", Mean)
    monkeypatch.setattr(Mean, "forward", lambda self, rows: rows.features)
    trainer = MetaBINTrainer(config(tmp_path, losses='("Mean",)'))
    with pytest.raises(ConfigError, match=r"loss Mean of METABIN.BASE_LOSSES gave \[12, 24\]"):
        step(trainer)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["METABIN.BASE_LOSSES", '("Aligned",)'], "BASE_LOSSES is 'Aligned'; choose among Align"),
        (["METABIN.BASE_LOSSES", '("Uniformity", "Uniformity")'], "twice"),
        (["MODEL.META_ARCHITECTURE", "Baseline"], "does not compute; choose MetaBIN or Baseline"),
        (["METABIN.ALIGNMENT.NEIGHBOURS", "0"], "must be at least 1"),
        (["METABIN.ALIGNMENT.SCALE", "-1.0"], "must be at least 0"),
        (["METABIN.DOMAIN_UNIFORMITY.MOMENTUM", "1.5"], "must be at least 0 and at most 1"),
        (["METABIN.STRONG_VIEW.PROB", "2.0"], "must be at least 0 and at most 1"),
        (["MODEL.LOSSES.NAME", '("TripletLos",)'], "LOSSES.NAME is 'TripletLos'; choose among"),
        ([*PLAIN, "MODEL.LOSSES.NAME", '("TripletLos",)'], "NAME is 'TripletLos'; choose among"),
        (
            [*PLAIN, "MODEL.LOSSES.NAME", "()", "METABIN.BASE_LOSSES", "()"],
            "MODEL.LOSSES.NAME is empty; name at least one",
        ),
    ],
)
def test_refused(tmp_path: Path, options: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_config(config(tmp_path, *options))


@pytest.mark.parametrize("options", [[], PLAIN], ids=["MetaBIN", "BaselineWithLosses"])
def test_they_may_stand_alone(tmp_path: Path, options: list[str]) -> None:
    """As the loss of interleaved learning does in its published code."""
    trainer = MetaBINTrainer(config(tmp_path, *options, "MODEL.LOSSES.NAME", "()"))
    weight = trainer.network.backbone[0].weight
    before = weight.detach().clone()
    step(trainer)
    assert not torch.equal(weight, before)
    logged = {name for name in trainer.storage.histories() if name.startswith("loss_")}
    assert logged == {"loss_alignment", "loss_uniformity", "loss_domainuniformity"}


def test_an_identity_in_several_domains_is_refused(tmp_path: Path) -> None:
    cameras = ["METABIN.DOMAIN", "camera", "METABIN.NUM_META_TRAIN", "2"]
    with pytest.raises(ConfigError, match=r"remembers each identity in one domain, but .* is in"):
        MetaBINTrainer(config(tmp_path, *cameras))
    MetaBINTrainer(config(tmp_path, *cameras, losses='("Alignment",)'))


def test_a_head_without_a_neck_is_refused(tmp_path: Path) -> None:
    network = MetaBINTrainer.build_model(config(tmp_path))
    del network.heads.bottleneck
    with pytest.raises(ConfigError, match="EmbeddingHead has no bottleneck"):
        type(network)(
            backbone=network.backbone,
            heads=network.heads,
            pixel_mean=[0.0],
            pixel_std=[1.0],
            base_losses={"Uniformity": module.Uniformity(get_cfg())},
        )


def test_weights_hold_no_memory_and_load_without_the_losses(tmp_path: Path) -> None:
    trainer = MetaBINTrainer(config(tmp_path))
    trainer.train()
    plain = config(tmp_path, losses="()")
    file = str(tmp_path / "out" / "model_final.pth")
    saved = torch.load(file, weights_only=True)
    assert {*saved["model"]} == {*MetaBINTrainer.build_model(plain).state_dict()}
    assert {*saved["base_losses"]} == {
        "DomainUniformity.memory.features",
        "DomainUniformity.memory.domains",
    }
    images = torch.rand(2, 3, 32, 16) * 255
    features = []
    for cfg in (plain, config(tmp_path, "MODEL.HEADS.NUM_CLASSES", "12")):
        cfg.merge_from_list(["MODEL.WEIGHTS", file, "MODEL.HEADS.NUM_CLASSES", "12"])
        features.append(trained_network(cfg, "").eval()(images))
    assert torch.equal(*features)


def test_the_exported_file_is_the_same(tmp_path: Path) -> None:
    onnx_is_there = pytest.importorskip("onnxscript") and pytest.importorskip("onnxruntime")
    assert onnx_is_there
    plain = MetaBINTrainer.build_model(config(tmp_path, losses="()"))
    torch.save({"model": plain.state_dict()}, tmp_path / "weights.pth")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "weights.pth")]
    files = []
    for losses in ("()", BAU):
        network = network_to_export(config(tmp_path, *weights, losses=losses))
        folded = fold_network(network, (32, 16), 0.0).network
        files.append(to_onnx(folded, random_images(2, (32, 16)), {}))
    assert operators(files[0]) == operators(files[1])
    assert files[0] == files[1]


def bad_states(good: dict[str, Tensor]) -> dict[str, Any]:
    features = "DomainUniformity.memory.features"
    return {
        "of other losses": ({}, "is not the memories DomainUniformity.memory"),
        "no mapping": (3, "is not the memories"),
        "other identities": ({**good, features: torch.zeros(3, 24)}, "not a tensor of shape"),
        "other type": ({**good, features: good[features].double()}, "not a tensor of shape"),
        "not finite": ({**good, features: good[features] / 0}, "not finite"),
    }


def test_states_that_are_not_theirs_are_refused(tmp_path: Path) -> None:
    trainer = MetaBINTrainer(config(tmp_path))
    step(trainer)
    states = MemoryStates(trainer.network.base_losses)
    good = {name: value.clone() for name, value in states.state_dict().items()}
    for bad, sentence in bad_states(good).values():
        with pytest.raises(ValueError, match=sentence):
            states.load_state_dict(bad)
        assert all(torch.equal(good[n], v) for n, v in states.state_dict().items())


def test_a_checkpoint_with_another_memory_is_refused(tmp_path: Path) -> None:
    MetaBINTrainer(config(tmp_path)).train()
    path = tmp_path / "out" / "model_0000.pth"
    content = torch.load(path, weights_only=True)
    content["base_losses"].pop("DomainUniformity.memory.domains")
    torch.save(content, path)
    (tmp_path / "out" / "last_checkpoint").write_text(path.name)
    with pytest.raises(WeightsError, match="the state of base_losses does not fit this run"):
        MetaBINTrainer(config(tmp_path)).resume_or_load(resume=True)


def test_half_precision_gives_finite_float32_losses(tmp_path: Path) -> None:
    options = ["SOLVER.AMP.ENABLED", "True", "INPUT.SIZE_TRAIN", "[128, 64]"]
    trainer = MetaBINTrainer(config(tmp_path, *options))
    dtypes = {}

    def keep(_model: nn.Module, _inputs: Any, losses: dict[str, Tensor]) -> None:
        dtypes.update({name: loss.dtype for name, loss in losses.items()})

    trainer.model.register_forward_hook(keep)
    step(trainer)
    assert len(dtypes) == 5 and {*dtypes.values()} == {torch.float32}
