"""What becomes of a key that is changed before ``--resume``: it holds, or the run is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from metabin_plugin.config.changes import Change, Outcome, config_changes, refuse_another_run
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.errors import ConfigError, DatasetError, WeightsError
from tests.engine.noisy_run import noisy_options, noisy_trainer
from tests.engine.tiny_data import write_manifest

# With METABIN.STEPS_COUNT_WARMUP, as in the paper's config. A warm-up of 7 ends in epoch 1 of 5
# iterations.
USUAL: dict[str, Any] = {
    "SOLVER__MAX_EPOCH": 4,
    "SOLVER__STEPS": [2, 3],
    "SOLVER__CHECKPOINT_ITERS": 0,
    "SOLVER__CHECKPOINT_KEEP": 0,
    "TEST__EVAL_PERIOD": 0,
}
COSINE: dict[str, Any] = {"SOLVER__SCHED": "CosineAnnealingLR", "SOLVER__WARMUP_ITERS": 0}
# What a training is resumed with, and what it began with beside USUAL.
SCHEDULES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"SOLVER__STEPS": [1, 3]}, {}),
    ({"SOLVER__STEPS": [3, 5], "SOLVER__MAX_EPOCH": 6}, {}),
    # Keys that have nothing to do with each other; each shows in the settings by itself.
    (
        {
            "SOLVER__GAMMA": 0.5,
            "SOLVER__BIAS_LR_FACTOR": 3.0,
            "SOLVER__HEADS_LR_FACTOR": 2.0,
            "SOLVER__WEIGHT_DECAY_NORM": 0.01,
            "SOLVER__WEIGHT_DECAY_BIAS": 0.02,
            "SOLVER__MOMENTUM": 0.5,
            "METABIN__OUTER_LR": 0.03,
        },
        {
            "SOLVER__BIAS_LR_FACTOR": 2.0,
            "SOLVER__HEADS_LR_FACTOR": 0.5,
            "SOLVER__WEIGHT_DECAY_NORM": 0.0,
            "SOLVER__WEIGHT_DECAY_BIAS": 0.0,
        },
    ),
    ({"SOLVER__BASE_LR": 0.002, "SOLVER__NESTEROV": True}, {}),
    ({f"SOLVER__WEIGHT_DECAY{part}": 0.01 for part in ("", "_NORM", "_BIAS")}, {}),
    ({"SOLVER__WARMUP_ITERS": 18}, {}),
    ({"SOLVER__WARMUP_ITERS": 0}, {}),
    ({"SOLVER__WARMUP_ITERS": 18}, {"SOLVER__WARMUP_ITERS": 0}),
    ({"SOLVER__WARMUP_FACTOR": 0.5}, {"SOLVER__WARMUP_ITERS": 18}),
    ({"SOLVER__WARMUP_METHOD": "exp"}, {"SOLVER__WARMUP_ITERS": 18}),
    ({"SOLVER__DELAY_EPOCHS": 3}, {}),
    ({"METABIN__STEPS_COUNT_WARMUP": False}, {"SOLVER__WARMUP_ITERS": 12}),
    ({"SOLVER__MAX_EPOCH": 8}, COSINE),
    ({"SOLVER__ETA_MIN_LR": 0.001}, COSINE),
    ({"SOLVER__SCHED": "CosineAnnealingLR"}, {}),
    ({"SOLVER__SCHED": "MultiStepLR"}, COSINE),
    ({"SOLVER__BASE_LR": 3e-5}, {"SOLVER__OPT": "Adam"}),
    ({"SOLVER__CLIP_GRADIENTS__ENABLED": True}, {}),
]


def settings(trainer: MetaBINTrainer) -> list[dict[str, Any]]:
    """What optimizers are set to: everything in their groups but parameters."""
    hook = trainer.hook("MetaLearningHook")
    groups = [*trainer.optimizer.param_groups, *hook.outer_optimizer.param_groups]
    return [{name: value for name, value in g.items() if name != "params"} for g in groups]


def followed(trainer: MetaBINTrainer) -> dict[int, list[dict[str, Any]]]:
    """Train; the settings before every iteration, by its number."""
    found = {}
    step = trainer.run_step

    def run_step() -> None:
        found[trainer.iter] = settings(trainer)
        step()

    trainer.run_step = run_step
    trainer.train()
    return found


class Runs:
    """Trainings that several tests go on with or are compared with; each is done once.

    Args:
        folder: where their data and their OUTPUT_DIRs are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: dict[str, tuple[Path, dict[int, list[dict[str, Any]]]]] = {}

    def options(self, output: Path, changes: dict[str, Any]) -> list[str]:
        """KEY VALUE pairs of a training on the data of all."""
        return noisy_options(self.folder, **changes, OUTPUT_DIR=output)

    def __call__(self, changes: dict[str, Any]) -> tuple[Path, dict[int, list[dict[str, Any]]]]:
        """OUTPUT_DIR of a finished training, and the settings that it had."""
        name = repr(sorted(changes.items()))
        if name not in self._done:
            output = self.folder / f"run{len(self._done)}"
            self._done[name] = output, followed(noisy_trainer(self.options(output, changes)))
        return self._done[name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def schedules_and_checkpoints() -> list[Any]:
    """Each change from the end of an epoch or from the middle of one, in turns."""
    checkpoints = ("model_0002", "model_iter_0000012")
    return [
        pytest.param(
            *(now, then, checkpoint),
            id=f"{', '.join(now)} of {', '.join(then)}, {checkpoint}",
            marks=[] if (number + place) % 2 else [pytest.mark.exhaustive],
        )
        for number, (now, then) in enumerate(SCHEDULES)
        for place, checkpoint in enumerate(checkpoints)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("now", "then", "checkpoint"), schedules_and_checkpoints())
def test_settings_are_those_of_a_run_that_always_had_them(
    tmp_path: Path,
    runs: Runs,
    plugin_log: Any,
    now: dict[str, Any],
    then: dict[str, Any],
    checkpoint: str,
) -> None:
    then = {**USUAL, **then, "SOLVER__CHECKPOINT_ITERS": 12}
    now = {**then, **now}
    began, _ = runs(then)
    _, expected = runs(now)
    for file in (f"{checkpoint}.pth", "metrics.json"):
        shutil.copy(began / file, tmp_path / file)
    (tmp_path / "last_checkpoint").write_text(f"{checkpoint}.pth")
    trainer = noisy_trainer(runs.options(tmp_path, now), resume=True)
    for key, value in now.items():
        if then.get(key) != value:
            assert f"{key.replace('__', '.')}: " in plugin_log.text
    found = followed(trainer)
    assert list(found) == list(range(trainer.start_iter, trainer.max_iter))
    assert found == {iteration: expected[iteration] for iteration in found}


def test_iterations_that_a_loss_scale_left_out_stay_uncounted(tmp_path: Path) -> None:
    then = USUAL | {"SOLVER__WARMUP_ITERS": 18, "SOLVER__CHECKPOINT_ITERS": 12}
    noisy_trainer(noisy_options(tmp_path, **then)).train()
    path = tmp_path / "out" / "model_iter_0000012.pth"
    state = torch.load(path, weights_only=True)
    assert state["warmup_sched"]["last_epoch"] == 12
    state["warmup_sched"]["last_epoch"] = 10
    torch.save(state, path)
    (tmp_path / "out" / "last_checkpoint").write_text(path.name)
    options = noisy_options(tmp_path, **then, SOLVER__BASE_LR=0.5, SOLVER__WARMUP_FACTOR=0.1)
    trainer = noisy_trainer(options, resume=True)
    assert trainer.start_iter == 12
    expected = 0.5 * (0.1 * (1 - 10 / 18) + 10 / 18)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_an_unchanged_config_lists_nothing(tmp_path: Path) -> None:
    trainer = noisy_trainer(noisy_options(tmp_path))
    assert config_changes(trainer.cfg.dump(), trainer.cfg) == []
    assert str(config_changes("A: {B: 1}", trainer.cfg)[0]) == "A.B: 1 -> (absent)"


@pytest.mark.parametrize("name", ["own.csv", "OWN.CSV", "own.Csv"])
def test_manifests_of_any_suffix_may_move(name: str) -> None:
    change = Change("DATASETS.NAMES", [f"old/{name}"], [f"new/{name}"])
    assert change.outcome is Outcome.TAKES_EFFECT
    other = Change("DATASETS.NAMES", [f"old/{name}"], [f"new/my{name}"])
    assert other.outcome is Outcome.REFUSED


def test_what_becomes_of_changed_keys_is_logged(tmp_path: Path, plugin_log: Any) -> None:
    noisy_trainer(noisy_options(tmp_path, **USUAL)).train()
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "source0", moved / "source0")
    shutil.move(tmp_path / "source0.csv", moved / "source0.csv")
    options = noisy_options(
        tmp_path,
        **USUAL | {"SOLVER__MAX_EPOCH": 5, "METABIN__INNER_LR__HIGH": 0.2},
        MODEL__WEIGHTS="else.pth",
        DATASETS__NAMES=(
            str(moved / "source0.csv"),
            *(str(tmp_path / f"source{number}.csv") for number in (1, 2)),
        ),
    )
    plugin_log.clear()
    trainer = noisy_trainer(options, resume=True)
    assert "from iteration 20 on" in plugin_log.text
    assert "METABIN.INNER_LR.HIGH: 0.1 -> 0.2  (takes effect)\n" in plugin_log.text
    assert "SOLVER.MAX_EPOCH: 4 -> 5  (takes effect)\n" in plugin_log.text
    assert "MODEL.WEIGHTS:  -> else.pth  (not used: the weights are" in plugin_log.text
    assert "DATASETS.NAMES: " in plugin_log.text
    assert plugin_log.text.count(" -> ") == 4
    assert trainer.start_iter == 20
    trainer.train()


@pytest.mark.parametrize(
    "change",
    [
        {"METABIN__SEED": 4},
        {"METABIN__SEED": -1},
        {"DATASETS__NAMES": ("source0", "source1", "other")},
        {"DATALOADER__NUM_INSTANCE": 4},
        {"DATALOADER__SAMPLER_TRAIN": "NaiveIdentitySampler"},
        {"SOLVER__IMS_PER_BATCH": 6},
        {"METABIN__IMS_PER_BATCH": 6},
        {"METABIN__ITERS_PER_EPOCH": 4},
        {"METABIN__HOOKS": ("MetaLearningHook",)},
        {"METABIN__FIRST_BASE_UPDATES": 2},
        {"SOLVER__OPT": "Adam"},
        {"SOLVER__FREEZE_ITERS": 9, "MODEL__FREEZE_LAYERS": ["backbone"]},
        {"MODEL__HEADS__CLS_LAYER": "CosSoftmax"},
        {"MODEL__BACKBONE__LAST_STRIDE": 2},
        # The optimizer's buffers would be of other parameters.
        {"SOLVER__BIAS_LR_FACTOR": 3.0},
        {"SOLVER__HEADS_LR_FACTOR": 3.0},
        {"SOLVER__WEIGHT_DECAY": 0.01},
        {"SOLVER__WEIGHT_DECAY_NORM": 0.01},
        {"SOLVER__WEIGHT_DECAY_BIAS": 0.01},
    ],
    ids=str,
)
def test_another_run_is_not_gone_on_with(runs: Runs, change: dict[str, Any]) -> None:
    output, _ = runs(USUAL | {"SOLVER__MAX_EPOCH": 1})
    config = (output / "model_final.pth").read_bytes()
    if "DATASETS__NAMES" in change:
        write_manifest(runs.folder, "other", 9)
        names = tuple(str(runs.folder / f"{name}.csv") for name in change["DATASETS__NAMES"])
        change = {"DATASETS__NAMES": names}
    key = next(iter(change)).replace("__", ".").replace("DATASETS.NAMES", "data sets were")
    sentence = rf"--resume .*model_final\.pth.*{key}.* MODEL\.WEIGHTS"
    with pytest.raises((ConfigError, DatasetError), match=sentence):
        noisy_trainer(runs.options(output, USUAL | change), resume=True)
    assert (output / "model_final.pth").read_bytes() == config


@pytest.mark.parametrize(
    ("began", "now", "sentence"),
    [
        ({"SOLVER__MAX_EPOCH": 4}, {"SOLVER__MAX_EPOCH": 2}, "SOLVER.MAX_EPOCH is 2, but the run"),
        # It stopped inside the epoch behind the last one.
        (
            {"SOLVER__MAX_EPOCH": 4, "SOLVER__CHECKPOINT_ITERS": 12},
            {"SOLVER__MAX_EPOCH": 2},
            "SOLVER.MAX_EPOCH is 2, but the run",
        ),
        ({"METABIN__ITERS_PER_EPOCH": 3}, {}, "METABIN.ITERS_PER_EPOCH: 3 -> 5; set that back"),
        ({"METABIN__ITERS_PER_EPOCH": 7}, {}, "METABIN.ITERS_PER_EPOCH: 7 -> 5; set that back"),
    ],
    ids=str,
)
def test_options_that_were_left_out_at_resume_are_named(
    runs: Runs, began: dict[str, Any], now: dict[str, Any], sentence: str
) -> None:
    """A run that was begun with KEY VALUE pairs is gone on with by the config file alone."""
    output, _ = runs(USUAL | began)
    if "SOLVER__CHECKPOINT_ITERS" in began:
        (output / "last_checkpoint").write_text("model_iter_0000012.pth")
    with pytest.raises(ConfigError) as failure:
        noisy_trainer(runs.options(output, USUAL | now), resume=True)
    assert sentence in str(failure.value)


def test_groups_of_one_size_are_told_apart(tmp_path: Path) -> None:
    one, other = ({"SOLVER__WEIGHT_DECAY_" + kind: 0.01} for kind in ("NORM", "BIAS"))
    brief = USUAL | {"SOLVER__MAX_EPOCH": 1}
    noisy_trainer(noisy_options(tmp_path, **brief, **one)).train()
    with pytest.raises(ConfigError, match="groups of parameters"):
        noisy_trainer(noisy_options(tmp_path, **brief, **other), resume=True)


def test_a_best_metric_of_other_targets_counts_no_more(tmp_path: Path) -> None:
    changes = {"TEST__EVAL_PERIOD": 1, "SOLVER__MAX_EPOCH": 1, "SOLVER__CHECKPOINT_ITERS": 0}
    noisy_trainer(noisy_options(tmp_path, **changes)).train()
    path = tmp_path / "out" / "model_final.pth"
    state = torch.load(path, weights_only=True)
    state["checkpoints"]["best_metric"] = 1e9
    torch.save(state, path)
    for more, expected in (({}, 1e9), ({"TEST__METRIC": "euclidean"}, -1.0)):
        trainer = noisy_trainer(noisy_options(tmp_path, **changes, **more), resume=True)
        assert trainer._checkpoints.state_dict()["best_metric"] == expected


def test_a_teachers_weights_are_read_at_every_start() -> None:
    """As they are in no checkpoint: the log may not say that the checkpoint's are used."""
    change = Change("KD.MODEL_WEIGHTS", ["old.pth"], ["new.pth"])
    assert change.outcome is Outcome.TAKES_EFFECT


def test_every_key_has_an_outcome(tmp_path: Path) -> None:
    trainer = noisy_trainer(noisy_options(tmp_path))
    nothing = config_changes("{}", trainer.cfg)
    assert len(nothing) > 150
    # A key of a newer plugin is not taken for a changed one.
    assert {change.outcome for change in nothing} == {Outcome.TAKES_EFFECT, Outcome.UNUSED}


@pytest.mark.parametrize(
    "config",
    [
        *("[1]", "A: [", "null", "a text", "!!python/object:os.system {}"),
        *("DATASETS: {NAMES: 3}", "SOLVER: {WEIGHT_DECAY: [1]}"),
        *(3, None, ["A"], {"A": 1}),
    ],
    ids=str,
)
def test_a_config_that_is_none_is_one_sentence(tmp_path: Path, config: Any) -> None:
    trainer = noisy_trainer(noisy_options(tmp_path))
    with pytest.raises(WeightsError, match=r"^a\.pth: the config in it cannot be read"):
        refuse_another_run(config, trainer.cfg, trainer.model, "a.pth")
