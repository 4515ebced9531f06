"""Export a trained network as an ONNX file, with its normalization folded into convolutions.

python tools/export_onnx.py --config-file configs/MetaBIN.yml --output model.onnx
    MODEL.WEIGHTS logs/metabin/model_final.pth [KEY VALUE ...]

The file takes `images`: RGB, float32, 0 to 255, (batch, 3, height, width), resized as in evaluation
(bicubic, INPUT.SIZE_TEST). It gives `features`: what evaluation compares by TEST.METRIC, without
TEST.FLIP. METABIN.FOLD_TOLERANCE takes gates that are near 1 for 1.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from fastreid.config import CfgNode

import metabin_plugin
from metabin_plugin.deploy import Folding
from metabin_plugin.deploy.network import (
    fold_network,
    image_size,
    network_to_export,
    random_images,
)
from metabin_plugin.deploy.onnx_file import OPSETS, check_onnx, check_packages, operators, to_onnx
from metabin_plugin.engine import read_config
from metabin_plugin.errors import ExportError
from metabin_plugin.files import check_file, write_whole

# Config keys that the file's metadata repeats.
KEYS = (
    "MODEL.META_ARCHITECTURE",
    "MODEL.BACKBONE.NAME",
    "MODEL.BACKBONE.DEPTH",
    "MODEL.BACKBONE.NORM",
    "INPUT.SIZE_TEST",
    "TEST.METRIC",
    "METABIN.FOLD_TOLERANCE",
)
BATCH_SIZES = (1, 3)


def main() -> None:
    """Build, fold, export, compare with PyTorch, and only then write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="", help="the config of the training")
    parser.add_argument("--output", required=True, help="the ONNX file to write")
    parser.add_argument(
        "--opset",
        type=int,
        choices=OPSETS,
        default=OPSETS[-1],
        help="version of ONNX's operators; TensorRT 8 reads 17 (default: %(default)s)",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("metabin_plugin").setLevel(logging.INFO)
    check_packages()
    check_output(arguments.output)
    cfg = read_config(arguments.config_file, arguments.opts)
    network = network_to_export(cfg)
    size = image_size(cfg)
    folding = fold_network(network, size, cfg.METABIN.FOLD_TOLERANCE)
    print(folding)
    content = to_onnx(
        folding.network, random_images(2, size), metadata(cfg, size, folding), arguments.opset
    )
    batches = [random_images(count, size, seed=count) for count in BATCH_SIZES]
    difference = check_onnx(content, folding.network, batches)
    print(f"largest relative difference of onnxruntime from PyTorch: {difference:.1e}")
    print(f"operators: {', '.join(f'{name} {n}' for name, n in operators(content).items())}")
    write_whole(Path(arguments.output), lambda file: file.write(content), ExportError)
    print(
        f"{arguments.output}: {len(content) / 1e6:.1f} MB, images (batch, 3, {size[0]}, {size[1]})"
    )


def metadata(cfg: CfgNode, size: tuple[int, int], folding: Folding) -> dict[str, str]:
    """What a user of the file has to know: by words, by config key, by counts."""
    values: dict[str, object] = {
        "metabin_plugin": metabin_plugin.__version__,
        "images": f"RGB, float32, 0 to 255, resized (bicubic) to height {size[0]}, width {size[1]}",
        "features": f"one row per image, compared by {cfg.TEST.METRIC} distance",
        "weights": os.path.basename(cfg.MODEL.WEIGHTS),
        "folding": folding,
    }
    for key in KEYS:
        value = cfg
        for name in key.split("."):
            value = value[name]
        values[key] = value
    return {name: str(value) for name, value in values.items()}


def check_output(path: str) -> None:
    """Refuse a path that cannot be written before the work is done, and make its folder.

    Raises:
        ExportError: it is a folder, or there can be no such file.
    """
    check_file(Path(path), "--output", ExportError)
