"""CUDA graphs as they are, on a GPU; ``test_graphs.py`` has what a stand-in shows without one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metabin_plugin.engine.graphs import CudaRecorder, GraphedForward
from tests.distributed import small_backbone
from tests.engine.starting import started
from tests.engine.test_graphs import images, network, step
from tests.engine.tiny_data import HALF_PRECISION, tiny_config

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda")


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that add in one order."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


def trained(cfg: Any, evaluates: bool = False, count: int = 6) -> tuple[dict[str, Tensor], Any]:
    """State after some iterations, and the backbone's forward."""
    trainer = started(cfg)
    batch = {"images": torch.rand(5, 3, *cfg.INPUT.SIZE_TEST, device=DEVICE)}
    with trainer.storage:
        for trainer.iter in range(count):
            trainer.run_step()
            for hook in trainer._named_hooks.values():
                hook.after_step()
            if evaluates:
                with torch.no_grad():
                    trainer.model.eval()(batch)
                trainer.model.train()
    return copy.deepcopy(trainer.model.state_dict()), trainer.model.backbone.forward


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ([], 1e-6),
        (["METABIN.GRADIENT_SIGNS_PERIOD", "2"], 1e-6),
        (["METABIN.EPISODE_SEPARATION", "False"], 1e-6),
        (["METABIN.CHANNELS_LAST", "True"], 1e-4),
        (["MODEL.FREEZE_LAYERS", "('backbone.0',)", "SOLVER.FREEZE_ITERS", "2"], 1e-6),
        ([*HALF_PRECISION, "SOLVER.AMP.DTYPE", "float16"], 5e-3),
        ([*HALF_PRECISION, "SOLVER.AMP.DTYPE", "bfloat16"], 5e-2),
    ],
    ids=["plain", "signs", "joint", "channels last", "frozen", "float16", "bfloat16"],
)
@pytest.mark.parametrize("evaluates", [False, True])
def test_an_iteration_is_the_same(
    tmp_path: Path, options: list[str], tolerance: float, evaluates: bool
) -> None:
    base = ("MODEL.DEVICE", "cuda", "CUDNN_BENCHMARK", "False")
    cfg = tiny_config(tmp_path, *small_backbone.OPTIONS, *base, *options)
    found, forward = trained(cfg, evaluates)
    assert isinstance(forward, GraphedForward)
    assert forward.recorded >= 3
    assert forward.reasons == set()
    cfg.defrost()
    cfg.METABIN.CUDA_GRAPHS = False
    expected, forward = trained(cfg, evaluates)
    assert not isinstance(forward, GraphedForward)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv2"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_whole_backbones_are_recorded(tmp_path: Path, backbone: str, dtype: str) -> None:
    options = ["MODEL.DEVICE", "cuda", "INPUT.SIZE_TRAIN", "[128, 64]"]
    options += ["SOLVER.AMP.ENABLED", str(dtype == "float16"), "CUDNN_BENCHMARK", "True"]
    if backbone == "mobilenetv2":
        options += ["MODEL.BACKBONE.NAME", "build_mobilenetv2_backbone"]
        options += ["MODEL.BACKBONE.DEPTH", "1.4x", "MODEL.BACKBONE.FEAT_DIM", "1792"]
    state, forward = trained(tiny_config(tmp_path, *options))
    assert forward.recorded == 3
    assert forward.reasons == set()
    assert all(value.isfinite().all() for value in state.values())


def test_what_a_pass_gives_stays_when_others_follow() -> None:
    graphed, plain = network().to(DEVICE), network().to(DEVICE)
    GraphedForward(graphed, CudaRecorder(DEVICE))
    kept: list[list[Tensor]] = [[], []]
    for number in range(6):
        for model, results in zip((graphed, plain), kept, strict=True):
            # Two sizes, whose graphs share their memory.
            for count in (6, 4):
                model.zero_grad(set_to_none=True)
                y = model(images(count, seed=number).to(DEVICE))
                y.square().mean().backward()
                results += [y.detach(), *(p.grad for p in model.parameters())]
    for one, other in zip(*kept, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("wait", "reason"),
    [
        (lambda x: float(x.detach().mean()), "synchronizing"),
        # PyTorch's mode that finds what waits does not find this one: the capture fails.
        (lambda _x: torch.cuda.synchronize() or 1.0, "captur"),
    ],
    ids=["found before", "found by the capture"],
)
def test_a_refused_capture_leaves_nothing_behind(
    wait: Callable[[Tensor], float], reason: str
) -> None:
    class Waiting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * wait(x)

    graphed = nn.Sequential(*network(), Waiting()).to(DEVICE)
    GraphedForward(graphed, CudaRecorder(DEVICE))
    stream = torch.cuda.current_stream()
    optimizer = torch.optim.SGD(graphed.parameters(), lr=0.1)
    for number in range(4):
        step(graphed, optimizer, images(seed=number).to(DEVICE))
    (found,) = graphed.forward.reasons
    assert reason in found
    assert graphed.forward.recorded == 0
    assert torch.cuda.current_stream() == stream
    assert torch.cuda.get_sync_debug_mode() == 0
    assert torch.rand(3, device=DEVICE).isfinite().all()
    torch.cuda.set_rng_state(torch.cuda.get_rng_state())
    torch.cuda.empty_cache()
    assert memory_of_another_stream_is_given_back()
    # Another one is not disturbed.
    other = network().to(DEVICE)
    GraphedForward(other, CudaRecorder(DEVICE))
    for number in range(4):
        step(other, torch.optim.SGD(other.parameters(), lr=0.1), images(seed=number).to(DEVICE))
    assert other.forward.recorded == 1


def memory_of_another_stream_is_given_back() -> bool:
    """Whether that of the loader's copies is."""
    size = 2**24
    before = torch.cuda.memory_stats()["active_bytes.all.current"]
    with torch.cuda.stream(torch.cuda.Stream()):
        copy_of_batch = torch.empty(size, dtype=torch.uint8, device=DEVICE)
    copy_of_batch.record_stream(torch.cuda.current_stream())
    del copy_of_batch
    torch.cuda.synchronize()
    # The allocator looks for it when memory is asked for.
    torch.empty(1, device=DEVICE)
    return torch.cuda.memory_stats()["active_bytes.all.current"] < before + size


def test_dropout_draws_what_it_draws_eagerly() -> None:
    recorded = []

    def masks(prepare: Callable[[nn.Module], object]) -> list[Tensor]:
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5)).to(DEVICE)
        nn.init.constant_(model[0].weight, 1.0)
        recorded.append(prepare(model))
        torch.manual_seed(1)
        found = []
        for _ in range(5):
            y = model(torch.ones(4, 3, 8, 8, device=DEVICE))
            y.sum().backward()
            found.append(y.detach() == 0)
        return found

    replayed = masks(lambda model: GraphedForward(model, CudaRecorder(DEVICE)))
    for one, other in zip(replayed, masks(lambda _model: None), strict=True):
        assert torch.equal(one, other)
    assert recorded[0].recorded == 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_gpu_that_is_not_the_current_one() -> None:
    device = torch.device("cuda:1")
    graphed, plain = network().to(device), network().to(device)
    GraphedForward(graphed, CudaRecorder(device))
    for number in range(4):
        for model in (graphed, plain):
            x = images(seed=number).to(device)
            step(model, torch.optim.SGD(model.parameters(), lr=0.1), x)
    assert graphed.forward.recorded == 1
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(graphed.state_dict()[name], value, rtol=1e-5, atol=1e-6)
