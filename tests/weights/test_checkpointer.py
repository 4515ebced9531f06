from __future__ import annotations

import copy
import logging
import math
import os
import pathlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.engine import defaults
from fastreid.modeling.meta_arch import distiller
from fastreid.solver.lr_scheduler import WarmupLR
from fastreid.utils import checkpoint
from fastreid.utils.checkpoint import Checkpointer
from torch import nn

from metabin_plugin.errors import CheckpointError, DatasetError, WeightsError
from metabin_plugin.norm import convert_norm
from metabin_plugin.weights.checkpoint_states import check_state
from tests.compat.processes import run_python
from tests.full_disk import full_disk
from tests.weights.weight_file_samples import flip_bit, save_malicious


def network(classes: int = 5) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes, bias=False)
    )


class CountingHook:
    """A hook whose state changes in place before it refuses what it does not know."""

    def __init__(self, count: int = 0, error: type[Exception] = ValueError) -> None:
        self.state, self.error = {"count": count}, error

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state["count"] = -1
        if set(state) != {"count"}:
            raise self.error("unknown state")
        self.state["count"] = state["count"]


def trained(folder: Path, seed: int = 0) -> Checkpointer:
    """A checkpointer of a network, optimizer and hook that have made a step."""
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.randn(6, 3, 1, 1)).square().sum().backward()
    optimizer.step()
    return Checkpointer(model, str(folder), optimizer=optimizer, hook=CountingHook(7))


def snapshot(checkpointer: Checkpointer) -> dict[str, Any]:
    parts = {"model": checkpointer.model, **checkpointer.checkpointables}
    return copy.deepcopy({name: part.state_dict() for name, part in parts.items()})


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def refuses(folder: Path, path: Path | str, words: str, **change: Any) -> str:
    """Loading ends in one sentence with the words, and changes neither network nor optimizer."""
    other = trained(folder, seed=1)
    for name, value in change.items():
        setattr(other, name, value)
    before = snapshot(other)
    with pytest.raises(WeightsError, match=words) as failure:
        other.load(str(path))
    assert equal(snapshot(other), before)
    assert str(path) in str(failure.value)
    return str(failure.value)


@pytest.fixture
def log() -> list[str]:
    return []


def logging_to(checkpointer: Checkpointer, log: list[str]) -> Checkpointer:
    """fastreid's own loggers do not reach pytest's handler once they are set up."""
    checkpointer.logger = logging.Logger("test")
    checkpointer.logger.addHandler(handler := logging.Handler())
    handler.emit = lambda record: log.append(record.getMessage())  # type: ignore[method-assign]
    return checkpointer


def test_it_takes_the_place_of_fastreids_everywhere() -> None:
    original = Checkpointer.__mro__[1]
    assert original.__name__ == "Checkpointer"
    for module in (checkpoint, defaults, distiller):
        assert module.Checkpointer is not original
        assert issubclass(module.Checkpointer, original)


def test_files_are_those_of_fastreid(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    ours = trained(tmp_path / "ours")
    original = Checkpointer.__mro__[1]
    theirs = original(ours.model, str(tmp_path / "theirs"), **ours.checkpointables)
    for checkpointer in (ours, theirs):
        checkpointer.save("model_0003", epoch=3, metric=0.5)
    names = ["last_checkpoint", "model_0003.pth"]
    assert sorted(os.listdir(tmp_path / "ours")) == sorted(os.listdir(tmp_path / "theirs")) == names
    contents = [torch.load(tmp_path / side / names[1]) for side in ("ours", "theirs")]
    assert equal(*contents)
    assert (tmp_path / "ours" / names[0]).read_text() == "model_0003.pth"
    assert ours.get_all_checkpoint_files() == [str(tmp_path / "ours" / names[1])]


def test_a_checkpoint_brings_everything_back(tmp_path: Path) -> None:
    first = trained(tmp_path)
    first.save("model_0003", epoch=3)
    second = trained(tmp_path, seed=1)
    assert second.resume_or_load("", resume=True) == {"epoch": 3}
    assert equal(snapshot(second), snapshot(first))


def test_without_resume_only_the_network_is_loaded(tmp_path: Path) -> None:
    first, second = trained(tmp_path), trained(tmp_path, seed=1)
    first.save("model_0003")
    second.checkpointables["hook"].state["count"] = 2
    second.resume_or_load(str(tmp_path / "model_0003.pth"), resume=False)
    assert equal(snapshot(second)["model"], snapshot(first)["model"])
    assert second.checkpointables["hook"].state == {"count": 2}


def test_a_checkpoint_may_stay_untagged(tmp_path: Path) -> None:
    checkpointer = trained(tmp_path)
    checkpointer.save("model_0000")
    checkpointer.save("model_best", tag_last=False)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000.pth")


def test_nothing_is_written_without_a_folder_or_by_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Checkpointer(network()).save("model")
    Checkpointer(network(), str(tmp_path), save_to_disk=False).save("model")
    assert os.listdir(tmp_path) == []
    torch.save({"model": network().state_dict()}, tmp_path / "elsewhere.pth")
    assert not Checkpointer(network()).has_checkpoint()
    assert Checkpointer(network()).load("") == {}


# Writing.


@pytest.mark.parametrize("file", ["model_0001.pth", "last_checkpoint"])
def test_a_full_disk_is_one_error_and_the_last_checkpoint_is_intact(
    tmp_path: Path, file: str
) -> None:
    checkpointer = trained(tmp_path)
    checkpointer.save("model_0000")
    state = snapshot(checkpointer)
    sentence = (
        rf"{file} cannot be written \(No space left on device\); the checkpoint before it, "
        r"model_0000\.pth, is intact; free space .* --resume"
    )
    with full_disk(tmp_path / file), pytest.raises(CheckpointError, match=sentence):
        checkpointer.save("model_0001")
    other = trained(tmp_path, seed=1)
    other.resume_or_load("", resume=True)
    assert equal(snapshot(other), state)
    assert not list(tmp_path.glob("*.partial"))
    checkpointer.save("model_0001")
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0001.pth")


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, words in [("absent", "No such file"), ("file", "Not a directory")]:
        with pytest.raises(CheckpointError, match=rf"{words}.*there is no earlier one"):
            trained(tmp_path / folder).save("model_0000")


def test_an_error_that_pytorch_wrapped_is_told_by_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(_data: object, _file: object) -> None:
        try:
            raise OSError(122, os.strerror(122))
        except OSError as error:
            raise RuntimeError("unexpected pos 64 vs 0") from error

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(CheckpointError, match=r"\(Disk quota exceeded\)"):
        trained(tmp_path).save("model_0000")
    assert os.listdir(tmp_path) == []


def test_an_error_that_is_not_the_files_is_not_explained_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a GPU, which copies its numbers while the file is written."""
    checkpointer = trained(tmp_path)
    checkpointer.save("model_0000")

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match=r"^CUDA error: an illegal memory access"):
        checkpointer.save("model_0001")
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000.pth"]


LIMITED = """
import resource, signal, sys
import metabin_plugin
metabin_plugin.register()
import torch
from fastreid.utils.checkpoint import Checkpointer
from metabin_plugin.cli.outcome import run_cli
checkpointer = Checkpointer(torch.nn.Linear(100, 5000), sys.argv[1])
checkpointer.save("first")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
with run_cli():
    checkpointer.save("second")
"""


@pytest.mark.slow
def test_a_limit_in_the_middle_of_a_file_prints_one_line(tmp_path: Path) -> None:
    done = run_python("-c", LIMITED, str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {tmp_path}/second.pth cannot be written (File too large")
    assert sorted(os.listdir(tmp_path)) == ["first.pth", "last_checkpoint"]
    assert torch.load(tmp_path / "first.pth")["model"]["weight"].shape == (5000, 100)


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    checkpointer = trained(tmp_path)
    checkpointer.save("model_0000")
    with pytest.raises(CheckpointError, match=r"model_0001\.pth would hold .*\.PosixPath"):
        checkpointer.save("model_0001", folder=pathlib.PosixPath("here"))
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000.pth"]


# Damaged and malicious files.


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def bit_flipped(path: Path) -> None:
    weight = torch.load(path)["model"]["0.weight"]
    flip_bit(path, path.read_bytes().index(weight.numpy().tobytes()) + 2)


@pytest.mark.parametrize("damage", [emptied, truncated, bit_flipped])
def test_a_damaged_checkpoint_is_refused_and_the_newest_intact_one_named(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    checkpointer = trained(tmp_path)
    for age, name in enumerate(["model_0003", "model_0002", "model_0001", "model_0000"]):
        checkpointer.save(name)
        os.utime(tmp_path / f"{name}.pth", (1e9 - age, 1e9 - age))
    damage(tmp_path / "model_0002.pth")
    damage(tmp_path / "model_0003.pth")
    torch.save({"model": {}}, tmp_path / "not_of_this_run.pth")
    sentence = refuses(tmp_path, tmp_path / "model_0003.pth", "damaged|empty")
    assert "the newest intact checkpoint beside it is model_0001.pth" in sentence
    checkpointer.tag_last_checkpoint("model_0003.pth")
    with pytest.raises(WeightsError, match=r"model_0003\.pth is (damaged|empty)"):
        trained(tmp_path).resume_or_load("", resume=True)


def test_others_are_looked_for_beside_the_damaged_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    trained(tmp_path / "here").save("model_0000")
    trained(tmp_path).save("model_0001")
    truncated(tmp_path / "here" / "model_0000.pth")
    path = tmp_path / "here" / "model_0000.pth"
    refuses(tmp_path, path, "no intact checkpoint beside it")
    trained(tmp_path / "here").save("model_0002")
    monkeypatch.chdir(tmp_path / "here")
    refuses(tmp_path, "model_0000.pth", r"beside it is model_0002\.pth")


def bytes_read() -> int:
    """By this process, as the system counts them."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


@pytest.mark.skipif(not os.path.isfile("/proc/self/io"), reason="no count of what is read")
def test_the_numbers_of_other_weights_beside_a_damaged_checkpoint_are_not_read(
    tmp_path: Path,
) -> None:
    numbers = torch.ones(1 << 20)
    trained(tmp_path).save("model_0000")
    truncated(tmp_path / "model_0000.pth")
    others = ({"a": numbers}, OrderedDict(a=numbers), {"model": {"a": numbers}})
    for number, other in enumerate(others):
        torch.save(other, tmp_path / f"imagenet{number}.pth")
    before = bytes_read()
    refuses(tmp_path, tmp_path / "model_0000.pth", "no intact checkpoint beside it")
    assert bytes_read() - before < 1 << 20


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    save_malicious(tmp_path / "evil.pth", tmp_path / "marker", legacy)
    words = r"posix\.system, that could run any code"
    with pytest.raises(WeightsError, match=words):
        Checkpointer(network()).load(str(tmp_path / "evil.pth"))
    refuses(tmp_path, tmp_path / "evil.pth", "the format before PyTorch 1.6" if legacy else words)
    assert not (tmp_path / "marker").exists()


def test_numpy_values_load(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    weights = {"weight": np.array([[1.0, 2.0]], dtype=np.float32), "bias": torch.ones(1)}
    path = tmp_path / "old.pth"
    torch.save({"model": weights, "metric": np.float64(0.5), "epoch": np.int64(3)}, path)
    rest = Checkpointer(model).load(str(path))
    assert rest == {"metric": 0.5, "epoch": 3}
    assert type(rest["epoch"]) is int
    assert model.weight.tolist() == [[1.0, 2.0]]


def test_the_format_before_pytorch_1_6_loads(tmp_path: Path) -> None:
    model = network()
    path = tmp_path / "old.pth"
    torch.save({"model": model.state_dict()}, path, _use_new_zipfile_serialization=False)
    other = network()
    Checkpointer(other).load(str(path))
    assert equal(other.state_dict(), model.state_dict())


def test_nothing_is_resumed_from_the_format_before_pytorch_1_6(tmp_path: Path) -> None:
    trained(tmp_path).save("model_0000")
    path = tmp_path / "model_0000.pth"
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    refuses(tmp_path, path, "the format before PyTorch 1.6, .* save it again by torch.save")


class ArrayOfObjects:
    def __reduce__(self) -> tuple[object, ...]:
        return np.ndarray, ((1,), "O")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "no entry 'model'"),
        ({"state_dict": {}}, "no entry 'model'"),
        ({"model": [torch.ones(1)]}, "no entry 'model' with a state dict"),
        ({"model": {"0.weight": 3.0}}, "'0.weight' of 'model' is a float"),
        ({"model": {0: torch.ones(1)}}, "entry 0 of 'model'"),
        ({"model": {"0.weight": ArrayOfObjects()}}, "holds a Python object, numpy.ndarray"),
        ({"model": {}}, "does not fit the network: 7 missing from it"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    refuses(tmp_path, path, words)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refuses(tmp_path, tmp_path / "absent.pth", r"absent\.pth is not there")


# Fit.


def save_model(model: nn.Module, path: Path) -> Path:
    torch.save({"model": model.state_dict()}, path)
    return path


def test_differences_are_listed_and_counted(tmp_path: Path) -> None:
    state = network(classes=6).state_dict()
    for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var"):
        state[f"9.{name}"] = state.pop(name)
    torch.save({"model": state}, tmp_path / "other.pth")
    sentence = refuses(tmp_path, tmp_path / "other.pth", "does not fit the network")
    assert "4 missing from it (1.weight, 1.bias, 1.running_mean, and 1 more)" in sentence
    assert "4 unknown to the network (9.1.weight, 9.1.bias, 9.1.running_mean, and 1" in sentence
    assert "1 of another shape (3.weight (6, 4) there, (5, 4) here)" in sentence
    assert "METABIN.PARTIAL_WEIGHTS" in sentence
    assert "gates" not in sentence


def test_a_single_difference_is_enough(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save({"model": {**state, "more": torch.ones(1)}}, tmp_path / "more.pth")
    refuses(tmp_path, tmp_path / "more.pth", r"network: 1 unknown to the network \(more\);")
    state.pop("0.bias")
    torch.save({"model": state}, tmp_path / "less.pth")
    refuses(tmp_path, tmp_path / "less.pth", r"network: 1 missing from it \(0\.bias\);")
    path = save_model(network(classes=6), tmp_path / "shape.pth")
    refuses(tmp_path, path, r"network: 1 of another shape \(3\.weight")


def test_gates_that_are_missing_or_too_many_are_called_so(tmp_path: Path) -> None:
    plain = save_model(network(), tmp_path / "plain.pth")
    gated = save_model(convert_norm(network(), "BIN"), tmp_path / "gated.pth")
    sentence = refuses(tmp_path, plain, "3 missing", model=convert_norm(network(), "BIN"))
    assert "what is missing are gates and instance parameters" in sentence
    sentence = refuses(tmp_path, gated, "3 unknown")
    assert "what is unknown are gates and instance parameters" in sentence


def test_partial_loads_what_fits_and_logs_the_rest(tmp_path: Path, log: list[str]) -> None:
    source = network(classes=6)
    path = save_model(source, tmp_path / "plain.pth")
    model = convert_norm(network(), "BIN")
    before = copy.deepcopy(model.state_dict())
    checkpointer = logging_to(Checkpointer(model), log)
    checkpointer.partial = True
    checkpointer.load(str(path))
    after = model.state_dict()
    assert torch.equal(after["0.weight"], source[0].weight)
    for name in ("3.weight", "1.gate", "1.instance_weight"):
        assert torch.equal(after[name], before[name])
    text = "\n".join(log)
    assert "3.weight" in text
    assert "gate" in text


def test_partial_does_not_mean_nothing(tmp_path: Path) -> None:
    path = save_model(nn.Linear(3, 3), tmp_path / "other.pth")
    refuses(tmp_path, path, "give a checkpoint of this network", partial=True)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_classifier_without_classes_takes_none(tmp_path: Path, log: list[str]) -> None:
    source, model = network(classes=6), network(classes=0)
    path = save_model(source, tmp_path / "trained.pth")
    logging_to(Checkpointer(model), log).load(str(path))
    assert torch.equal(model[0].weight, source[0].weight)
    assert log == [f"Loading checkpoint from {path}"]
    # The other way round the classifier of the network would stay random.
    refuses(tmp_path, save_model(model, tmp_path / "evaluated.pth"), "1 of another shape")


def test_the_prefix_of_a_data_parallel_wrapper_is_taken_off(tmp_path: Path) -> None:
    source = network()
    path = save_model(nn.DataParallel(source), tmp_path / "wrapped.pth")
    assert all(name.startswith("module.") for name in torch.load(path)["model"])
    model = network()
    Checkpointer(model).load(str(path))
    assert equal(model.state_dict(), source.state_dict())


def test_one_name_of_a_shared_parameter_is_enough(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    source, model = tied(), tied()
    state = source.state_dict()
    state.pop("1.weight")
    torch.save({"model": state}, tmp_path / "tied.pth")
    Checkpointer(model).load(str(tmp_path / "tied.pth"))
    assert equal(model.state_dict(), source.state_dict())


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    state = dict(network().state_dict())
    state.pop("1.num_batches_tracked")
    torch.save({"model": state}, tmp_path / "old.pth")
    model = network()
    Checkpointer(model).load(str(tmp_path / "old.pth"))
    assert torch.equal(model[0].weight, state["0.weight"])


# States of optimizers and hooks.


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("optimizer", torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1).state_dict()),
        ("optimizer", {"state": {}}),
        ("optimizer", 5),
        ("optimizer", {"state": [], "param_groups": []}),
        ("hook", {"counts": 3}),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_all_undone(
    tmp_path: Path, name: str, state: object
) -> None:
    trained(tmp_path).save("model_0000", **{name: state})
    refuses(tmp_path, tmp_path / "model_0000.pth", f"the state of {name} does not fit")


def test_a_hooks_own_sentence_is_kept_and_all_undone(tmp_path: Path) -> None:
    trained(tmp_path).save("model_0000", hook={"counts": 3})
    other = trained(tmp_path, seed=1)
    other.checkpointables["hook"] = CountingHook(5, DatasetError)
    before = snapshot(other)
    with pytest.raises(DatasetError, match="unknown state"):
        other.load(str(tmp_path / "model_0000.pth"))
    assert equal(snapshot(other), before)


def test_a_state_that_the_file_lacks_is_logged(tmp_path: Path, log: list[str]) -> None:
    first = trained(tmp_path)
    del first.checkpointables["hook"]
    first.save("model_0000")
    second = logging_to(trained(tmp_path, seed=1), log)
    second.resume_or_load("", resume=True)
    assert any("has no state of hook" in line for line in log)
    assert not any("no state of optimizer" in line for line in log)
    assert second.checkpointables["hook"].state == {"count": 7}


def changed(state: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    """A copy of nested dicts and lists with another value at one place."""
    state = copy.deepcopy(state)
    place: Any = state
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return state


def stepped(kind: type[torch.optim.Optimizer], **settings: Any) -> torch.optim.Optimizer:
    parameter = nn.Parameter(torch.ones(3, 2))
    optimizer = kind([parameter], lr=0.1, **settings)
    parameter.grad = torch.ones(3, 2)
    optimizer.step()
    return optimizer


OPTIMIZERS: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.SGD, {}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (torch.optim.Adam, {"amsgrad": True}),
    (torch.optim.AdamW, {}),
    (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
]
GROUP = ("param_groups", 0)


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS)
def test_an_optimizer_takes_its_own_state(kind: Any, settings: dict[str, Any]) -> None:
    optimizer = stepped(kind, **settings)
    for state in (optimizer.state_dict(), kind([nn.Parameter(torch.ones(3, 2))]).state_dict()):
        check_state(optimizer, state)


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS)
def test_what_an_optimizer_keeps_is_checked(kind: Any, settings: dict[str, Any]) -> None:
    optimizer = stepped(kind, **settings)
    whole = optimizer.state_dict()
    for name in whole["state"].get(0, {}):
        for value in (torch.ones(2), torch.ones(3, 2, dtype=torch.int64), "text", None, [1.0]):
            with pytest.raises(ValueError, match=name):
                check_state(optimizer, changed(whole, "state", 0, name, to=value))
        lacking = copy.deepcopy(whole)
        del lacking["state"][0][name]
        with pytest.raises(ValueError, match=name):
            check_state(optimizer, lacking)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*GROUP, "lr"), "fast"),
        ((*GROUP, "lr"), None),
        ((*GROUP, "lr"), math.nan),
        ((*GROUP, "lr"), math.inf),
        ((*GROUP, "lr"), -0.1),
        ((*GROUP, "lr"), [0.1]),
        ((*GROUP, "lr"), True),
        ((*GROUP, "momentum"), "0.9"),
        ((*GROUP, "momentum"), -1),
        ((*GROUP, "nesterov"), "no"),
        ((*GROUP, "differentiable"), True),
        ((*GROUP, "params"), [7, 8]),
        ((*GROUP, "params"), ["0"]),
        ((*GROUP, "params"), 0),
        ((*GROUP, "freeze_status"), "thaw"),
        ((*GROUP, "freeze_steps"), -5),
        (GROUP, 3),
        (("param_groups",), []),
        (("state",), 3),
        (("state", 0), 3),
        (("state", 7), {}),
        (("state", "0"), {}),
    ],
)
def test_settings_of_an_optimizer_are_checked(path: tuple[Any, ...], value: Any) -> None:
    optimizer = stepped(torch.optim.SGD, momentum=0.9)
    with pytest.raises(ValueError, match=r"\w"):
        check_state(optimizer, changed(optimizer.state_dict(), *path, to=value))


def schedule(kind: str) -> torch.optim.lr_scheduler.LRScheduler:
    optimizer = stepped(torch.optim.SGD)
    if kind == "warmup":
        return WarmupLR(optimizer, warmup_iters=5)
    if kind == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])


@pytest.mark.parametrize("kind", ["steps", "cosine", "warmup"])
def test_a_schedule_takes_its_own_state(kind: str) -> None:
    first = schedule(kind)
    first.step()
    check_state(schedule(kind), first.state_dict())
    # As older versions of PyTorch wrote it.
    check_state(schedule(kind), first.state_dict() | {"verbose": False})


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("steps", "last_epoch", "three"),
        ("steps", "last_epoch", -5),
        ("steps", "last_epoch", 2.5),
        ("steps", "last_epoch", 10**12),
        ("steps", "_step_count", None),
        ("steps", "gamma", "small"),
        ("steps", "gamma", math.nan),
        ("steps", "milestones", [3, 5]),
        ("steps", "milestones", Counter({3: 10**12})),
        ("steps", "milestones", Counter({3: -1})),
        ("steps", "milestones", Counter({"3": 1})),
        ("steps", "base_lrs", [0.1, 0.1]),
        ("steps", "base_lrs", ["0.1"]),
        ("steps", "_last_lr", 0.1),
        ("steps", "step", 5),
        ("steps", "optimizer", None),
        ("steps", "get_lr", True),
        ("steps", "unknown", {"a": 1}),
        ("cosine", "T_max", 0),
        ("cosine", "eta_min", None),
        ("warmup", "warmup_method", "sudden"),
        ("warmup", "warmup_iters", [5]),
        ("warmup", "warmup_factor", True),
    ],
)
def test_the_state_of_a_schedule_is_checked(kind: str, name: str, value: Any) -> None:
    holder = schedule(kind)
    with pytest.raises(ValueError, match=name):
        check_state(holder, holder.state_dict() | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("scale", value) for value in (0, -1.0, math.inf, math.nan, "65536", None, [2.0])),
        *(("growth_factor", value) for value in (1, 0.5, "2", True)),
        *(("backoff_factor", value) for value in (0, 1, 2.0)),
        *(("growth_interval", value) for value in (0, 2.5)),
        *(("_growth_tracker", value) for value in (-1, 0.5, None)),
    ],
)
def test_the_state_of_a_loss_scale_is_checked(name: str, value: Any) -> None:
    scaler = torch.amp.GradScaler("cpu")
    check_state(scaler, scaler.state_dict())
    check_state(scaler, {})
    with pytest.raises(ValueError, match=name):
        check_state(scaler, scaler.state_dict() | {name: value})


@pytest.mark.parametrize("epoch", ["three", None, -5, 10**12, 1.5, [1], math.nan, True])
def test_the_epoch_that_fastreid_counts_on_from_is_checked(tmp_path: Path, epoch: Any) -> None:
    trained(tmp_path).save("model_0000", epoch=epoch)
    refuses(tmp_path, tmp_path / "model_0000.pth", "as its epoch, where a whole number from -1 is")
    # As weights it is as good as any.
    trained(tmp_path).resume_or_load(str(tmp_path / "model_0000.pth"), resume=False)


def test_nothing_is_applied_where_a_check_of_the_caller_refuses(tmp_path: Path) -> None:
    trained(tmp_path).save("model_0000", epoch=3)
    other = trained(tmp_path, seed=1)
    before = snapshot(other)

    def check(content: Mapping[str, Any]) -> None:
        raise WeightsError(f"epoch {content['epoch']} of {len(content)} entries")

    with pytest.raises(WeightsError, match="epoch 3 of 4 entries"):
        other.load(str(tmp_path / "model_0000.pth"), check=check)
    assert equal(snapshot(other), before)


# Which checkpoint to resume from.


def test_a_fresh_folder_has_no_checkpoint(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        checkpointer = trained(folder)
        assert not checkpointer.has_checkpoint()
        assert checkpointer.get_checkpoint_file() == ""
        assert checkpointer.resume_or_load("", resume=True) == {}


def test_a_folder_whose_checkpoints_are_all_of_no_use_is_refused(tmp_path: Path) -> None:
    checkpointer = trained(tmp_path)
    checkpointer.save("model_0000")
    del checkpointer.checkpointables["hook"]
    checkpointer.save("model_0001")
    truncated(tmp_path / "model_0000.pth")
    for age, name in enumerate(["model_0001", "model_0000"]):
        os.utime(tmp_path / f"{name}.pth", (1e9 - age, 1e9 - age))
    (tmp_path / "last_checkpoint").unlink()
    files = sorted(os.listdir(tmp_path))
    other = trained(tmp_path, seed=1)
    assert other.has_checkpoint()
    sentence = (
        r"has no checkpoint to resume from: model_0001\.pth has no state of hook, model_0000\.pth "
        r"is damaged or not a checkpoint; write the name .* last_checkpoint .* another OUTPUT_DIR"
    )
    with pytest.raises(WeightsError, match=sentence):
        other.resume_or_load("", resume=True)
    assert sorted(os.listdir(tmp_path)) == files
    # As the sentence says.
    other.tag_last_checkpoint("model_0001.pth")
    other.resume_or_load("", resume=True)


@pytest.mark.parametrize("damage", [emptied, truncated, bit_flipped])
def test_a_folder_of_damaged_checkpoints_never_starts_anew(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    for name in ("model_0000", "model_0001"):
        trained(tmp_path).save(name)
        damage(tmp_path / f"{name}.pth")
    (tmp_path / "last_checkpoint").unlink()
    with pytest.raises(
        WeightsError, match=r"model_000\d\.pth is damaged or not a checkpoint, model"
    ):
        trained(tmp_path).resume_or_load("", resume=True)


def test_that_a_run_starts_anew_is_logged(tmp_path: Path, log: list[str]) -> None:
    assert logging_to(trained(tmp_path), log).get_checkpoint_file() == ""
    assert log == [f"{tmp_path} has no checkpoint to go on from"]


@pytest.mark.parametrize("tag", ["", " \n", "model_0007.pth", "\udcff"])
def test_a_tag_without_a_file_is_refused_and_the_files_named(tmp_path: Path, tag: str) -> None:
    checkpointer = trained(tmp_path)
    checkpointer.save("model_0001")
    (tmp_path / "last_checkpoint").write_bytes(tag.encode(errors="surrogateescape"))
    assert checkpointer.has_checkpoint()
    words = r"last_checkpoint (is empty|names model_0007\.pth, which is not there); .*model_0001"
    with pytest.raises(WeightsError, match=words):
        checkpointer.resume_or_load("", resume=True)


def test_without_a_tag_the_newest_whole_checkpoint_is_taken(tmp_path: Path, log: list[str]) -> None:
    first = trained(tmp_path)
    for age, name in enumerate(["model_0002", "model_0001", "model_0000"]):
        first.save(name, epoch=2 - age)
        os.utime(tmp_path / f"{name}.pth", (1e9 - age, 1e9 - age))
    (tmp_path / "last_checkpoint").unlink()
    truncated(tmp_path / "model_0002.pth")
    (tmp_path / "model_0003.pth.partial").write_bytes(b"half")
    # Newer than all of them, but no checkpoints of this run.
    save_model(network(), tmp_path / "imagenet.pth")
    save_malicious(tmp_path / "evil.pth", tmp_path / "marker")
    second = logging_to(trained(tmp_path, seed=1), log)
    assert second.has_checkpoint()
    assert second.resume_or_load("", resume=True) == {"epoch": 1}
    assert equal(snapshot(second), snapshot(first))
    assert any("taking model_0001.pth" in line for line in log)
    assert not (tmp_path / "marker").exists()
