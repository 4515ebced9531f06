"""Compare photographs by an exported network, without metabin_plugin, fastreid or PyTorch.

python tools/compare_onnx.py model.onnx PHOTOGRAPH PHOTOGRAPH ...

Prints the distance of each photograph to the first one, by the network's TEST.METRIC: for cosine 0
is the same and 2 the most that it can be. What another program needs of the file is all in here.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

# For some other formats Pillow starts other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
METRICS = ("cosine", "euclidean")
LARGEST_SIDE = 4096


class Network(NamedTuple):
    """An exported network.

    Attributes:
        session: takes "images", float32 (N, 3, height, width), and gives "features" (N, D).
        width, height: of the images.
        resized: width and height that a photograph gets before its middle is taken.
        metric: what its features are compared by.
    """

    session: onnxruntime.InferenceSession
    width: int
    height: int
    resized: tuple[int, int]
    metric: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, compute, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="what export_onnx.py wrote")
    parser.add_argument("photographs", nargs="+", metavar="PHOTOGRAPH")
    args = parser.parse_args(arguments)
    network = load(args.model)
    images = np.stack([read(path, network) for path in args.photographs])
    (features,) = network.session.run(["features"], {"images": images})
    if np.ndim(features) != 2 or len(features) != len(images):
        raise ValueError(f"{args.model} does not give one row of features for each photograph")
    found = distances(features, network.metric)
    for path, distance in zip(args.photographs, found, strict=True):
        print(f"{distance:.3f}  {visible(path)}")


def load(path: str) -> Network:
    """Read an ONNX file.

    Args:
        path: of the file. onnxruntime is given its content alone, and so opens no other file that
            it names.

    Raises:
        ValueError: it lacks something of what ``export_onnx.py`` writes.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # What goes wrong is raised as well.
    with open(regular(path), "rb") as file:
        session = onnxruntime.InferenceSession(
            file.read(), options, providers=["CPUExecutionProvider"]
        )
    metadata = session.get_modelmeta().custom_metadata_map
    metric = metadata.get("TEST.METRIC")
    inputs = {node.name: (node.type, *node.shape) for node in session.get_inputs()}
    kind, *shape = inputs.get("images", [""])
    sides: list[Any] = shape[2:]
    if len(inputs) != 1 or kind != "tensor(float)" or len(shape) != 4 or shape[1] != 3:
        fault = f"takes {inputs}, and not just images: float32 (batch, 3, height, width)"
    elif not all(isinstance(side, int) and 1 <= side <= LARGEST_SIDE for side in sides):
        fault = f"takes images of {sides[0]} x {sides[1]}, and not of a height and width in pixels"
    elif "features" not in [node.name for node in session.get_outputs()]:
        fault = "gives no output of the name features"
    elif metric not in METRICS:
        fault = f"has the metadata TEST.METRIC {metric}, and not one of {', '.join(METRICS)}"
    else:
        resized = tested_size(metadata.get("INPUT.SIZE_TEST", str(sides)))
        if resized is not None:
            return Network(session, sides[1], sides[0], resized, metric)
        fault = f"has the metadata INPUT.SIZE_TEST {metadata['INPUT.SIZE_TEST']}, not two sides"
    raise ValueError(f"{path} {fault}; give a file that export_onnx.py wrote")


def tested_size(text: str) -> tuple[int, int] | None:
    """Width and height in which evaluation resizes photographs; None if the text is no such size.

    Args:
        text: "[height, width]".
    """
    match = re.fullmatch(r"[\[(](\d{1,4}), (\d{1,4})[\])]", text)
    height, width = (int(side) for side in match.groups()) if match else (0, 0)
    return (width, height) if all(0 < side <= LARGEST_SIDE for side in (height, width)) else None


def read(path: str, network: Network) -> np.ndarray:
    """An image as a network takes it: RGB, 0 to 255, float32 (3, height, width).

    Args:
        path: its file.
        network: the network. Where its images are smaller than what photographs are resized to, as
            with INPUT.CROP, they are the middle of that.
    """
    with Image.open(regular(path), formats=FORMATS) as file:
        upright = ImageOps.exif_transpose(file).convert("RGB")
    resized = upright.resize(network.resized, Image.Resampling.BICUBIC)
    left, top = (
        round((whole - part) / 2)
        for whole, part in zip(network.resized, (network.width, network.height), strict=True)
    )
    pixels = resized.crop((left, top, left + network.width, top + network.height))
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


def regular(path: str) -> str:
    """A path, if it is of a file; opening a pipe would wait for ever.

    Raises:
        ValueError: it is not.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file; correct its path")
    return path


def visible(text: str) -> str:
    """A text in one line, in which control characters, which act on a terminal, are escaped."""
    return "".join(
        sign if sign.isprintable() else ascii(sign)[1:-1] for sign in " ".join(text.split("\n"))
    )


if __name__ == "__main__":
    # Files that are no images or no networks, and what onnxruntime says of them.
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on, nor what Python writes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        sys.exit(f"error: {visible(str(error))}")
