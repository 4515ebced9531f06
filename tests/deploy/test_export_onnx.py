"""The exported file computes the trained network's features by plain operators."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from metabin_plugin.cli.main import execute
from metabin_plugin.deploy.export import (
    OPSETS,
    check_onnx,
    check_packages,
    fold_network,
    image_size,
    operators,
    preparation,
    random_images,
    to_onnx,
)
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.errors import ConfigError, ExportError
from metabin_plugin.modeling.mobilenetv2 import InvertedResidual, MobileNetV2
from metabin_plugin.norm import BatchInstanceNorm2d, InstanceNorm2d, convert_norm
from tests.distributed import small_backbone
from tests.engine.tiny_data import CONFIGS, tiny_config, tiny_options
from tests.processes import ROOT, run_script

TOOL = "tools/export_onnx.py"
SIZE = ["INPUT.SIZE_TEST", "[64, 32]"]
CROP = ["INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[24, 16]"]
PLAIN = {
    *("Add", "Sub", "Mul", "Div", "Sqrt", "Reciprocal", "ReduceMean", "Gather", "Unsqueeze"),
    *("Conv", "MaxPool", "Relu"),
}


def export(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    start = [TOOL, "--config-file", "configs/MetaBIN-demo.yml"]
    output = ["--output", folder / "model.onnx"]
    return run_script(*start, *output, *tiny_options(folder), *SIZE, *options)


@dataclass(frozen=True)
class Export:
    network: nn.Module
    done: subprocess.CompletedProcess[str]
    path: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A network with random norms and gates, half of them 1, and the tool's file of it."""
    folder = tmp_path_factory.mktemp("export")
    network = MetaBINTrainer.build_model(tiny_config(folder, *SIZE))
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0.3, 0.1)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
        if isinstance(layer, BatchInstanceNorm2d):
            layer.gate.data.uniform_(-1, 1).abs_()[::2] = 1
    torch.save({"model": network.state_dict()}, folder / "trained.pth")
    # The export runs on the CPU, whatever the training ran on.
    done = export(folder, "MODEL.WEIGHTS", str(folder / "trained.pth"), "MODEL.DEVICE", "cuda")
    assert done.returncode == 0, done.stderr
    return Export(network.eval(), done, folder / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 5])
def test_onnxruntime_computes_the_features_of_evaluation(exported: Export, count: int) -> None:
    images = torch.randint(0, 256, (count, 3, 64, 32)).float()
    with torch.no_grad():
        expected = exported.network({"images": images.clone()}).numpy()
    session = onnxruntime.InferenceSession(exported.path)
    (features,) = session.run(["features"], {"images": images.numpy()})
    assert features.shape == (count, 512)
    assert np.abs(features - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_the_file_has_plain_operators_and_says_what_it_is(exported: Export) -> None:
    model = onnx.load(exported.path)
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions
    used = {(node.domain, node.op_type) for node in model.graph.node}
    assert used <= {("", name) for name in PLAIN}
    batch, *rest = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param and [dim.dim_value for dim in rest] == [3, 64, 32]

    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert entries["MODEL.BACKBONE.NAME"] == "build_resnet_backbone"
    assert entries["INPUT.SIZE_TEST"] == "[64, 32]"
    assert entries["weights"] == "trained.pth"
    # 20 layers of BIN with every other gate at 1; the BNNeck has no convolution in front of it.
    assert (
        "2400 folded into convolutions, 512 a constant affine map, 2400 open" in entries["folding"]
    )
    assert entries["folding"] in exported.done.stdout


def beginning_of_mobilenetv2() -> nn.Module:
    """The first blocks of the paper's backbone, with all that the others have too."""
    blocks = convert_norm(MobileNetV2(1.0), "BIN").get_submodule("features")[:4]
    assert any(isinstance(part, InvertedResidual) and part.has_shortcut for part in blocks)
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def small_network(folder: Path) -> nn.Module:
    options = [*SIZE, "MODEL.HEADS.NUM_CLASSES", "4", *small_backbone.OPTIONS]
    return MetaBINTrainer.build_model(tiny_config(folder, *options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_small", "opset"), [*((True, opset) for opset in OPSETS), (False, OPSETS[0])]
)
def test_older_operators_compute_the_same(tmp_path: Path, is_small: bool, opset: int) -> None:
    """In a file of the version that came with them, for readers of that time."""
    network = small_network(tmp_path) if is_small else beginning_of_mobilenetv2()
    # Of each further BIN layer the exporter would do the same again, for seconds.
    for layer in [part for part in network.modules() if isinstance(part, BatchInstanceNorm2d)][:3]:
        layer.gate.data.uniform_(-1, 1).abs_()[::2] = 1
    # Smaller images end in maps of two pixels, whose instance normalization amplifies rounding.
    size = (128, 64)
    network = fold_network(network, size, tolerance=0).network
    content = to_onnx(network, random_images(2, size), {"key": "value"}, opset)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == {17: 8, 18: 8, 19: 9, 20: 9}[opset]
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("key", "value")]
    images = [random_images(count, size, seed=count) for count in (1, 3)]
    assert check_onnx(content, network, images) < 1e-4


@pytest.mark.slow
def test_a_network_of_instance_normalization_has_plain_operators_too() -> None:
    norms = InstanceNorm2d(4), nn.ReLU(), nn.InstanceNorm2d(4, affine=True), nn.ReLU()
    layers = nn.Conv2d(3, 4, 3), *norms, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    network = nn.Sequential(*layers).eval()
    network = fold_network(network, (12, 8), tolerance=0).network
    content = to_onnx(network, random_images(2, (12, 8)), {})
    assert "InstanceNormalization" not in operators(content)
    assert check_onnx(content, network, [random_images(n, (12, 8)) for n in (1, 3)]) < 1e-4


class Calls(nn.Module):
    """Calls a function of images."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda x: nn.functional.gelu(x).flatten(1),
        lambda x: x.amax(dim=(2, 3)) + x.sum(dim=(2, 3)) + x.mean(dim=(2, 3)),
        lambda x: nn.functional.adaptive_avg_pool2d(x, 1).flatten(1),
    ],
    ids=["GELU", "reductions", "pooling"],
)
def test_operators_that_have_changed_since_are_converted(
    function: Callable[[Tensor], Tensor],
) -> None:
    network, images = Calls(function).eval(), torch.rand(2, 3, 6, 6)
    for opset in OPSETS[:2]:
        content = to_onnx(network, images, {}, opset)
        assert check_onnx(content, network, [images, images[:1]]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x.int() & 3).float().flatten(1),
        lambda x: nn.functional.pad(x, (1, 1, 1, 1)).flatten(1),
        lambda x: torch.cat(x.split(1, dim=1)[::-1], dim=1).flatten(1),
    ],
    ids=["bits", "padding", "split"],
)
def test_an_operator_that_cannot_be_converted_is_one_sentence(
    function: Callable[[Tensor], Tensor],
) -> None:
    network, images = Calls(function).eval(), torch.rand(2, 3, 6, 6)
    to_onnx(network, images, {}, 18)
    words = r"^Calls cannot be exported in ONNX opset 17 \(.*\); export it with --opset 18$"
    with pytest.raises(ExportError, match=words):
        to_onnx(network, images, {}, 17)


@pytest.mark.slow
@pytest.mark.parametrize("opset", ["16", "new"])
def test_other_opsets_are_refused(opset: str) -> None:
    done = run_script(TOOL, "--output", "a.onnx", "--opset", opset)
    assert done.returncode == 2
    assert "--opset" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_file_has_no_path_of_the_machine(exported: Export) -> None:
    content = exported.path.read_bytes()
    for folder in (ROOT, exported.path.parent, Path(sys.prefix), Path(torch.__file__).parent):
        assert str(folder).encode() not in content
    assert b"stack_trace" not in content


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    images = torch.rand(2, 3, 5, 5)
    content = to_onnx(network, images, {})
    assert check_onnx(content, network, [images, images[:1]]) < 1e-5
    with torch.no_grad():
        network[0].weight[0] *= 1.1
    with pytest.raises(ExportError, match="differ from the network's"):
        check_onnx(content, network, [images])
    with torch.no_grad():
        network[0].weight.fill_(float("nan"))
    with pytest.raises(ExportError, match="differ from the network's by nan"):
        check_onnx(content, network, [images])


class Rounding(nn.Module):
    """Features of at most 1 that lose all but about 1 / unit of their digits in float32."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) + self.unit) - self.unit


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "is_accepted"), [(1e3, True), (1e5, True), (1e7, False)])
def test_a_network_that_enlarges_rounding_is_compared_with_pytorchs(
    unit: float, is_accepted: bool
) -> None:
    images = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    content = to_onnx(Rounding(unit).eval(), images, {})
    if is_accepted:
        assert 0 < check_onnx(content, Rounding(unit), [images]) < 0.1
    else:
        with pytest.raises(ExportError, match="and PyTorch's by"):
            check_onnx(content, Rounding(unit), [images])


@pytest.mark.slow
def test_a_hundredth_that_pytorch_has_not_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    images = torch.rand(2, 3, 5, 5)
    content = to_onnx(network, images, {})
    with torch.no_grad():
        network[0].weight *= 1.005
        network[0].bias *= 1.005
    with pytest.raises(ExportError, match="differ from the network's"):
        check_onnx(content, network, [images])


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.sum().item() > 0) if x.sum() > 0 else x


@pytest.mark.slow
def test_a_network_that_cannot_be_exported_is_named() -> None:
    with pytest.raises(ExportError, match="Unexportable cannot be exported to ONNX"):
        to_onnx(Unexportable().eval(), torch.rand(2, 3), {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["MODEL.WEIGHTS", ""], "MODEL.WEIGHTS is empty"),
        (["MODEL.WEIGHTS", "absent.pth"], "absent.pth"),
    ],
)
def test_what_users_get_wrong_ends_in_one_sentence(
    tmp_path: Path, options: list[str], words: str
) -> None:
    done = export(tmp_path, *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert words in sentence
    assert not (tmp_path / "model.onnx").exists()


def test_an_output_that_cannot_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.WEIGHTS"):
        execute(["export", "--output", str(tmp_path / "absent" / "model.onnx")])
    assert (tmp_path / "absent").is_dir()
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "model.onnx"):
        with pytest.raises(ExportError, match=str(path)):
            execute(["export", "--output", str(path)])
    for option in ("MODEL.WEIGHTS", "--config-file"):
        config = str(CONFIGS / "MetaBIN-demo.yml") if option == "MODEL.WEIGHTS" else "file"
        words = ["--config-file", config, "--output", "file", "MODEL.WEIGHTS", "file"]
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").write_text("OUTPUT_DIR: x")
        with pytest.raises(ExportError, match="--output file is a file that is read; give another"):
            execute(["export", *words])
        assert (tmp_path / "file").read_text() == "OUTPUT_DIR: x"


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_packages()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match=r"needs onnxscript; .*metabin_plugin\[export\]"):
        check_packages()


def test_the_image_size_is_that_of_evaluation(tmp_path: Path) -> None:
    assert image_size(tiny_config(tmp_path, *SIZE)) == (64, 32)
    crop = ["INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[24]"]
    assert image_size(tiny_config(tmp_path, *SIZE, *crop)) == (24, 24)
    for size in ("[64]", "[-1, -1]"):
        with pytest.raises(ConfigError, match=r"INPUT.SIZE_TEST is .* set it to \[height, width\]"):
            image_size(tiny_config(tmp_path, "INPUT.SIZE_TEST", size))


class InPieces(nn.Module):
    """Calls the layers of a block by itself, and looks at what is between them."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.block[1].running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() < -1e9:
            return x
        y = self.block[0](x)
        return self.block[1](y) + y.square()


def test_a_network_that_folding_spoils_is_refused() -> None:
    with pytest.raises(ExportError, match="changes its features by"):
        fold_network(InPieces().eval(), (4, 4), tolerance=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SIZE, "resized (bicubic) to height 64, width 32"),
        ([*SIZE, *CROP], "resized (bicubic) to height 64, width 32, the middle of it, height 24, "),
        (["INPUT.SIZE_TEST", "[64]", *CROP], "to 64 on the shorter side, the middle of it, height"),
        (["INPUT.SIZE_TEST", "[0]", *CROP], "the middle of it, height 24, width 16"),
    ],
)
def test_the_file_says_how_its_images_are_made(
    tmp_path: Path, options: list[str], words: str
) -> None:
    assert words in preparation(tiny_config(tmp_path, *options))
