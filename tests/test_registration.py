"""What ``register()`` promises to fastreid and to third parties."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import fastreid.engine
import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from torch import Tensor, nn
from torch.utils.data import Sampler

import metabin_plugin
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.errors import NormError, WeightsError
from metabin_plugin.norm import BatchInstanceNorm2d, count_gates
from metabin_plugin.registries import NORM_REGISTRY, SAMPLER_REGISTRY
from tests.engine.tiny_data import CONFIGS, tiny_config

PURE = ("norm", "losses", "meta", "ranking", "style", "errors")


def test_pure_rooms_need_no_fastreid() -> None:
    rooms = ", ".join(f"metabin_plugin.{room}" for room in PURE)
    code = f"import sys, {rooms}; sys.exit('fastreid' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pure_rooms_name_no_fastreid_module() -> None:
    package = Path(metabin_plugin.__file__).parent
    for room in PURE[:-1]:
        for file in (package / room).glob("*.py"):
            assert "import fastreid" not in file.read_text()
            assert "from fastreid" not in file.read_text()


def test_registering_again_changes_nothing() -> None:
    trainer, norms = fastreid.engine.DefaultTrainer, dict(NORM_REGISTRY._obj_map)
    build = fastreid.engine.defaults.build_reid_train_loader
    metabin_plugin.register()
    assert fastreid.engine.DefaultTrainer is trainer is MetaBINTrainer
    assert NORM_REGISTRY._obj_map == norms
    assert fastreid.engine.defaults.build_reid_train_loader is build


def test_the_config_node_is_added_once() -> None:
    cfg = get_cfg()
    cfg.METABIN.SEED = 5
    metabin_plugin.add_metabin_config(cfg)
    assert cfg.METABIN.SEED == 5
    bare = CfgNode()
    metabin_plugin.add_metabin_config(bare)
    assert bare.METABIN == get_cfg().METABIN
    for key in ("CHECKPOINT_ITERS", "CHECKPOINT_KEEP"):
        assert bare.SOLVER[key] == get_cfg().SOLVER[key] == 0


def test_the_papers_config_has_the_papers_numbers() -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "MetaBIN.yml"))
    assert (len(cfg.DATASETS.NAMES), len(cfg.DATASETS.TESTS)) == (5, 4)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE) == (80, 4)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY) == (0.01, 0.9, 5e-4)
    assert (cfg.METABIN.INNER_LR.LOW, cfg.METABIN.INNER_LR.HIGH) == (0.001, 0.1)
    assert (cfg.METABIN.OUTER_LR, cfg.METABIN.NUM_META_TRAIN) == (0.1, 3)
    assert cfg.SOLVER.WARMUP_ITERS == 10 * cfg.METABIN.ITERS_PER_EPOCH == 18490
    assert list(cfg.SOLVER.STEPS) == [40, 70]


def network(name: str, depth: str, features: int, norm: str, arch: str = "Baseline") -> nn.Module:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *f"MODEL.DEVICE cpu MODEL.META_ARCHITECTURE {arch} MODEL.BACKBONE.NAME {name} "
            f"MODEL.BACKBONE.NORM {norm} MODEL.BACKBONE.FEAT_DIM {features} "
            f"MODEL.HEADS.NUM_CLASSES 7 MODEL.HEADS.WITH_BNNECK True".split(),
            "MODEL.BACKBONE.DEPTH",
            depth,
        ]
    )
    return build_model(cfg)


@pytest.mark.parametrize(
    ("name", "depth", "features", "layers", "gates"),
    [
        ("build_mobilenetv2_backbone", "1.4x", 1792, 53, 23822),
        ("build_mobilenetv2_backbone", "1.0x-paper", 1280, 53, 17088),
        ("build_mobilenetv2_backbone", "1.0x", 1280, 52, 17056),
        ("build_mobilenetv2_backbone", "1.4x-rounded", 1792, 52, 23968),
        ("build_resnet_backbone", "50x", 2048, 53, 26560),
        ("build_resnet_backbone", "18x", 512, 20, 4800),
    ],
)
def test_any_backbone_gets_its_gates(
    name: str, depth: str, features: int, layers: int, gates: int
) -> None:
    model = network(name, depth, features, "BIN", "MetaBIN")
    assert count_gates(model.backbone) == (layers, gates)
    assert count_gates(model.heads) == (0, 0)
    assert not any(gate.requires_grad for gate in model.gates.values())


@pytest.mark.parametrize(
    ("name", "depth", "features"),
    [("build_mobilenetv2_backbone", "1.4x", 1792), ("build_resnet_backbone", "50x", 2048)],
)
def test_at_rho_1_the_same_checkpoint_gives_the_bn_networks_output(
    name: str, depth: str, features: int
) -> None:
    torch.manual_seed(0)
    plain = network(name, depth, features, "BN")
    for layer in plain.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
    images = torch.rand(4, 3, 64, 32) * 255
    mixed = network(name, depth, features, "BIN", "MetaBIN")
    for mode in ("train", "eval"):
        missing = mixed.load_state_dict(plain.state_dict(), strict=False).missing_keys
        kinds = {key.rsplit(".", 1)[1] for key in missing}
        assert kinds == {"gate", "instance_weight", "instance_bias"}
        outputs = []
        for model in (plain, mixed):
            getattr(model, mode)()
            with torch.no_grad():
                outputs.append(model.backbone(model.preprocess_image(images)))
        scale = outputs[0].abs().max()
        assert (outputs[0] - outputs[1]).abs().max() < 1e-4 * scale
    statistics = {k: v for k, v in plain.state_dict().items() if "running" in k}
    for key, value in statistics.items():
        torch.testing.assert_close(mixed.state_dict()[key], value, rtol=1e-3, atol=1e-4)


def test_a_backbone_without_batch_norm_is_refused() -> None:
    with pytest.raises(NormError, match="no BatchNorm2d"):
        network("build_vit_backbone", "small", 384, "BIN")


def test_mgn_and_its_own_blocks_take_bin() -> None:
    model = network("build_resnet_backbone", "50x", 2048, "BIN", "MGN")
    layers, _ = count_gates(model)
    assert layers > 53


class TripledNorm(nn.BatchNorm2d):
    """A third party's norm layer."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


def test_a_third_partys_norm_needs_no_change_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NORM_REGISTRY._obj_map, "Tripled", TripledNorm)
    model = network("build_resnet_backbone", "18x", 512, "Tripled")
    layers = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(layers) == 20
    assert {type(layer) for layer in layers} == {TripledNorm}


class FirstImages(Sampler):
    """A third party's sampler."""

    def __init__(self, cfg: CfgNode, dataset: Any) -> None:
        self.size = cfg.SOLVER.IMS_PER_BATCH

    def __iter__(self):
        while True:
            yield from range(self.size)


def test_a_third_partys_sampler_needs_no_change_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SAMPLER_REGISTRY._obj_map, "FirstImages", FirstImages)
    cfg = tiny_config(tmp_path, "DATALOADER.SAMPLER_TRAIN", "FirstImages")
    loader = MetaBINTrainer.build_train_loader(cfg)
    assert next(iter(loader))["domains"].tolist() == [0] * 12


def test_gates_are_no_part_of_the_base_optimizer(tmp_path: Path) -> None:
    trainer = MetaBINTrainer(tiny_config(tmp_path, "SOLVER.BIAS_LR_FACTOR", "2."))
    sizes = sum(p.numel() for group in trainer.optimizer.param_groups for p in group["params"])
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert sizes == trained
    doubled = [
        sum(p.numel() for p in group["params"])
        for group in trainer.optimizer.param_groups
        if group["initial_lr"] == 0.02
    ]
    biases = sum(
        layer.bias.numel() + layer.instance_bias.numel()
        for layer in trainer.model.modules()
        if isinstance(layer, BatchInstanceNorm2d)
    )
    assert doubled == [biases]


def test_unread_depth_and_weights_are_refused() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            "MODEL.DEVICE",
            "cpu",
            "MODEL.BACKBONE.NAME",
            "build_mobilenetv2_backbone",
            "MODEL.BACKBONE.DEPTH",
            "1.4x-rounded",
            "MODEL.BACKBONE.PRETRAIN",
            "True",
        ]
    )
    with pytest.raises(WeightsError, match=r"MODEL\.BACKBONE\.PRETRAIN_PATH: there is no file ''"):
        build_model(cfg)
