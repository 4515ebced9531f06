"""From photographs in folders to the exported network, as tools/README.md describes it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from tests.cli.readme_commands import ROOT, commands, joined_lines, run, workspace

PATH = """
python tools/make_manifest.py photos --layout '{camera}/{identity}/*' \
    --output shop.csv --config shop.yml
python tools/check_datasets.py --drop-unreadable --config-file shop.yml
python tools/train_net.py --config-file shop.yml
python tools/train_net.py --config-file shop.yml --eval-only MODEL.WEIGHTS logs/shop/model_final.pth
python tools/search.py index --config-file shop.yml --gallery photos --skip-unreadable \
    --output shop.index MODEL.WEIGHTS logs/shop/model_final.pth
python tools/search.py query shop.index person.jpg
python tools/visualize.py --config-file shop.yml --dataset shop.csv \
    MODEL.WEIGHTS logs/shop/model_final.pth
python tools/export_onnx.py --config-file shop.yml --output shop.onnx \
    MODEL.WEIGHTS logs/shop/model_final.pth
python tools/compare_onnx.py shop.onnx person.jpg other.jpg
"""
WAY = [words for words in joined_lines(PATH) if words]
# Two iterations on small images instead of minutes, without the half minute of a compiler.
SHORT = ["SOLVER.MAX_EPOCH", "1", "METABIN.ITERS_PER_EPOCH", "2", "DATALOADER.NUM_WORKERS", "0"]
SHORT += ["METABIN.NORM_FORM", "native", "TEST.EVAL_PERIOD", "1"]
SHORT += ["INPUT.SIZE_TRAIN", "[64, 32]", "INPUT.SIZE_TEST", "[64, 32]"]
# Two iterations have moved no gate further; each open layer is written for seconds.
SHORT += ["METABIN.FOLD_TOLERANCE", "0.1"]
CAMERAS = {"entrance": (0, 30, 0), "hall": (30, 0, 0), "yard": (0, 0, 30)}


def draw(folder: Path) -> None:
    """Photographs of six people in three cameras' light, and what else is in such folders."""
    rng = np.random.default_rng(0)
    for person in range(6):
        colour = rng.integers(40, 216, 3)
        for camera, light in CAMERAS.items():
            place = folder / camera / f"Jörg {person}"
            place.mkdir(parents=True)
            for shot in range(3):
                pixels = colour + light + rng.integers(-30, 30, (64, 32, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(place / f"IMG {shot}.{'JPG' if shot else 'png'}")
    broken = folder / "yard" / "Jörg 3" / "IMG 1.JPG"
    broken.write_bytes(broken.read_bytes()[:300])
    (folder / "yard" / "Jörg 3" / "IMG_9.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "yard" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")


def stand_in(path: Path) -> None:
    """Write random weights in the place of those that would be downloaded."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            # Takes over the statistics of the first batch; with others nothing reaches the end.
            layer.momentum = 1.0
    network(torch.randn(16, 3, 64, 32))
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)


@pytest.mark.slow
def test_photographs_become_a_network_that_finds_people(tmp_path: Path) -> None:
    folder = workspace(tmp_path)
    draw(folder / "photos")
    shutil.copy(folder / "photos/hall/Jörg 2/IMG 1.JPG", folder / "person.jpg")
    shutil.copy(folder / "photos/yard/Jörg 4/IMG 1.JPG", folder / "other.jpg")
    stand_in(folder / "hub" / "hub" / "checkpoints" / "mobilenet_v2-b0353104.pth")
    said = []
    for words in WAY:
        more = SHORT if "--config-file" in words else []
        said.append(run((*words, *more), folder, {"TORCH_HOME": str(folder / "hub")}))
    manifest, check, train, evaluation, index, query, visual, export, compared = said

    assert "Pillow does not read; convert them to JPEG (yard/Jörg 3/IMG_9.HEIC)" in manifest
    assert "next: metabin check --config-file shop.yml" in manifest
    assert "shop.csv: 1 lines of images that cannot be read were taken out" in check
    assert "0 problem(s)" in check
    assert "mtest_loss_triplet" in train
    assert (folder / "logs/shop/results.csv").exists() and "| shop.csv" in evaluation
    assert "IMG 1.JPG cannot be read" in index and "IMG_9.HEIC" in index
    with (folder / "found.csv").open(encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    assert first["path"].endswith("photos/hall/Jörg 2/IMG 1.JPG"), query
    assert (folder / "found.png").exists() and "ranked.png" in visual
    assert "largest relative difference" in export
    same, other = (line.split() for line in compared.splitlines())
    assert (same[1], other[1]) == ("person.jpg", "other.jpg")
    assert abs(float(same[0])) < 1e-3 < float(other[0])


def test_the_readme_shows_this_way() -> None:
    documented = [
        list(c.words) for c in commands(ROOT / "tools" / "README.md") if "shop." in c.text
    ]
    assert documented == WAY
