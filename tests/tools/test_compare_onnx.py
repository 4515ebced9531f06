"""Comparing photographs by an ONNX file that may come from someone else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fastreid.config import get_cfg
from fastreid.data.data_utils import read_image
from fastreid.data.transforms import build_transforms
from onnx import TensorProto, helper
from PIL import Image

import compare_onnx
from tests.processes import run_script

TOOL = Path(__file__).parents[2] / "tools" / "compare_onnx.py"
FLOAT = TensorProto.FLOAT


def write_model(
    path: Path,
    shape: Sequence[Any] = ("batch", 3, 8, 4),
    *,
    kind: int = FLOAT,
    name: str = "images",
    output: str = "features",
    metric: str | None = "euclidean",
    size_test: str | None = None,
    more_inputs: Sequence[Any] = (),
    operator: str = "ReduceMean",
) -> onnx.ModelProto:
    """A network whose features are the means of the colours."""
    nodes = [helper.make_node(operator, [name, "axes"][: 1 + (operator == "ReduceMean")], [output])]
    if operator == "ReduceMean":
        nodes[0].attribute.append(helper.make_attribute("keepdims", 0))
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info(name, kind, shape), *more_inputs],
        [helper.make_tensor_value_info(output, kind, None)],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [-2, -1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if metric is not None:
        model.metadata_props.add(key="TEST.METRIC", value=metric)
    if size_test is not None:
        model.metadata_props.add(key="INPUT.SIZE_TEST", value=size_test)
    path.write_bytes(model.SerializeToString())
    return model


@pytest.fixture
def photographs(tmp_path: Path) -> list[str]:
    paths = []
    for name, colour in (("a.png", (10, 0, 0)), ("b.png", (10, 3, 4))):
        Image.new("RGB", (6, 12), colour).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths


def test_the_distances_are_printed(
    tmp_path: Path, photographs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "m.onnx")
    compare_onnx.main([str(tmp_path / "m.onnx"), *photographs])
    assert capsys.readouterr().out == f"0.000  {photographs[0]}\n25.000  {photographs[1]}\n"
    write_model(tmp_path / "m.onnx", metric="cosine")
    compare_onnx.main([str(tmp_path / "m.onnx"), *photographs])
    cosine = 1 - 100 / (10 * np.sqrt(125))
    assert f"{cosine:.3f}  {photographs[1]}" in capsys.readouterr().out


@pytest.mark.parametrize("crop", [(8, 4), (7, 5), (24, 12), (11, 4)])
def test_images_are_those_of_evaluation(tmp_path: Path, crop: tuple[int, int]) -> None:
    """Resized, and cropped where INPUT.CROP says so."""
    photograph = tmp_path / "photograph.png"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photograph)
    cfg = get_cfg()
    cfg.INPUT.SIZE_TEST = [24, 12]
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.SIZE = True, list(crop)
    expected = build_transforms(cfg, is_train=False)(read_image(str(photograph)))
    write_model(tmp_path / "m.onnx", ("batch", 3, *crop), size_test="[24, 12]")
    network = compare_onnx.load(str(tmp_path / "m.onnx"))
    np.testing.assert_array_equal(compare_onnx.read(str(photograph), network), expected.numpy())


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "three dimensions": ({"shape": (3, 8, 4)}, "not just images: float32 (batch, 3, height"),
    "no dimensions": ({"shape": None}, "not just images"),
    "grey": ({"shape": ("batch", 1, 8, 4)}, "not just images"),
    "double": ({"kind": TensorProto.DOUBLE}, "not just images"),
    "another input": ({"name": "pixels"}, "not just images"),
    "two inputs": (
        {"more_inputs": [helper.make_tensor_value_info("camera", FLOAT, [1])]},
        "not just images",
    ),
    "symbolic size": ({"shape": ("batch", 3, "h", "w")}, "images of h x w, and not of a height"),
    "unknown size": ({"shape": ("batch", 3, None, 4)}, "and not of a height and width"),
    "huge": ({"shape": ("batch", 3, 2**30, 2**30)}, "and not of a height and width"),
    "another output": ({"output": "means"}, "gives no output of the name features"),
    "no metadata": ({"metric": None}, "has the metadata TEST.METRIC None, and not one of cosine"),
    "another metric": ({"metric": "ha\x1b[2J"}, "has the metadata TEST.METRIC ha"),
    "a size with one side": ({"size_test": "[64]"}, "INPUT.SIZE_TEST [64], not two sides"),
    "no size": ({"size_test": "[0, 0]"}, "INPUT.SIZE_TEST [0, 0], not two sides"),
    "a huge size": ({"size_test": "[9999, 9999]"}, "INPUT.SIZE_TEST [9999, 9999], not two sides"),
    "no rows": ({"operator": "Relu"}, "does not give one row of features for each photograph"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_file_lacks_is_said(tmp_path: Path, photographs: list[str], fault: str) -> None:
    options, words = FAULTS[fault]
    write_model(tmp_path / "m.onnx", **options)
    with pytest.raises(ValueError) as caught:
        compare_onnx.main([str(tmp_path / "m.onnx"), *photographs])
    assert words in str(caught.value) and "m.onnx" in str(caught.value)


@pytest.mark.parametrize("where", ["m.bin", "../m.bin", "/", "constant"])
def test_no_other_file_is_read(
    tmp_path: Path, photographs: list[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for path in (folder / "m.bin", tmp_path / "m.bin"):
        path.write_bytes(np.array([-2, -1]).tobytes())
    model = write_model(folder / "m.onnx")
    (axes,) = model.graph.initializer
    axes.ClearField("int64_data")
    axes.data_location = TensorProto.EXTERNAL
    location = {"/": str(folder / "m.bin"), "constant": "m.bin"}.get(where, where)
    axes.external_data.add(key="location", value=location)
    axes.external_data.add(key="length", value="16")
    if where == "constant":
        model.graph.node.insert(0, helper.make_node("Constant", [], ["axes"], value=axes))
        del model.graph.initializer[:]
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(Exception, match=r"(?i)external data|model_path"):
        compare_onnx.main(["m.onnx", *photographs])


def test_hostile_files_get_a_sentence_that_does_nothing_to_a_terminal(
    tmp_path: Path, photographs: list[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken.onnx").write_bytes(b"\x1b[2J no network")
    escaping = tmp_path / "\x1b[2J.png"
    escaping.write_bytes(Path(photographs[0]).read_bytes())
    write_model(tmp_path / "m.onnx")
    write_model(tmp_path / "escapes.onnx", name="a\x1b[2J")
    write_model(tmp_path / "unknown.onnx", operator="No\x1b[2J\x9b31mSuch")
    (tmp_path / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    tried = [
        (tmp_path / "pipe", photographs[0], "pipe is not a file"),
        (tmp_path / "absent.onnx", photographs[0], "is not a file"),
        (tmp_path / "broken.onnx", photographs[0], ""),
        (tmp_path / "escapes.onnx", photographs[0], "not just images"),
        (tmp_path / "unknown.onnx", photographs[0], r"\x1b[2J"),
        (tmp_path / "m.onnx", tmp_path / "pipe", "pipe is not a file"),
        (tmp_path / "m.onnx", tmp_path / "eps.jpg", "cannot identify image file"),
    ]
    for model, photograph, words in tried:
        done = run_script(TOOL, model, photograph)
        assert done.returncode == 1 and words in done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.removesuffix("\n").isprintable()
    done = run_script(TOOL, tmp_path / "m.onnx", escaping)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"0.000  {tmp_path}/\\x1b[2J.png\n"
