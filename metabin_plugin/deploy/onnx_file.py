"""Networks as ONNX files."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metabin_plugin.deploy.folding import relative_difference
from metabin_plugin.errors import ExportError

INPUT, OUTPUT = "images", "features"
# Versions of ONNX's operators; 17 is what TensorRT 8 reads.
OPSETS = (17, 18, 19, 20)
# PyTorch's exporter has no older ones.
_LOWEST_EXPORTED = 18
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# The kernels of onnxruntime add up in another order. A deep network can enlarge that, as it does
# PyTorch's own rounding in float32.
_ROUNDING, _TIMES_PYTORCH, _UNSTABLE = 1e-3, 3, 0.1


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
