"""``metabin export``: a trained network as an ONNX file."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from pathlib import Path

from fastreid.config import CfgNode

import metabin_plugin
from metabin_plugin.deploy import Folding
from metabin_plugin.deploy.export import (
    check_onnx,
    check_packages,
    fold_network,
    image_size,
    network_to_export,
    operators,
    preparation,
    random_images,
    to_onnx,
)
from metabin_plugin.engine import read_config
from metabin_plugin.errors import ExportError
from metabin_plugin.files import check_file, check_not_read, write_whole

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


def run(options: Namespace) -> None:
    """Build, fold, export, compare with PyTorch, and only then write."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("metabin_plugin").setLevel(logging.INFO)
    check_packages()
    output = Path(options.output)
    check_file(output, "--output", ExportError)
    cfg = read_config(options.config_file, options.opts)
    read = filter(None, (options.config_file, cfg.MODEL.WEIGHTS))
    check_not_read(output, "--output", read, ExportError)
    network = network_to_export(cfg)
    size = image_size(cfg)
    folding = fold_network(network, size, cfg.METABIN.FOLD_TOLERANCE)
    print(folding)
    content = to_onnx(
        folding.network, random_images(2, size), metadata(cfg, folding), options.opset
    )
    batches = [random_images(count, size, seed=count) for count in BATCH_SIZES]
    difference = check_onnx(content, folding.network, batches)
    print(f"largest relative difference of onnxruntime from PyTorch: {difference:.1e}")
    print(f"operators: {', '.join(f'{name} {n}' for name, n in operators(content).items())}")
    write_whole(output, lambda file: file.write(content), ExportError)
    print(f"{output}: {len(content) / 1e6:.1f} MB, images (batch, 3, {size[0]}, {size[1]})")


def metadata(cfg: CfgNode, folding: Folding) -> dict[str, str]:
    """What a user of the file has to know: by words, by config key, by counts."""
    values: dict[str, object] = {
        "metabin_plugin": metabin_plugin.__version__,
        "images": f"RGB, float32, 0 to 255, {preparation(cfg)}",
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
