"""A trained network as a file for other programs: folded, then ONNX, checked against PyTorch."""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from fastreid.config import CfgNode
from torch import Tensor, nn

from metabin_plugin.deploy.folding import Folding, fold_norms, relative_difference
from metabin_plugin.deploy.repvgg import merge_folded_blocks
from metabin_plugin.engine import trained_network
from metabin_plugin.errors import ConfigError, ExportError

logger = logging.getLogger(__name__)


INPUT, OUTPUT = "images", "features"
# Versions of ONNX's operators; 17 is what TensorRT 8 reads.
OPSETS = (17, 18, 19, 20)
# PyTorch's exporter has no older ones.
_LOWEST_EXPORTED = 18
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# The kernels of onnxruntime add up in another order. A deep network can enlarge that, as it does
# PyTorch's own rounding in float32.
_ROUNDING, _TIMES_PYTORCH, _UNSTABLE = 1e-3, 3, 0.1


# Far above rounding in float64, far below what an image can change.
_FOLDING_ROUNDING = 1e-6


def check_packages() -> None:
    """Check that the packages of the extra ``export`` are there.

    Raises:
        ExportError: one is missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"the ONNX export needs {', '.join(missing)}; install it with "
            'pip install "metabin_plugin[export]"'
        )


def to_onnx(
    network: nn.Module, example: Tensor, metadata: Mapping[str, str], opset: int = OPSETS[-1]
) -> bytes:
    """The content of an ONNX file: ``images`` in, ``features`` out, with any number of images.

    Args:
        network: in evaluation mode.
        example: two or more images; all but their number is fixed by them.
        metadata: entries of the file's metadata.
        opset: version of ONNX's operators, one of ``OPSETS``. The file's own version is the lowest
            that has them.

    Raises:
        ExportError: the network has an operation that cannot be exported, or not in this version.
    """
    try:
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=max(opset, _LOWEST_EXPORTED),
        )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ExportError(
            f"{type(network).__name__} cannot be exported to ONNX ({reason}); export another "
            "backbone, or change what it names"
        ) from error
    assert program is not None
    model = program.model_proto
    _remove_traces(model.graph)
    model = _in_opset(model, opset, type(network).__name__)
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=value)
    return model.SerializeToString()


def _in_opset(model: Any, opset: int, network: str) -> Any:
    """An ONNX model with the operators of a version, and of the lowest file version for them."""
    from onnx import checker, helper, version_converter

    if opset < _LOWEST_EXPORTED:
        for node in model.graph.node:
            # Of reductions: the default, written out, which older versions do not know.
            kept = [
                part for part in node.attribute if part.name != "noop_with_empty_axes" or part.i
            ]
            if len(kept) < len(node.attribute):
                del node.attribute[:]
                node.attribute.extend(kept)
        try:
            model = version_converter.convert_version(model, opset)
            checker.check_model(model)
        except (RuntimeError, checker.ValidationError) as error:
            reason = str(error).splitlines()[0].rpartition(": ")[2]
            raise ExportError(
                f"{network} cannot be exported in ONNX opset {opset} ({reason}); export it with "
                f"--opset {_LOWEST_EXPORTED}"
            ) from error
    (own,) = (entry.version for entry in model.opset_import if not entry.domain)
    if own != opset:
        raise ExportError(
            f"{network} cannot be exported in ONNX opset {opset}: PyTorch made opset {own} of it; "
            f"export it with --opset {own}"
        )
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    return model


def operators(content: bytes) -> dict[str, int]:
    """Number of each operator in an ONNX file, functions in it included.

    Args:
        content: of the file.

    Returns:
        Operator, with its domain unless that is ONNX's own, to number; sorted by name.
    """
    import onnx

    model = onnx.load_from_string(content)
    names = [
        f"{node.domain}.{node.op_type}".lstrip(".")
        for part in (model.graph, *model.functions)
        for node in part.node
    ]
    return {name: names.count(name) for name in sorted(set(names))}


def check_onnx(content: bytes, network: nn.Module, batches: Sequence[Tensor]) -> float:
    """Run an ONNX file in onnxruntime and compare its features with the network's in float64.

    They may differ by a thousandth of the largest feature; and by up to a tenth in a network that
    enlarges rounding so that PyTorch's own float32 features differ by a third as much.

    Args:
        content: of the file.
        network: what it was made of, in evaluation mode.
        batches: images, of different numbers.

    Returns:
        The largest difference, as a share of the largest feature of its batch.

    Raises:
        ExportError: it is more than rounding.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    exact = copy.deepcopy(network).double()
    worst = 0.0
    for images in batches:
        with torch.no_grad():
            expected, own = exact(images.double()), network(images)
        (features,) = session.run([OUTPUT], {INPUT: images.numpy()})
        difference = relative_difference(torch.from_numpy(features), expected)
        pytorchs = relative_difference(own, expected)
        # Written so that a NaN does not pass.
        if not difference < max(_ROUNDING, min(_TIMES_PYTORCH * pytorchs, _UNSTABLE)):
            raise ExportError(
                f"onnxruntime's features differ from the network's by {difference:.1e} of the "
                f"largest one on {len(images)} images, and PyTorch's by {pytorchs:.1e}; report it "
                "with your versions of torch, onnxscript and onnxruntime"
            )
        worst = max(worst, difference)
    return worst


def _remove_traces(graph: Any) -> None:
    """Remove where in which Python file each node comes from: paths of this machine."""
    for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for item in part:
            del item.metadata_props[:]
            item.doc_string = ""
    del graph.metadata_props[:]


def image_size(cfg: CfgNode) -> tuple[int, int]:
    """Height and width of the images that a config's evaluation gives to the network.

    Args:
        cfg: the config.

    Raises:
        ConfigError: it leaves them open.
    """
    key = "INPUT.CROP.SIZE" if cfg.INPUT.CROP.ENABLED else "INPUT.SIZE_TEST"
    size = list(cfg.INPUT.CROP.SIZE if cfg.INPUT.CROP.ENABLED else cfg.INPUT.SIZE_TEST)
    if cfg.INPUT.CROP.ENABLED and len(size) == 1:
        size *= 2
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(
            f"{key} is {size!r}, but an exported network takes images of one size; set it to "
            "[height, width]"
        )
    return size[0], size[1]


def preparation(cfg: CfgNode) -> str:
    """How a config's evaluation makes the network's images of photographs, in words.

    Args:
        cfg: the config.

    Raises:
        ConfigError: it leaves their size open.
    """
    height, width = image_size(cfg)
    resized = list(cfg.INPUT.SIZE_TEST)
    if not cfg.INPUT.CROP.ENABLED:
        return f"resized (bicubic) to height {height}, width {width}"
    middle = f"the middle of it, height {height}, width {width}"
    if resized[0] < 1:
        return middle
    if len(resized) == 1:
        return f"resized (bicubic) to {resized[0]} on the shorter side, {middle}"
    return f"resized (bicubic) to height {resized[0]}, width {resized[1]}, {middle}"


def random_images(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Images of noise (count, 3, height, width), float32 in [0, 255], the same for the same seed.

    Args:
        count: number of images.
        size: height and width.
        seed: of the generator.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 3, *size), generator=generator) * 255


def network_to_export(cfg: CfgNode) -> nn.Module:
    """The network of a config with ``MODEL.WEIGHTS``, on the CPU, in evaluation mode.

    Args:
        cfg: the config; it is not changed.

    Raises:
        ConfigError: ``MODEL.WEIGHTS`` is empty, or the config cannot work.
        WeightsError: the file is damaged or does not fit.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    # How the network is run here is no part of it.
    cfg.METABIN.COMPILE = cfg.METABIN.CHANNELS_LAST = False
    return trained_network(cfg, "MODEL.WEIGHTS is empty, but it is what is exported").eval()


@torch.no_grad()
def fold_network(network: nn.Module, size: tuple[int, int], tolerance: float) -> Folding:
    """Fold a whole network and measure what that changes, on four images of noise.

    A block of RepVGG without open channels becomes one convolution.

    Args:
        network: takes a batch of images, gives a batch of features; it becomes float64, in
            evaluation mode.
        size: height and width of the images.
        tolerance: how far below 1 a gate is taken for 1.

    Returns:
        The folded network, float32, with the difference.

    Raises:
        ExportError: with tolerance 0 the folded network computes something else.
    """
    images = random_images(4, size).double()
    expected = network.double().eval()(images)
    folding = _with_merged_blocks(fold_norms(network, tolerance))
    difference = relative_difference(folding.network(images), expected)
    if tolerance == 0 and not difference < _FOLDING_ROUNDING:
        raise ExportError(
            f"folding the normalization of {type(network).__name__} changes its features by "
            f"{difference:.1e} of the largest one; its backbone calls layers in a way that "
            "folding does not see, so export another one"
        )
    folding.network.float()
    return replace(folding, difference=difference)


def _with_merged_blocks(folding: Folding) -> Folding:
    blocks, channels, layers = merge_folded_blocks(folding.network)
    if blocks:
        logger.info("%d RepVGG blocks are one convolution each", blocks)
    # What only a constant map was is in the convolution now.
    return replace(
        folding,
        identities=folding.identities + layers,
        folded_channels=folding.folded_channels + channels,
        affine_channels=folding.affine_channels - channels,
    )
