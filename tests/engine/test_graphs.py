"""Replaying a backbone's passes, with a stand-in that records operators in place of kernels."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.layers.batch_norm import GhostBatchNorm
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metabin_plugin.engine import graphs, network_options
from metabin_plugin.engine.graphs import GraphedForward
from metabin_plugin.meta import held_call
from metabin_plugin.norm import BatchInstanceNorm2d
from tests.distributed import small_backbone
from tests.engine.starting import started
from tests.engine.tiny_data import tiny_config


class OperatorRecorder:
    """Records as a CUDA graph does: numbers by value, tensors by their place in memory.

    Attributes:
        recorded: how many functions were recorded.
        replayed: how many replays there were.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        tape = _Tape()
        with tape:
            returned = function()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            tape.play()

        return returned, replay

    def apart(self, function: Callable[[], Any], waits: bool = True) -> Any:
        return function()


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, outputs))
        return outputs

    @torch.no_grad()
    def play(self) -> None:
        for func, args, kwargs, outputs in self._calls:
            if func.is_view:
                continue
            again = func(*args, **kwargs)
            for output, value in zip(tree_leaves(outputs), tree_leaves(again), strict=True):
                if isinstance(output, Tensor) and output.data_ptr() != value.data_ptr():
                    output.data.copy_(value)


def network(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), BatchInstanceNorm2d(4, **options), nn.ReLU(), nn.Conv2d(4, 5, 3)
    )
    nn.init.constant_(layers[1].gate, 0.5)
    return layers


@contextmanager
def compared(
    kind: type[OperatorRecorder] = OperatorRecorder, **options: Any
) -> Iterator[tuple[nn.Module, nn.Module, OperatorRecorder]]:
    """A network that is graphed and one that is not, which must end in the same state."""
    graphed, plain = network(**options), network(**options)
    recorder = kind()
    GraphedForward(graphed, recorder)
    yield graphed, plain, recorder
    for name, value in graphed.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def images(count: int = 4, seed: int = 0, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, scale: float = 1.0) -> None:
    optimizer.zero_grad(set_to_none=False)
    (model(x).square().mean() * scale).backward()
    optimizer.step()


def test_training_is_the_same_bit_for_bit() -> None:
    with compared() as (graphed, plain, recorder):
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (graphed, plain)]
        for number in range(6):
            # What changes between replays: images, rate, loss scale, a gate set from outside.
            for model, optimizer in zip((graphed, plain), optimizers, strict=True):
                optimizer.param_groups[0]["lr"] = 0.1 / (number + 1)
                with torch.no_grad():
                    model[1].gate[0] = 0.1 * number
                step(model, optimizer, images(seed=number), scale=2.0**number)
        assert recorder.recorded == 2
        # The first pass is eager; the second is recorded and tried once.
        assert recorder.replayed == 2 * (5 + 1)


def test_the_meta_step_is_the_same_bit_for_bit() -> None:
    with compared() as (graphed, plain, recorder):
        for number in range(4):
            for sign in (1, -1):
                found = []
                for model in (graphed, plain):
                    # At another address each time, as rho' of Eq. 9 is.
                    gate = (torch.full((4,), 0.5) + sign * 0.1 * number).requires_grad_()
                    y = held_call(model, images(seed=number), parameters={"1.gate": gate})
                    found.append((y.detach(), *torch.autograd.grad(y.pow(3).sum(), [gate])))
                for one, other in zip(*found, strict=True):
                    assert torch.equal(one, other)
            with torch.no_grad():
                for model in (graphed, plain):
                    model[0].weight.mul_(0.9)
        assert recorder.recorded == 2


def test_base_and_meta_passes_have_graphs_of_their_own() -> None:
    with compared() as (graphed, plain, recorder):
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (graphed, plain)]
        for number in range(3):
            for model, optimizer in zip((graphed, plain), optimizers, strict=True):
                step(model, optimizer, images(6, seed=number))
                for count in (4, 2):
                    gate = torch.full((4,), 0.3, requires_grad=True)
                    y = held_call(model, images(count), parameters={"1.gate": gate})
                    y.sum().backward()
        assert recorder.recorded == 6


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.requires_grad_(False)[3].requires_grad_(True),
        lambda model: model[1].eval(),
        lambda model: setattr(model[1], "track_running_stats", False),
    ],
    ids=["frozen", "evaluating layer", "held"],
)
def test_another_mode_is_another_graph(change: Callable[[nn.Module], object]) -> None:
    with compared() as (graphed, plain, recorder):
        for number in range(6):
            for model in (graphed, plain):
                if number == 3:
                    change(model)
                model.zero_grad(set_to_none=False)
                step(model, torch.optim.SGD(model.parameters(), lr=0.1), images(seed=number))
        assert recorder.recorded == 4


def test_evaluation_in_between_is_eager_and_changes_nothing() -> None:
    with compared() as (graphed, plain, recorder):
        for number in range(5):
            outputs = []
            for model in (graphed, plain):
                step(model, torch.optim.SGD(model.parameters(), lr=0.1), images(seed=number))
                before = recorder.replayed
                with torch.no_grad():
                    outputs.append(model(images(3)))
                    outputs.append(model.eval()(images(5)))
                assert recorder.replayed == before
                model.train()
            assert torch.equal(outputs[0], outputs[2])
            assert torch.equal(outputs[1], outputs[3])


def test_recording_leaves_statistics_and_random_numbers() -> None:
    graphed = network()
    GraphedForward(graphed, OperatorRecorder())
    before = torch.get_rng_state()
    for _ in range(3):
        graphed(images()).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)
    assert graphed[1].num_batches_tracked == 3


def test_a_checkpoint_that_is_loaded_is_what_replays_read() -> None:
    with compared() as (graphed, plain, _):
        for model in (graphed, plain):
            for number in range(3):
                model(images(seed=number)).sum().backward()
            state = copy.deepcopy(model.state_dict())
            for value in state.values():
                value.mul_(2)
            model.load_state_dict(state)
            model.zero_grad()
            step(model, torch.optim.SGD(model.parameters(), lr=0.1), images())


def test_buffers_that_somebody_has_replaced_are_moved() -> None:
    # As fastreid's PreciseBN does after an epoch.
    with compared() as (graphed, plain, recorder):
        for number in range(8):
            for model in (graphed, plain):
                if number == 4:
                    model[1].running_mean = torch.full((4,), 0.5)
                    model[1].running_var = torch.full((4,), 2.0)
                step(model, torch.optim.SGD(model.parameters(), lr=0.1), images(seed=number))
        assert recorder.recorded == 4


def test_a_network_that_somebody_has_rebuilt_runs_eagerly(said) -> None:
    with compared() as (graphed, plain, recorder):
        for number in range(6):
            for model in (graphed, plain):
                if number == 3:
                    torch.nn.utils.parametrizations.weight_norm(model[3])
                step(model, torch.optim.SGD(model.parameters(), lr=0.1), images(seed=number))
        assert recorder.replayed == 2 * (2 + 1)
    assert "its layers are others than when it was built" in said()


def test_layers_that_replace_their_buffers_run_eagerly(said) -> None:
    def states(prepare: Callable[[nn.Module], object]) -> dict[str, Tensor]:
        model = nn.Sequential(*network(), GhostBatchNorm(5, num_splits=2))
        prepare(model)
        for number in range(5):
            step(model, torch.optim.SGD(model.parameters(), lr=0.1), images(seed=number))
        return model.state_dict()

    replayed = states(lambda model: GraphedForward(model, OperatorRecorder()))
    for name, value in states(lambda _model: None).items():
        assert torch.equal(replayed[name], value), name
    assert "a layer puts another tensor in the place of 4.running_mean" in said()


def test_a_parameter_that_two_layers_share_gets_the_gradients_of_both() -> None:
    with compared() as (graphed, plain, recorder):
        for model in (graphed, plain):
            torch.manual_seed(1)
            model.append(nn.Conv2d(5, 5, 1, bias=False)).append(nn.Conv2d(5, 5, 1, bias=False))
            model[5].weight = model[4].weight
        graphed.forward = plain.__class__.forward.__get__(graphed)
        GraphedForward(graphed, recorder)
        for number in range(4):
            for model in (graphed, plain):
                step(model, torch.optim.SGD(model.parameters(), lr=0.1), images(seed=number))
        assert recorder.recorded == 2


def test_a_pass_that_draws_random_numbers_is_recorded(said) -> None:
    def states(prepare: Callable[[nn.Module], object]) -> list[Tensor]:
        model = nn.Sequential(*network(), nn.Dropout(0.5))
        prepare(model)
        torch.manual_seed(1)
        for number in range(5):
            step(model, torch.optim.SGD(model.parameters(), lr=0.1), images(seed=number))
        return list(model.state_dict().values())

    recorder = OperatorRecorder()
    replayed = states(lambda model: GraphedForward(model, recorder))
    assert recorder.replayed == 2 * (4 + 1)
    for one, other in zip(replayed, states(lambda _model: None), strict=True):
        assert torch.equal(one, other)
    assert "eagerly" not in said()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.INFO, graphs.__name__)
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def test_what_cannot_be_recorded_runs_eagerly_and_the_log_says_why(said) -> None:
    class Refusing(OperatorRecorder):
        def record(self, _function: Any) -> Any:
            self.recorded += 1
            raise RuntimeError("operation not permitted\nwhen stream is capturing")

    with compared(Refusing) as (graphed, plain, refusing):
        for number in range(8):
            for model in (graphed, plain):
                x = images(4 + number % 2, seed=number)
                step(model, torch.optim.SGD(model.parameters(), lr=0.1), x)
    # Others would fail, too, and each leaves something behind on a GPU.
    assert refusing.recorded == 1
    assert said().count("operation not permitted when stream is capturing") == 1


def test_what_waits_for_the_device_is_found_before_a_capture_fails_of_it(said) -> None:
    class Strict(OperatorRecorder):
        def apart(self, function: Any, waits: bool = True) -> Any:
            if not waits:
                raise RuntimeError("called a synchronizing CUDA operation")
            return super().apart(function)

    with compared(Strict) as (graphed, plain, recorder):
        for number in range(4):
            for model in (graphed, plain):
                step(model, torch.optim.SGD(model.parameters(), lr=0.1), images(seed=number))
    assert recorder.recorded == 0
    assert "recording failed: called a synchronizing CUDA operation" in said()


class Refused(RuntimeError):
    """An error of CUDA, which ends the capture that it happens in."""


class Allocator:
    """What a capture leaves behind in PyTorch 2.6 to 2.12, where its end fails.

    Attributes:
        underway: pools of captures that have not ended.
        generator_waits: whether the random generator takes a capture to be under way.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.underway: list[int] = []
        self.generator_waits = False
        pools = iter(range(1, 10))
        for name, value in {
            "device": lambda _device: nullcontext(),
            "stream": lambda _stream: nullcontext(),
            "Stream": object,
            "CUDAGraph": object,
            "current_stream": object,
            "current_device": lambda: 0,
            "graph_pool_handle": lambda: next(pools),
            "graph": self.capture,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(
            torch._C,
            "_cuda_endAllocateToPool",
            self.end_allocation,
            raising=False,
        )

    def end_allocation(self, _device: int, pool: int) -> None:
        if pool not in self.underway:
            raise RuntimeError("not currently recording to mempool_id")
        self.underway.remove(pool)

    @contextmanager
    def capture(self, _graph: Any, pool: int, _stream: Any, **_mode: str) -> Iterator[None]:
        # By torch.cuda.empty_cache(), which a capture begins with.
        assert not self.underway
        self.underway.append(pool)
        self.generator_waits = True
        try:
            yield
        except Refused:
            raise RuntimeError("operation failed due to a previous error during capture") from None
        except Exception:
            self._end(pool)
            raise
        self._end(pool)

    def _end(self, pool: int) -> None:
        self.underway.remove(pool)
        self.generator_waits = False


@pytest.mark.parametrize("kind", [Refused, ValueError])
def test_a_capture_that_failed_leaves_nothing_behind(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    allocator = Allocator(monkeypatch)
    monkeypatch.setattr(torch, "zeros", lambda *_size, device: None)

    def refused() -> None:
        raise kind("operation not permitted when stream is capturing")

    with pytest.raises(kind, match="not permitted"):
        graphs.CudaRecorder(torch.device("cuda")).record(refused)
    assert allocator.underway == []
    assert not allocator.generator_waits


def test_too_little_memory_gives_back_what_graphs_hold(said) -> None:
    class Small(OperatorRecorder):
        def record(self, function: Any) -> Any:
            if self.recorded == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().record(function)

    with compared(Small) as (graphed, plain, recorder):
        for number in range(4):
            for count in (4, 3):
                for model in (graphed, plain):
                    x = images(count, seed=number)
                    step(model, torch.optim.SGD(model.parameters(), lr=0.1), x)
        # The first kind was recorded, and tried; then the second came.
        assert recorder.replayed == 2 * (1 + 1)
        assert graphed.forward.recorded == 0
    assert "CUDA out of memory" in said()


def test_a_replay_that_computes_something_else_is_not_used(said) -> None:
    class Wrong(OperatorRecorder):
        def record(self, function: Any) -> Any:
            returned, replay = super().record(function)
            output = returned[0] if isinstance(returned, tuple) else returned

            def spoil() -> None:
                replay()
                output.data.mul_(2)

            return returned, spoil

    with compared(Wrong) as (graphed, plain, _):
        for number in range(4):
            for model in (graphed, plain):
                step(model, torch.optim.SGD(model.parameters(), lr=0.1), images(seed=number))
    assert "a replay differed from the pass by" in said()


def test_a_replay_that_launches_nothing_is_not_used(said) -> None:
    class Idle(OperatorRecorder):
        # The kernels of another device's stream, say, are run and not recorded.
        def record(self, function: Any) -> Any:
            return super().record(function)[0], lambda: None

    with compared(Idle) as (graphed, plain, _):
        for number in range(4):
            for model in (graphed, plain):
                step(model, torch.optim.SGD(model.parameters(), lr=0.1), images(seed=number))
    assert "a replay differed from the pass by nan" in said()


def test_rounding_in_a_gradient_that_is_zero_is_no_difference(said) -> None:
    class Rounding(OperatorRecorder):
        # As kernels do that add in another order each time.
        def record(self, function: Any) -> Any:
            returned, replay = super().record(function)
            gradients = returned if isinstance(returned, tuple) else ()

            def rounded() -> None:
                replay()
                for gradient in gradients:
                    gradient.add_(torch.randn_like(gradient), alpha=1e-6)

            return returned, rounded

    # The layer behind it subtracts what the first bias adds.
    graphed = network()
    recorder = Rounding()
    GraphedForward(graphed, recorder)
    for _ in range(3):
        graphed.zero_grad()
        graphed(images()).square().sum().backward()
    assert graphed[0].bias.grad.abs().max() < 1e-4
    assert recorder.recorded == 2
    assert "differed" not in said()


def test_results_are_not_what_the_next_replay_overwrites() -> None:
    with compared() as (graphed, plain, recorder):
        for model in (graphed, plain):
            for number in range(3):
                model.zero_grad(set_to_none=True)
                model(images(seed=number)).square().mean().backward()
        assert recorder.recorded == 2
        kept = []
        for model in (graphed, plain):
            model.zero_grad(set_to_none=True)
            outputs = [model(images())]
            outputs[0].square().mean().backward()
            outputs.append(model(images(seed=7)))
            # Added to what is there.
            outputs[1].square().mean().backward()
            kept.append([*outputs, *(p.grad for p in model.parameters())])
        for one, other in zip(*kept, strict=True):
            assert torch.equal(one, other)


def test_a_second_backward_pass_is_refused() -> None:
    # Memory of activations is used again in the first one.
    graphed = network()
    GraphedForward(graphed, OperatorRecorder())
    for _ in range(2):
        graphed(images()).sum().backward()
    loss = graphed(images()).pow(3).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"METABIN\.CUDA_GRAPHS False"):
        loss.backward()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_computes_with_its_own_parameters(copied: Callable[[Any], Any]) -> None:
    graphed = network()
    GraphedForward(graphed, OperatorRecorder())
    for _ in range(3):
        graphed(images()).sum().backward()
    other = copied(graphed)
    with torch.no_grad():
        other[3].weight.zero_()
        other[3].bias.fill_(2)
    before = graphed[1].running_mean.clone()
    for _ in range(3):
        assert torch.equal(other(images()), torch.full((4, 5, 4, 4), 2.0))
    assert torch.equal(graphed[1].running_mean, before)
    assert not torch.equal(other[1].running_mean, before)


def test_a_pass_without_gradients_is_eager(said) -> None:
    graphed, recorder = network().requires_grad_(False), OperatorRecorder()
    GraphedForward(graphed, recorder)
    for _ in range(3):
        graphed(images())
    assert recorder.recorded == 0
    assert said() == ""


def test_passes_that_overlap_do_not_overwrite_each_other(said) -> None:
    with compared() as (graphed, plain, _):
        for number in range(4):
            found = []
            for model in (graphed, plain):
                model.zero_grad()
                one, two = (model(images(seed=number + 10 * k)) for k in range(2))
                (one.square().mean() + two.pow(3).mean()).backward()
                found.append([p.grad.clone() for p in model.parameters()])
            for own, other in zip(*found, strict=True):
                torch.testing.assert_close(own, other, rtol=0, atol=0)
    assert "a backward pass is still to come" in said()


def test_a_pass_whose_backward_pass_never_comes_is_forgotten() -> None:
    with compared() as (graphed, plain, recorder):
        for number in range(5):
            for model in (graphed, plain):
                model(images(seed=number))
        assert recorder.replayed >= 4


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_somebody_who_watches_layers_sees_all_passes(kind: str, said) -> None:
    graphed, seen = network(), []
    GraphedForward(graphed, OperatorRecorder())
    getattr(graphed[3], f"register_{kind}_hook")(lambda *_: seen.append(1))
    for _ in range(4):
        graphed(images()).sum().backward()
    assert len(seen) == 4
    assert "somebody watches its layers" in said()


def test_sizes_that_never_settle_are_not_recorded_for_ever(said) -> None:
    with compared() as (graphed, plain, recorder):
        for number in range(20):
            for model in (graphed, plain):
                model(images(2 + number // 2)).sum().backward()
        assert recorder.recorded == 2 * graphs._MOST_GRAPHS
    assert "sizes still change" in said()


def test_a_second_derivative_is_refused() -> None:
    graphed = network()
    GraphedForward(graphed, OperatorRecorder())
    for _ in range(2):
        graphed(images()).sum().backward()
    y = graphed(images()).pow(3).sum()
    with pytest.raises(RuntimeError, match=r"METABIN\.CUDA_GRAPHS False"):
        torch.autograd.grad(y, [graphed[1].gate], create_graph=True)


def test_autocast_follows_the_weights() -> None:
    with compared() as (graphed, plain, recorder):
        for number in range(4):
            for model in (graphed, plain):
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(images(seed=number, size=32)).float().square().mean()
                loss.backward()
                optimizer.step()
        assert recorder.recorded == 2


# Whole iterations.


def iterations(trainer: Any, count: int = 4) -> dict[str, Tensor]:
    with trainer.storage:
        for trainer.iter in range(count):
            trainer.run_step()
            for hook in trainer._named_hooks.values():
                hook.after_step()
    return copy.deepcopy(trainer.model.state_dict())


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        (["METABIN.GRADIENT_SIGNS_PERIOD", "2"], 0.0),
        # The gradient of the feature map comes in another format here, and is summed otherwise.
        (["METABIN.CHANNELS_LAST", "True"], 1e-5),
        (["METABIN.EPISODE_SEPARATION", "False"], 0.0),
        (["MODEL.FREEZE_LAYERS", "('backbone.0',)", "SOLVER.FREEZE_ITERS", "2"], 0.0),
        (["METABIN.BASE_LOSSES", '("Alignment", "DomainUniformity")'], 0.0),
        (
            [
                *("METABIN.BASE_LOSSES", '("InterleavedMemory",)'),
                *("METABIN.INTERLEAVED_MEMORY.LAYERS", '("2",)'),
            ],
            0.0,
        ),
    ],
    ids=["signs", "channels last", "joint", "frozen", "two views", "interleaved"],
)
def test_an_iteration_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], tolerance: float
) -> None:
    cfg = tiny_config(tmp_path, *small_backbone.OPTIONS, *options)
    expected = iterations(started(cfg))
    recorder = OperatorRecorder()
    monkeypatch.setattr(network_options, "graph_recorder", lambda _cfg: recorder)
    found = iterations(started(cfg))
    assert recorder.replayed > recorder.recorded > 4
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)
