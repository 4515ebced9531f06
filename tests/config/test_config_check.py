"""Config files that cannot be read, and values of fastreid's keys on which a run cannot start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fastreid.config import CfgNode, get_cfg
from fastreid.engine import default_argument_parser
from fastreid.utils import comm

from metabin_plugin.config import check as config_check
from metabin_plugin.config.check import checked
from metabin_plugin.engine import MetaBINTrainer, check_config, read_config, train_or_evaluate
from metabin_plugin.errors import ConfigError
from tests.distributed import small_backbone
from tests.engine.tiny_data import CONFIGS, tiny_options
from tests.processes import start


def good() -> CfgNode:
    return read_config(str(CONFIGS / "MetaBIN-demo.yml"), [])


def refused(cfg: CfgNode) -> str:
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    assert "\n" not in str(caught.value)
    return str(caught.value)


OWN = [*CONFIGS.glob("*.yml"), *CONFIGS.parent.glob("projects/Controls/configs/*.yml")]


@pytest.mark.parametrize("path", sorted(OWN), ids=lambda path: path.name)
def test_the_projects_own_configs_pass(path: Path) -> None:
    check_config(read_config(str(path), ["MODEL.DEVICE", "cpu"]))


def test_fastreids_defaults_pass() -> None:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    check_config(cfg)


BAD_FILES = {
    "no mapping": b"METABIN",
    "a list": b"- METABIN\n- SOLVER\n",
    "empty": b"",
    "a list for a node": b"METABIN: [1, 2]\n",
    "a text for a node": b"METABIN: on\n",
    "a node for a number": b"SOLVER:\n  MAX_EPOCH:\n    A: 1\n",
    "nothing for a node": b"SOLVER:\n",
    "nothing for a number": b"SOLVER:\n  MAX_EPOCH:\n",
    "nothing for a name": b"METABIN:\n  DOMAIN:\n",
    "unknown key": b"METABIN:\n  DOMAINS: 1\n",
    "key of another type": b"1: 2\n",
    "tag": b"METABIN: !!python/object/apply:os.getcwd []\n",
    "date": b"METABIN:\n  SEED: 2020-01-01\n",
    "unclosed": b"METABIN: {SEED: 3\n",
    "tab": b"METABIN:\n\tSEED: 3\n",
    "binary": bytes(range(256)),
    "utf-16": "METABIN:\n".encode("utf-16"),
    "circular": b"_BASE_: own.yml\n",
    "missing base": b"_BASE_: absent.yml\n",
    "base is no name": b"_BASE_: 3\n",
    "base is a folder": b"_BASE_: .\n",
    "anchors in a circle": b"METABIN: &a\n  INNER_LR: *a\n",
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "own.yml"
    path.write_bytes(BAD_FILES[fault])
    with pytest.raises(ConfigError) as caught:
        read_config(str(path), [])
    assert len(str(caught.value).splitlines()) == 1
    assert any(word in str(caught.value) for word in ("own.yml", "SOLVER", "METABIN"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.yml", tmp_path / "a\0b.yml"):
        with pytest.raises(ConfigError, match=r"^config .* cannot be read"):
            read_config(str(path), [])


@pytest.mark.parametrize(
    "options",
    [
        ["METABIN.SEED", "abc"],
        ["METABIN.SEED", "None"],
        ["METABIN.SEED", "True"],
        ["METABIN.SEED", "1.5"],
        ["METABIN.SEED", "[1"],
        ["METABIN.SEED", "9" * 5000],
        ["METABIN.SEED", "(" * 5000],
        ["METABIN.HOOKS", "3"],
        ["METABIN.HOOKS", "None"],
        ["METABIN.INNER_LR", "0.1"],
        ["METABIN.INNER_LR.LOW", "{}"],
        ["METABIN", "None"],
        ["METABIN.SEED.X", "1"],
        ["METABIN.SEED"],
        ["METABIN."],
        ["", "1"],
    ],
)
def test_bad_pairs_are_refused_in_one_sentence(options: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config("", options)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 20_000
    assert options[0] in str(caught.value)


BAD_VALUES = [
    ("MODEL.DEVICE", "gpu0", "choose cpu, cuda or cuda:N"),
    ("MODEL.DEVICE", "tpu", "choose cpu"),
    ("MODEL.DEVICE", "meta", "choose cpu"),
    ("MODEL.DEVICE", "", "choose cpu"),
    ("MODEL.DEVICE", "cpu:7", "numbered from 0"),
    ("MODEL.META_ARCHITECTURE", "MetaBIM", "choose among"),
    ("MODEL.BACKBONE.NAME", "resnet", "build_resnet_backbone"),
    ("MODEL.BACKBONE.FEAT_DIM", 0, "at least 1"),
    ("MODEL.BACKBONE.NORM", "XN", "choose among BN"),
    ("MODEL.BACKBONE.LAST_STRIDE", 0, "at least 1"),
    ("MODEL.HEADS.NAME", "Head", "EmbeddingHead"),
    ("MODEL.HEADS.NECK_FEAT", "behind", "before, after"),
    ("MODEL.HEADS.NORM", "IN", "among BN, syncBN, GhostBN, GN, BIN"),
    ("MODEL.HEADS.NORM", "FrozenBN", "among BN, syncBN, GhostBN, GN, BIN"),
    ("MODEL.HEADS.POOL_LAYER", "avgpool", "GlobalAvgPool"),
    ("MODEL.HEADS.CLS_LAYER", "linear", "Linear"),
    ("MODEL.LOSSES.NAME", (), "empty"),
    ("MODEL.LOSSES.NAME", ("TripletLoss", "TripletLoss"), "twice"),
    ("MODEL.LOSSES.NAME", ("Triplet",), "TripletLoss"),
    ("MODEL.LOSSES.TRI.MARGIN", float("nan"), "finite"),
    ("DATASETS.NAMES", ("DG_PRID", "DG_PRID"), "twice"),
    ("DATASETS.NAMES", (3,), "names only"),
    ("DATASETS.TESTS", ("DG_PRID", "DG_PRID"), "twice"),
    ("DATASETS.TESTS", (), "empty"),
    ("DATALOADER.SAMPLER_TRAIN", "Balanced", "DomainBalancedSampler"),
    ("DATALOADER.NUM_INSTANCE", 0, "at least 1"),
    ("DATALOADER.NUM_WORKERS", -1, "at least 0"),
    ("DATALOADER.NUM_WORKERS", 1.5, "whole number"),
    ("INPUT.SIZE_TRAIN", [], "height and a width"),
    ("INPUT.SIZE_TRAIN", [256, 128, 3], "height and a width"),
    ("INPUT.SIZE_TEST", [256], "height and a width"),
    ("INPUT.SIZE_TRAIN", [256, 0], "at least 1"),
    ("INPUT.SIZE_TEST", [-1, -1], "at least 1"),
    ("INPUT.SIZE_TEST", ["256", 128], "whole number"),
    ("INPUT.FLIP.PROB", 1.5, "at most 1"),
    ("INPUT.CJ.PROB", -0.1, "at least 0"),
    ("INPUT.CJ.HUE", 0.6, "at most 0.5"),
    ("INPUT.CJ.BRIGHTNESS", -0.1, "at least 0"),
    ("INPUT.AUTOAUG.PROB", 2, "at most 1"),
    ("INPUT.RPT.PROB", 1.5, "at most 1"),
    ("INPUT.PADDING.MODE", "zero", "constant, edge, reflect, symmetric"),
    ("INPUT.PADDING.SIZE", -1, "at least 0"),
    ("INPUT.PADDING.SIZE", 1.5, "whole number"),
    ("INPUT.CROP.SIZE", [224.5, 224], "whole number"),
    ("INPUT.CROP.SCALE", [1, 0.5], "smaller one first"),
    ("INPUT.CROP.RATIO", [1.3, 0.7], "smaller one first"),
    ("MODEL.FREEZE_LAYERS", [1], "names only"),
    ("MODEL.HEADS.SCALE", -1, "at least 0"),
    ("MODEL.LOSSES.CE.EPSILON", 2.0, "at most 1"),
    ("MODEL.LOSSES.CE.ALPHA", -0.2, "at least 0"),
    ("MODEL.LOSSES.CIRCLE.GAMMA", -1, "at least 0"),
    ("MODEL.LOSSES.CIRCLE.SCALE", -1.0, "at least 0"),
    ("MODEL.LOSSES.COSFACE.GAMMA", -1, "at least 0"),
    ("MODEL.LOSSES.COSFACE.SCALE", -1.0, "at least 0"),
    ("INPUT.AUTOAUG.ENABLED", True, "raise it, to 0.1"),
    ("INPUT.AUGMIX.ENABLED", True, "raise it, to 0.1"),
    ("SOLVER.ETA_MIN_LR", -1, "at least 0"),
    ("SOLVER.IMS_PER_BATCH", 0, "at least 1"),
    ("SOLVER.IMS_PER_BATCH", 1, "at least 2 images"),
    ("TEST.IMS_PER_BATCH", 0, "at least 1"),
    ("SOLVER.MAX_EPOCH", 0, "at least 1"),
    ("SOLVER.CHECKPOINT_PERIOD", 0, "at least 1"),
    ("SOLVER.CHECKPOINT_ITERS", -1, "at least 0"),
    ("SOLVER.CHECKPOINT_KEEP", -1, "at least 0"),
    ("SOLVER.BASE_LR", float("inf"), "finite"),
    ("SOLVER.BASE_LR", -0.1, "at least 0"),
    ("SOLVER.OPT", "sgd", "SGD"),
    ("SOLVER.OPT", "LBFGS", "SGD"),
    ("SOLVER.SCHED", "StepLR", "MultiStepLR"),
    ("SOLVER.AMP.DTYPE", "float8", "auto"),
    ("SOLVER.WARMUP_METHOD", "none", "linear"),
    ("SOLVER.WARMUP_ITERS", -1, "at least 0"),
    ("SOLVER.STEPS", [40, 70.5], "whole number"),
    ("TEST.EVAL_PERIOD", -1, "at least 0"),
    ("TEST.METRIC", "cos", "cosine"),
    ("METABIN.SEED", -2, "at least -1"),
    ("METABIN.DOMAIN", "city", "dataset, camera"),
    ("METABIN.SCATTER_AVERAGE", "identity", "sample, domain"),
    ("METABIN.ITERS_PER_EPOCH", -1, "at least 0"),
    ("METABIN.FIRST_BASE_UPDATES", 0, "at least 1"),
    ("METABIN.IMS_PER_BATCH", -1, "at least 0"),
    ("METABIN.NUM_META_TRAIN", 0, "at least 1"),
    ("METABIN.META_TRAIN_LOSSES", (), "empty"),
    ("METABIN.INNER_LR.LOW", -0.1, "at least 0"),
    ("METABIN.INNER_LR.HIGH", 1e39, "at most 3.4"),
    ("METABIN.GRAPH_SAMPLER.PERIOD", 0, "at least 1"),
    ("METABIN.GRAPH_SAMPLER.MAX_IDENTITIES", 1, "at least 2"),
    ("METABIN.MIXSTYLE.PROBABILITY", 1.5, "at most 1"),
    ("METABIN.MIXSTYLE.ALPHA", 0.0, "at least 0.01"),
    ("METABIN.MIXSTYLE.PARTNERS", "camera", "domain, any"),
    ("METABIN.MIXSTYLE.LAYERS", ("layer1", "layer1"), "twice"),
    ("METABIN.SYNC_STATS", 1, "True or False"),
    ("METABIN.PARTIAL_WEIGHTS", None, "True or False"),
    ("METABIN.SECOND_ORDER", "yes", "True or False"),
    ("MODEL.PIXEL_MEAN", [[]], "3 finite numbers"),
    ("MODEL.PIXEL_MEAN", ["a", 1.0, 2.0], "3 finite numbers"),
    ("MODEL.PIXEL_MEAN", [1.0, 2.0], "3 finite numbers"),
    ("MODEL.PIXEL_MEAN", [1.0, float("nan"), 2.0], "3 finite numbers"),
    ("MODEL.PIXEL_MEAN", [10**400, 1, 1], "3 finite numbers"),
    ("MODEL.PIXEL_STD", [1.0, 0.0, 2.0], "3 finite numbers above 0"),
    ("MODEL.PIXEL_STD", [1.0, None, 2.0], "3 finite numbers above 0"),
    ("INPUT.CROP.SIZE", [224, -1], "2 finite numbers above 0"),
    ("INPUT.CROP.SCALE", "ab", "a list"),
    ("INPUT.CROP.RATIO", [0.75, float("inf")], "2 finite numbers above 0"),
    ("INPUT.REA.VALUE", [], "3 finite numbers"),
    ("METABIN.NORM_FORM", "compiled", "auto, plain, native, triton"),
    ("METABIN.CHANNELS_LAST", "True", "True or False"),
    ("METABIN.COMPILE", 1, "True or False"),
    ("METABIN.KEEP_MEMORY", None, "True or False"),
    ("METABIN.FOLD_TOLERANCE", -0.1, "at least 0"),
    ("METABIN.FOLD_TOLERANCE", 1.5, "at most 1"),
    ("METABIN.FOLD_TOLERANCE", float("nan"), "finite"),
    ("METABIN.STEPS_COUNT_WARMUP", 0, "True or False"),
    ("METABIN.SEED", 2**32, "at most 4294967295"),
    ("METABIN.INNER_LR.PERIOD", float("inf"), "finite"),
    ("METABIN.INNER_LR.HIGH", 1e-4, "below LOW"),
    ("METABIN.OUTER_LR", float("nan"), "finite"),
    ("METABIN.OUTER_LR", -1.0, "at least 0"),
    ("METABIN.INNER_DIRECTION", "none", "gradient, random"),
    ("METABIN.OUTER_LOSS", "meta-train", "meta-test, sum"),
    ("METABIN.OUTER_LR_WARMUP", "linear", "True or False"),
    ("METABIN.FREEZE_AFTER", -1, "at least 0"),
    ("METABIN.FREEZE_AFTER", 0.5, "whole number"),
    ("METABIN.AVERAGE.DECAY", 1.0, "at most 0.999999"),
    ("METABIN.AVERAGE.DECAY", -0.1, "at least 0"),
    ("METABIN.AVERAGE.DECAY", float("nan"), "finite"),
    ("METABIN.AVERAGE.OF", "weights", "all, gates"),
    ("METABIN.HOOKS", ("Nothing",), "'Nothing'"),
    ("METABIN.HOOKS", ("MetaLearningHook", "MetaLearningHook"), "twice"),
    ("METABIN.META_TRAIN_LOSSES", ("X",), "'X'"),
    ("METABIN.META_TEST_LOSSES", (), "empty"),
    ("METABIN.META_TEST_LOSSES", ("TripletLoss", "TripletLoss"), "twice"),
]


@pytest.mark.parametrize(("key", "value", "words"), BAD_VALUES)
def test_bad_values_are_refused_by_key(key: str, value: object, words: str) -> None:
    cfg = good()
    *nodes, name = key.split(".")
    node = cfg
    for inner in nodes:
        node = node[inner]
    node[name] = value
    sentence = refused(cfg)
    assert sentence.startswith(f"{key} ")
    assert words in sentence


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("CLIP_GRADIENTS", {"CLIP_VALUE": -1.0}, "CLIP_GRADIENTS.CLIP_VALUE is -1.0; give it a"),
        ("CLIP_GRADIENTS", {"CLIP_VALUE": 0}, "CLIP_GRADIENTS.CLIP_VALUE is 0; give it a"),
        ("CLIP_GRADIENTS", {"CLIP_VALUE": float("nan")}, "CLIP_VALUE is nan; give it a"),
        ("CLIP_GRADIENTS", {"NORM_TYPE": 0.0}, "CLIP_GRADIENTS.NORM_TYPE is 0.0; give it a"),
        ("PRECISE_BN", {"NUM_ITER": 0}, "TEST.PRECISE_BN.NUM_ITER is 0; it must be at least 1"),
        ("PRECISE_BN", {"NUM_ITER": 1.5}, "TEST.PRECISE_BN.NUM_ITER is 1.5; give it a whole"),
    ],
)
def test_what_is_not_used_may_have_any_value(
    section: str, values: dict[str, object], words: str
) -> None:
    cfg = good()
    node = {**cfg.SOLVER, **cfg.TEST}[section]
    node.update(values)
    check_config(cfg)
    node.ENABLED = True
    assert words in refused(cfg)


def test_the_largest_norm_of_a_gradient_is_one() -> None:
    cfg = good()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = float("inf")
    check_config(cfg)


def test_nesterov_needs_momentum() -> None:
    cfg = good()
    cfg.SOLVER.OPT, cfg.SOLVER.NESTEROV, cfg.SOLVER.MOMENTUM = "SGD", True, 0.0
    assert refused(cfg).startswith("SOLVER.NESTEROV is True, but SOLVER.MOMENTUM is 0")
    cfg.SOLVER.OPT = "Adam"
    check_config(cfg)


def test_a_teacher_moves_between_standing_still_and_following() -> None:
    cfg = good()
    cfg.MODEL.META_ARCHITECTURE, cfg.KD.EMA.ENABLED, cfg.KD.EMA.MOMENTUM = "Distiller", True, 5.0
    cfg.METABIN.HOOKS = ()
    assert refused(cfg).startswith("KD.EMA.MOMENTUM is 5.0; it must be at least 0 and at most 1")


def test_synchronization_needs_the_architecture_that_has_it() -> None:
    cfg = good()
    cfg.METABIN.SYNC_STATS = True
    check_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "Baseline"
    cfg.METABIN.HOOKS = ()
    assert refused(cfg).startswith("METABIN.SYNC_STATS is True")


def test_what_is_compiled_has_no_second_derivative() -> None:
    cfg = good()
    cfg.METABIN.COMPILE = True
    check_config(cfg)
    cfg.METABIN.SECOND_ORDER = True
    sentence = refused(cfg)
    assert sentence.startswith("METABIN.COMPILE is True")
    assert "METABIN.SECOND_ORDER" in sentence
    # Nothing is differentiated twice without the meta step.
    cfg.METABIN.HOOKS = ()
    check_config(cfg)


def test_a_run_without_evaluation_needs_no_target() -> None:
    cfg = good()
    cfg.DATASETS.TESTS = ()
    cfg.TEST.EVAL_PERIOD = 0
    check_config(cfg)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cfg = good()
    for name in ("cuda", "cuda:1"):
        cfg.MODEL.DEVICE = name
        check_config(cfg)
    for name in ("cuda:2", "cuda:200"):
        cfg.MODEL.DEVICE = name
        assert "sees 2 device(s)" in refused(cfg)


def test_processes_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    cfg = good()
    cfg.MODEL.DEVICE = "cuda"
    check_config(cfg)
    cfg.MODEL.DEVICE = "cuda:1"
    assert "'cuda:1', one GPU for 2 processes; set it to cuda" in refused(cfg)


def test_processes_need_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 4)
    for key, value, words in (
        ("SOLVER", 42, "multiple of the number of processes, 4"),
        ("SOLVER", 4, "at least 2 images"),
        ("TEST", 3, "TEST.IMS_PER_BATCH is 3, but 4 processes"),
    ):
        cfg = good()
        cfg[key].IMS_PER_BATCH = value
        assert words in refused(cfg)
    cfg = good()
    cfg.METABIN.SEED = 2**32 - 3
    assert "METABIN.SEED" in refused(cfg)


def train_by_command(options: list[str]) -> None:
    arguments = ["--config-file", str(CONFIGS / "MetaBIN.yml"), *options]
    train_or_evaluate(default_argument_parser().parse_args(arguments))


def train_by_trainer(options: list[str]) -> None:
    MetaBINTrainer(read_config(str(CONFIGS / "MetaBIN.yml"), options)).train()


def build_alone(options: list[str]) -> None:
    MetaBINTrainer.build_model(read_config(str(CONFIGS / "MetaBIN.yml"), options))


def exit_with_count(door: Callable[[list[str]], None], options: list[str]) -> None:
    calls: list[CfgNode] = []
    check = config_check.check_config
    config_check.check_config = lambda cfg: (calls.append(cfg), check(cfg))[1]
    door(options)
    raise SystemExit(len(calls))


@pytest.mark.parametrize("door", [train_by_command, train_by_trainer, build_alone])
def test_a_config_is_checked_once_whatever_it_is_used_for(
    tmp_path: Path, door: Callable[[list[str]], None]
) -> None:
    (tmp_path / "out").mkdir()
    shortest = ["SOLVER.MAX_EPOCH", "1", "METABIN.ITERS_PER_EPOCH", "1", "TEST.EVAL_PERIOD", "0"]
    options = [*tiny_options(tmp_path), *small_backbone.OPTIONS, *shortest]
    process = start(exit_with_count, door, options)
    process.join()
    assert process.exitcode == 1


def test_what_follows_a_checked_block_is_checked_again() -> None:
    cfg = good()
    with checked(cfg), checked(cfg):
        pass
    cfg.SOLVER.IMS_PER_BATCH = 0
    with pytest.raises(ConfigError, match="IMS_PER_BATCH"), checked(cfg):
        pytest.fail("the block of a config that cannot work was run")


@pytest.mark.parametrize("key", ["SIZE_TRAIN", "SIZE_TEST"])
@pytest.mark.parametrize("size", [[0, 0], [32], [0]])
def test_no_resizing_and_one_side_need_a_crop(key: str, size: list[int]) -> None:
    cfg = good()
    cfg.INPUT.PADDING.ENABLED = False
    cfg.INPUT[key] = size
    assert f"INPUT.{key}" in refused(cfg)
    cfg.INPUT.CROP.ENABLED = True
    check_config(cfg)


def test_what_is_padded_is_cropped_to_a_size() -> None:
    cfg = good()
    cfg.INPUT.CROP.ENABLED = cfg.INPUT.PADDING.ENABLED = True
    cfg.INPUT.SIZE_TRAIN = [0, 0]
    assert refused(cfg).startswith("INPUT.SIZE_TRAIN is 0; it must be at least 1")
    cfg.INPUT.SIZE_TRAIN = [32]
    check_config(cfg)
