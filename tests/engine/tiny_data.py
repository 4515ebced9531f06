"""Tiny image data on disk and a config that trains on it in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fastreid.config import CfgNode, get_cfg
from PIL import Image

CONFIGS = Path(__file__).parents[2] / "configs"
# Maps of a few pixels, which no real network has, get wrong numbers in half precision on some CPUs.
HALF_PRECISION = ("SOLVER.AMP.ENABLED", "True", "INPUT.SIZE_TRAIN", "[128, 64]")


def write_manifest(
    folder: Path, name: str, seed: int, identities: int = 4, images: int = 4, subset: str = "train"
) -> Path:
    """A manifest of noisy images with one colour per identity; two cameras."""
    rng = np.random.default_rng(seed)
    rows = ["path,pid,camid,subset"]
    (folder / name).mkdir(parents=True, exist_ok=True)
    for identity in range(identities):
        colour = rng.integers(0, 256, 3)
        for image in range(images):
            noise = rng.integers(-40, 40, (32, 16, 3))
            pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
            path = f"{name}/{identity}_{image}.png"
            Image.fromarray(pixels).save(folder / path)
            part = subset
            if subset == "test":
                part = "query" if image == 0 else "gallery"
            rows.append(f"{path},{identity},{image % 2 if image else 0},{part}")
    manifest = folder / f"{name}.csv"
    manifest.write_text("\n".join(rows) + "\n")
    return manifest


def tiny_options(folder: Path, domains: int = 3) -> list[str]:
    """KEY VALUE pairs for a run of seconds on three tiny domains and one target."""
    sources = [str(write_manifest(folder, f"source{d}", d)) for d in range(domains)]
    target = str(write_manifest(folder, "target", 99, subset="test"))
    options = {
        "DATASETS.NAMES": str(tuple(sources)),
        "DATASETS.TESTS": str((target,)),
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.BACKBONE.DEPTH": "18x",
        "MODEL.BACKBONE.FEAT_DIM": "512",
        "MODEL.BACKBONE.PRETRAIN": "False",
        "METABIN.NUM_META_TRAIN": "2",
        "METABIN.ITERS_PER_EPOCH": "2",
        "METABIN.SEED": "3",
        "DATALOADER.NUM_INSTANCE": "2",
        "DATALOADER.NUM_WORKERS": "0",
        "INPUT.SIZE_TRAIN": "[32, 16]",
        "INPUT.SIZE_TEST": "[32, 16]",
        "SOLVER.AMP.ENABLED": "False",
        "SOLVER.IMS_PER_BATCH": "12",
        "SOLVER.MAX_EPOCH": "2",
        "SOLVER.WARMUP_ITERS": "2",
        "SOLVER.CHECKPOINT_PERIOD": "1",
        "TEST.EVAL_PERIOD": "2",
        "TEST.IMS_PER_BATCH": "8",
        "OUTPUT_DIR": str(folder / "out"),
    }
    return [part for pair in options.items() for part in pair]


def tiny_config(folder: Path, *extra: str, base: str = "MetaBIN.yml", domains: int = 3) -> CfgNode:
    """The paper's config shrunk to tiny data, with further KEY VALUE pairs."""
    (folder / "out").mkdir(exist_ok=True)
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / base))
    cfg.merge_from_list([*tiny_options(folder, domains), *extra])
    return cfg
