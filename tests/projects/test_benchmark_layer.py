"""The layer benchmark: that its arms do the same work, and that it counts right."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import layer
from benchmarks import layer as layer_arms
from benchmarks.layer import BATCH_NORM, NAIVE
from benchmarks.measuring import compilations
from benchmarks.training import Numbers, norm_shapes
from metabin_plugin.norm import BatchInstanceNorm2d

CPU = torch.device("cpu")
COUNTS = json.loads((Path(__file__).parents[1] / "golden" / "counts.json").read_text())


def draw(shape: tuple[int, ...] = (4, 6, 5, 3), dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("training", [True, False])
def test_the_naive_mix_computes_what_the_layer_does(training: bool) -> None:
    naive = layer_arms.build_layer(NAIVE, 6, CPU).double().train(training)
    ours = layer_arms.build_layer("BIN, plain", 6, CPU).double().train(training)
    assert isinstance(naive, layer_arms.NaiveMix) and isinstance(ours, BatchInstanceNorm2d)
    gates = torch.linspace(0, 1, 6).double()
    with torch.no_grad():
        naive.gate.copy_(gates)
        ours.gate.copy_(gates)
    x = 3 * draw().double() + 1
    torch.testing.assert_close(naive(x), ours(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(naive.batch.running_var, ours.running_var)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arm", [BATCH_NORM, NAIVE, "BIN, native"])
def test_all_arms_keep_dtype_and_have_float32_parameters(arm: str, dtype: torch.dtype) -> None:
    one = layer_arms.build_layer(arm, 6, CPU)
    x = draw(dtype=dtype).requires_grad_()
    gradients = layer_arms.training_call(one, x, torch.ones_like(x))()
    assert one(x).dtype == dtype
    assert {parameter.dtype for parameter in one.parameters()} == {torch.float32}
    assert isinstance(gradients, tuple) and len(gradients) == 1 + len(list(one.parameters()))


def test_training_and_inference_are_what_they_are_called() -> None:
    one = layer_arms.build_layer(BATCH_NORM, 6, CPU)
    x = draw().requires_grad_()
    layer_arms.training_call(one, x, torch.ones_like(x))()
    assert one.num_batches_tracked == 1
    output = layer_arms.inference_call(one, x)()
    assert isinstance(output, Tensor) and not output.requires_grad
    assert one.num_batches_tracked == 1


def test_saved_bytes_count_a_tensor_once_and_the_input_with_it() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * x) * x

    x = draw().requires_grad_()
    # x, and the product in between.
    assert layer_arms.saved_bytes(Square(), x) == 2 * x.nbytes
    batch_norm = layer_arms.saved_bytes(layer_arms.build_layer(BATCH_NORM, 6, CPU), x)
    assert x.nbytes < batch_norm < 1.5 * x.nbytes
    naive = layer_arms.saved_bytes(layer_arms.build_layer(NAIVE, 6, CPU), x)
    assert naive > 2.9 * x.nbytes


@pytest.mark.parametrize(("backbone", "gates"), [("mobilenetv2", 23_822), ("resnet50", 26_560)])
def test_shapes_are_those_of_all_layers(backbone: str, gates: int) -> None:
    shapes = norm_shapes(backbone, (256, 128), 80)
    assert sum(shapes.values()) == 53
    assert sum(channels * count for (_, channels, _, _), count in shapes.items()) == gates
    assert {batch for batch, *_ in shapes} == {80}
    # The stem halves the image; the last stride is 1.
    assert {(height, width) for _, _, height, width in shapes} >= {(128, 64), (16, 8)}
    assert all(height == 2 * width for _, _, height, width in shapes)


def arguments(words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    layer.add_arguments(parser)
    return parser.parse_args(f"{words} --device cpu".split())


def test_it_measures_every_arm_in_every_case() -> None:
    words = "--shapes 2,4,4,2 3,4,4,2 --repetitions 2 --forms native plain"
    results = layer.run(arguments(f"{words} --dtype float32 bfloat16"))
    training, kept, inference = results.parts
    for table in (training, kept, inference):
        assert isinstance(table, layer.Comparison) and not table.summed
        assert table.arms == [BATCH_NORM, NAIVE, "BIN, native", "BIN, plain"]
        assert len(table.cases) == 2 * 2 * 2
        assert all(list(case.values) == table.arms for case in table.cases)
        assert table.cases[-1].name == "3 × 4 × 4 × 2, channels_last, bfloat16"
    assert len(training.cases[0].values[NAIVE]) == 2
    assert len(kept.cases[0].values[NAIVE]) == 1


def test_the_clock_of_the_processor_counts_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "inference_call", lambda *_: lambda: time.sleep(0.02))
    words = "--shapes 2,4,4,2 --mode inference --format contiguous --repetitions 1 --clock"
    waited, worked = (
        layer.run(arguments(f"{words} {clock}")).parts[0].cases[0].values[BATCH_NORM][0]
        for clock in ("wall", "processor")
    )
    assert waited >= 0.02 > worked


def test_the_memory_format_reaches_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def look(_layer: nn.Module, x: Tensor) -> int:
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return 1

    monkeypatch.setattr(layer_arms, "saved_bytes", look)
    layer.run(arguments("--shapes 2,4,4,2 --repetitions 1 --forms plain --mode training"))
    assert seen == [False] * 3 + [True] * 3


def test_a_network_is_summed_with_its_layers_as_weights() -> None:
    words = "--network resnet18 --size 32x16 --batch 2 --format contiguous --repetitions 1"
    results = layer.run(arguments(f"{words} --forms plain --mode inference"))
    (table,) = results.parts
    assert isinstance(table, layer.Comparison) and table.summed
    assert sum(case.weight for case in table.cases) == 20


def test_sizes_that_are_none_are_refused() -> None:
    assert Numbers("x", 2)("256x128") == (256, 128)
    for text in ("256", "256x", "0x1", "ax1", "1x2x3", "-1x2"):
        with pytest.raises(argparse.ArgumentTypeError, match="NxN"):
            Numbers("x", 2)(text)


@pytest.mark.slow
def test_compilations_are_counted() -> None:
    @torch.compile(backend="eager", dynamic=False)
    def triple(x: Tensor) -> Tensor:
        return 2 * x + x

    before = compilations()
    triple(torch.ones(3))
    triple(torch.ones(3))
    assert compilations() == before + 1
    triple(torch.ones(4))
    assert compilations() == before + 2
