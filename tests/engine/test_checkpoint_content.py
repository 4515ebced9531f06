"""A checkpoint with other content than a run writes: refused in one sentence, nothing applied."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metabin_plugin import random_state
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.engine.checkpoint_schema import FORMAT
from metabin_plugin.errors import MetaBINError
from tests.campaigns import tries
from tests.engine.noisy_run import noisy_options, noisy_trainer
from tests.engine.test_resume import difference

CHECKPOINT = "model_iter_0000004.pth"
RANDOM = ("progress", "random_states", 0)


class Run:
    """A tiny run that was stopped, and a trainer that can go on from it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.options = noisy_options(
            folder, SOLVER__MAX_EPOCH=2, TEST__EVAL_PERIOD=0, SOLVER__CHECKPOINT_KEEP=0, **changes
        )
        noisy_trainer(self.options).train()
        self.folder = folder / "out"
        self.content = torch.load(self.folder / CHECKPOINT, weights_only=True)
        # As earlier versions wrote it where both steps draw from one stream.
        hook = self.content.get("MetaLearningHook")
        if hook is not None:
            assert hook["batches"] is None
            hook["batches"] = self.content["progress"]["batches"]

    def save(self, content: Any) -> None:
        torch.save(content, self.folder / CHECKPOINT)
        (self.folder / "last_checkpoint").write_text(CHECKPOINT)

    def resumed(self, content: Any, *options: str) -> MetaBINTrainer:
        self.save(content)
        return noisy_trainer([*self.options, *options], resume=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def trainer(run: Run) -> MetaBINTrainer:
    """One for all tests; what is refused leaves it as it was."""
    return noisy_trainer(run.options)


def state_of(trainer: MetaBINTrainer) -> dict[str, Any]:
    holders = {"model": trainer.model, **trainer.checkpointer.checkpointables}
    return {
        **{name: copy.deepcopy(holder.state_dict()) for name, holder in holders.items()},
        "start": [trainer.start_epoch, trainer.start_iter],
        "batches": trainer.base_batches.state_dict(),
    }


def with_value(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at one place; the tensors are the same."""
    if not path:
        return value
    if isinstance(content, list):
        return [
            with_value(v, path[1:], value) if i == path[0] else v for i, v in enumerate(content)
        ]
    changed = copy.copy(content)
    changed[path[0]] = with_value(content.get(path[0]), path[1:], value)
    return changed


def without(content: Any, path: tuple[Any, ...]) -> Any:
    parent: Any = content
    for key in path[:-1]:
        parent = parent[key]
    left = {key: value for key, value in parent.items() if key != path[-1]}
    return with_value(content, path[:-1], left)


def refuses(run: Run, trainer: MetaBINTrainer, content: Any) -> str:
    """The sentence in which a checkpoint is refused, without a change of the trainer."""
    before, generators = state_of(trainer), random_state.capture()
    files = sorted(path.name for path in run.folder.iterdir())
    run.save(content)
    with pytest.raises(MetaBINError) as failure:
        trainer.resume_or_load(resume=True)
    assert difference(before, state_of(trainer)) == ""
    assert difference(generators, random_state.capture()) == ""
    assert sorted(path.name for path in run.folder.iterdir()) == files
    assert str(failure.value).isprintable()
    assert CHECKPOINT in str(failure.value)
    return str(failure.value)


WORDS = (*RANDOM, "python", "words")
KEY = (*RANDOM, "numpy", "key")
BATCHES = ("progress", "batches")
HOOK = ("MetaLearningHook",)
NOISE = ("progress", "scalars", "noise")
BAD: dict[tuple[Any, ...], tuple[Any, ...]] = {
    ("format",): ("one", None, -1, 1.0, FORMAT + 1, 10**12),
    ("epoch",): ("three", None, -5, 10**12, 1.5, [1], math.nan, 2, True),
    ("metric",): ("high", None, math.nan, math.inf, [1.0]),
    ("config",): (
        *(3, None, ["A: 1"], "A: [", "!!python/object/apply:os.system [ls]", "- 1\n- 2", "text"),
        *("1: 2", "A: &a [*a]", "A: &x [1]\nB: &y [*x, *x]\n" * 9, "A: 1\n" + " " * (1 << 19)),
    ),
    ("progress",): ([], "text", 3, None, {}),
    ("progress", "iteration"): ("four", None, -1, 10**12, 4.0, [4], 10, True),
    BATCHES: (3, "text", [], {}),
    (*BATCHES, "position"): (-1, "8", None, 10**12, 8.0),
    (*BATCHES, "seed"): (-1, "3", None, 2**64),
    (*BATCHES, "sampler_seed"): (-1, "3", 2**32, 1.5),
    (*BATCHES, "sampler_pass"): (3, "text", [], {}),
    ("progress", "scalars"): ([], None, 3, {"noise": 3}, {3: {}}, {"a\nb": {}}),
    NOISE: (None, [], {"values": torch.ones(1, 2), "smoothing": True}),
    (*NOISE, "values"): (
        *(None, 3.0, [[1.0, 2.0]], torch.ones(2), torch.ones(1, 2), torch.ones(1, 3).double()),
        *(torch.zeros(0, 2).double(), torch.zeros(201, 2).double(), torch.ones(1, 2).double() * -1),
        *(torch.ones(1, 2).double() * 10**12, torch.full((1, 2), math.nan).double()),
    ),
    (*NOISE, "smoothing"): (None, 1, "yes"),
    ("progress", "random_states"): (None, {}, [], 3, [None]),
    (*RANDOM, "python"): (None, 3, {}),
    # A tensor of two values is neither true nor false, and one without axes has no parts.
    (*RANDOM, "python", "version"): (2, None, "3", torch.ones(2)),
    (*RANDOM, "python", "gauss"): ("text", math.nan, [1.0]),
    WORDS: (
        *(None, [1], torch.tensor(5), torch.ones(1).long(), torch.ones(625)),
        torch.ones(625).long() * -1,
    ),
    (*RANDOM, "numpy", "position"): (-1, 625, 10**12, "24", None, 2.0),
    (*RANDOM, "numpy", "has_gauss"): (2, None, "0", torch.ones(2)),
    (*RANDOM, "numpy", "gauss"): (None, "0", math.inf),
    KEY: (None, torch.ones(1).long(), torch.ones(624), torch.full((624,), 2**32)),
    (*RANDOM, "torch"): (
        None,
        3,
        torch.ones(16).byte(),
        torch.zeros(5056).byte(),
        torch.ones(5056),
    ),
    (*RANDOM, "cuda"): (3, torch.ones(5).byte(), torch.ones(16)),
    ("progress", "data"): (None, [], {}, {"people": 12}),
    ("progress", "data", "people"): ("12", None, 10**12, -1),
    ("progress", "data", "sources"): (None, 3, [3], []),
    ("progress", "machine"): (None, [], "text", {"threads": 1}, {"threads": "1" * 10**6}),
    ("checkpoints",): (None, [], {}),
    ("checkpoints", "best_metric"): ("high", None, math.nan, math.inf, [1.0]),
    ("checkpoints", "periodic"): (None, "model_0001", [3], [["model_0001"]], {"model_0001": 1}),
    HOOK: (None, [], 3, {}),
    (*HOOK, "seed"): ("3", None, -1, 1.5, 2**64),
    (*HOOK, "skipped_steps"): (-1, "0", None),
    (*HOOK, "batches"): (3, "text", [], {}),
    (*HOOK, "batches", "position"): (-1, "8", None, 10**12),
    (*HOOK, "outer_optimizer"): (None, [], {}),
    (*HOOK, "outer_optimizer", "param_groups", 0, "lr"): ("text", None, math.nan, -1),
    (*HOOK, "grad_scaler"): (None, 3, []),
    ("optimizer",): (None, [], {}, "text"),
    ("optimizer", "param_groups", 0, "lr"): ("text", None, math.nan, -1),
    ("optimizer", "state", 0, "momentum_buffer"): ("text", 3, None, torch.ones(1)),
    ("lr_sched", "last_epoch"): ("text", None, -5, 10**12),
    ("warmup_sched", "warmup_method"): ("text", None),
    ("model",): (None, [], {}, {"a": torch.ones(1)}),
    ("model", "backbone.0.weight"): (None, "text", torch.ones(1)),
}


@pytest.mark.parametrize("path", BAD, ids=lambda path: ".".join(map(str, path)))
def test_other_values_are_refused(run: Run, trainer: MetaBINTrainer, path: tuple[Any, ...]) -> None:
    for value in BAD[path]:
        sentence = refuses(run, trainer, with_value(run.content, path, value))
        named = [key for key in path if isinstance(key, str)]
        assert any(key in sentence for key in named), (value, sentence)


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../model_0001", "sub/model_0001", "model_final", "model_best", "", "."),
        *(
            "C:\\model_0001",
            "model_0001.pth",
            "model_0001\n",
            "model_iter_1",
            "model_\u0660001",
            "imagenet",
        ),
    ],
)
def test_a_checkpoint_names_no_file_outside_its_folder(
    run: Run, trainer: MetaBINTrainer, name: str
) -> None:
    content = with_value(run.content, ("checkpoints", "periodic"), ["model_iter_0000002", name])
    assert "periodic" in refuses(run, trainer, content)


def test_other_files_of_the_folders_beside_stay(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for file in (tmp_path / "model_0001.pth", run.folder / "notes.pth"):
        file.write_text("mine")
    listed = ["model_0099", "model_iter_0000002", "model_iter_0000004"]
    content = with_value(run.content, ("checkpoints", "periodic"), listed)
    run.resumed(content, "SOLVER.CHECKPOINT_KEEP", "1").train()
    assert (tmp_path / "model_0001.pth").read_text() == "mine"
    assert (run.folder / "notes.pth").read_text() == "mine"
    assert not (run.folder / "model_iter_0000002.pth").exists()


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values, dicts and lists included."""
    if path:
        yield path
    entries: Any = ()
    if isinstance(content, dict):
        entries = content.items()
    elif isinstance(content, list):
        entries = enumerate(content)
    for key, value in entries:
        yield from leaves(value, (*path, key))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-5, -1, 0, 1, 2, 10**12, 2**70]),
    st.sampled_from([0.5, -1.0, 1e12, math.nan, math.inf]),
    st.sampled_from(["", "text", "../x", "a\nb", "1" * 1000]),
    st.sampled_from([[], [1], ["a"], {}, {"a": 1}, [[[[]]]]]),
    st.sampled_from([torch.ones(()), torch.zeros(0), torch.ones(3, 2), torch.ones(1).long()]),
)


def goes_on_or_is_refused(run: Run, trainer: MetaBINTrainer, content: Any) -> None:
    before = state_of(trainer)
    run.save(content)
    try:
        trainer.resume_or_load(resume=True)
    except MetaBINError as error:
        assert str(error).isprintable()
        assert difference(before, state_of(trainer)) == ""
        return
    # It is harmless where the run ends as runs do.
    goes_on = noisy_trainer(run.options, resume=True)
    try:
        goes_on.train()
    except MetaBINError:
        return
    assert goes_on.iter == goes_on.max_epoch * goes_on.iters_per_epoch


@given(draw=st.data())
@settings(
    max_examples=tries(15, 200),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.slow
def test_any_value_at_any_place_is_harmless_or_refused(
    run: Run, trainer: MetaBINTrainer, draw: st.DataObject
) -> None:
    content = run.content
    for _ in range(draw.draw(st.integers(1, 2))):
        path = draw.draw(st.sampled_from(list(leaves(content))))
        content = with_value(content, path, draw.draw(VALUES))
    goes_on_or_is_refused(run, trainer, content)


@pytest.mark.slow
def test_any_entry_may_be_missing(run: Run, trainer: MetaBINTrainer) -> None:
    """Refused, or gone on from; never an error of another kind."""
    # One of the weights and one of the log's scalars are enough.
    scalars = run.content["progress"]["scalars"]
    content = with_value(run.content, ("progress", "scalars"), {"noise": scalars["noise"]})
    weights = list(content["model"])[1:]
    paths = [p for p in leaves(content) if isinstance(p[-1], str) and p[-1] not in weights]
    for path in paths[:: tries(4, 1)]:
        goes_on_or_is_refused(run, trainer, without(content, path))


def test_a_checkpoint_of_version_0_1_goes_on(run: Run) -> None:
    content = without(run.content, ("format",))
    for name in ("data", "machine"):
        content = without(content, ("progress", name))
    assert run.resumed(content).start_iter == 4
