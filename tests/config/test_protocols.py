"""The protocol configs: each can be trained, and says what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastreid.data.datasets import DATASET_REGISTRY

from metabin_plugin.data.benchmark_counts import PUBLISHED
from metabin_plugin.engine import check_config, read_config
from metabin_plugin.registries import registered

FOLDER = Path(__file__).parents[2] / "configs" / "protocols"
PROTOCOLS = sorted(path.stem for path in FOLDER.glob("*-*.yml") if not path.stem.startswith("Base"))
CAMERAS = {"DG_Market1501_Split": 6, "DG_DukeMTMC_Split": 8, "DG_MSMT17_Split": 15}
SOURCE_NAMES = {"Market": "Market1501", "Duke": "DukeMTMC", "MSMT17": "MSMT17", "CUHK03": "CUHK03"}


def test_there_are_all_of_them() -> None:
    names = ["P1", "P1-without-Duke"]
    names += [f"P{p}-to-{target}" for p in (2, 3) for target in ("CUHK03", "MSMT17", "Market")]
    names += ["Market-to-Duke", "Duke-to-Market", "Market-to-MSMT17", "MSMT17-to-Market"]
    assert sorted(f"{n}-{b}" for n in names for b in ("MobileNetV2", "ResNet50")) == PROTOCOLS


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_can_start(name: str) -> None:
    cfg = read_config(str(FOLDER / f"{name}.yml"), ["MODEL.DEVICE", "cpu"])
    check_config(cfg)
    for dataset in (*cfg.DATASETS.NAMES, *cfg.DATASETS.TESTS):
        assert dataset in registered(DATASET_REGISTRY)
    sources = cfg.DATASETS.NAMES
    is_single = cfg.METABIN.DOMAIN == "camera"
    domains = CAMERAS[sources[0]] if is_single else len(sources)
    assert cfg.METABIN.NUM_META_TRAIN in (domains // 2, (domains + 1) // 2)
    batch = cfg.SOLVER.IMS_PER_BATCH
    assert batch % (domains * cfg.DATALOADER.NUM_INSTANCE) == 0
    assert batch // domains == 16 or is_single
    images = sum(PUBLISHED[source]["train"].images for source in sources)
    # The paper's own is not one pass.
    is_papers = name in ("P1-MobileNetV2", "P1-ResNet50")
    assert (1849 if is_papers else images // batch) == cfg.METABIN.ITERS_PER_EPOCH
    assert cfg.SOLVER.WARMUP_ITERS == 10 * cfg.METABIN.ITERS_PER_EPOCH
    assert f"logs/protocols/{name}" == cfg.OUTPUT_DIR
    assert ("resnet" in cfg.MODEL.BACKBONE.NAME) == name.endswith("ResNet50")
    target = name.rpartition("-")[0].partition("-to-")[2]
    if target:
        assert [t for t in cfg.DATASETS.TESTS if SOURCE_NAMES[target] not in t] == []
        assert not any(SOURCE_NAMES[target] in source for source in sources)
