"""Compare photographs by an exported network, without metabin_plugin, fastreid or PyTorch.

python tools/compare_onnx.py model.onnx PHOTOGRAPH PHOTOGRAPH ...

Prints the distance of each photograph to the first one, by the network's TEST.METRIC: for cosine 0
is the same and 2 the most that it can be. What another program needs of the file is all in here.
"""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main() -> None:
    """Read, compute, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="what export_onnx.py wrote")
    parser.add_argument("photographs", nargs="+", metavar="PHOTOGRAPH")
    args = parser.parse_args()
    session = onnxruntime.InferenceSession(args.model)
    _, _, height, width = session.get_inputs()[0].shape
    images = np.stack([read(path, (width, height)) for path in args.photographs])
    (features,) = session.run(["features"], {"images": images})
    metric = session.get_modelmeta().custom_metadata_map["TEST.METRIC"]
    for path, distance in zip(args.photographs, distances(features, metric), strict=True):
        print(f"{distance:.3f}  {path}")


def read(path: str, size: tuple[int, int]) -> np.ndarray:
    """An image as the network takes it: RGB, 0 to 255, float32 (3, height, width).

    Args:
        path: its file.
        size: width and height.
    """
    with Image.open(path) as file:
        upright = ImageOps.exif_transpose(file).convert("RGB")
    pixels = upright.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(pixels, dtype=np.float32).transpose(2, 0, 1)


def distances(features: np.ndarray, metric: str) -> np.ndarray:
    """Distances of all features (N, D) to the first one, as evaluation has them.

    Args:
        features: of the photographs.
        metric: cosine, or euclidean, which is squared.
    """
    if metric == "cosine":
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        return 1 - unit @ unit[0]
    return np.square(features - features[0]).sum(axis=1)


if __name__ == "__main__":
    # Files that are not there or no images, and files that are no such network.
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on, nor what Python writes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        sys.exit(f"error: {error}")
