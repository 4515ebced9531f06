"""Training on real image files: who updates what, and what the config refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode
from fastreid.data.common import CommDataset
from fastreid.data.transforms import build_transforms
from fastreid.engine import DefaultTrainer
from fastreid.engine.train_loop import HookBase
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from torch import Tensor, nn

from metabin_plugin.config.keys import LARGEST_SEED
from metabin_plugin.data import DomainDataset, build_dataset, build_reid_train_loader
from metabin_plugin.data.build import strong_view
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.engine.trainer import steps_from_start
from metabin_plugin.errors import ConfigError, DatasetError
from metabin_plugin.norm import gate_parameters
from metabin_plugin.registries import HOOK_REGISTRY, SAMPLER_REGISTRY
from tests.distributed import small_backbone
from tests.engine.starting import started
from tests.engine.tiny_data import HALF_PRECISION, tiny_config


def snapshot(trainer: MetaBINTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def changed(trainer: MetaBINTrainer, before: dict[str, torch.Tensor]) -> set[str]:
    state = trainer.model.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, state[name])}


def test_fastreids_trainer_is_the_plugins() -> None:
    assert DefaultTrainer is MetaBINTrainer


def test_base_step_leaves_gates_and_meta_step_everything_else(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path))
    gates = set(trainer.model.gates)
    hook = trainer.hook("MetaLearningHook")
    with trainer.storage:
        hook.after_step()  # Gates away from 1, where the instance half gets no gradient.
        before = snapshot(trainer)
        trainer.run_step()
        moved = changed(trainer, before)
        assert not moved & gates
        trained = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
        assert trained <= moved
        assert "backbone.bn1.running_mean" in moved

        before = snapshot(trainer)
        momenta = copy.deepcopy(trainer.optimizer.state_dict()["state"])
        gradients = [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]
        trainer.iter = 1
        hook.after_step()
    moved = changed(trainer, before)
    assert moved
    assert moved <= gates
    after = trainer.optimizer.state_dict()["state"]
    for key, state in momenta.items():
        assert torch.equal(state["momentum_buffer"], after[key]["momentum_buffer"])
    now = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert len(now) == len(gradients)
    assert all(torch.equal(a, b) for a, b in zip(gradients, now, strict=True))


def test_gates_stay_in_range_and_the_losses_are_logged(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, "METABIN.OUTER_LR", "1e4"))
    with trainer.storage:
        trainer.run_step()
        trainer.hook("MetaLearningHook").after_step()
    gates = torch.cat(list(trainer.model.gates.values()))
    assert gates.min() == 0
    assert gates.max() == 1
    names = set(trainer.storage.histories())
    assert {
        "mtrain_loss_scatter",
        "mtrain_loss_shuffle",
        "mtrain_loss_triplet",
        "mtest_loss_triplet",
        "inner_lr",
    } <= names


def test_a_whole_run_evaluates_checkpoints_and_resumes(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path)
    results = MetaBINTrainer(cfg).train()
    assert 0 <= results["mAP"] <= 100
    saved = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert saved["MetaLearningHook"]["seed"] == 3

    longer = tiny_config(tmp_path, "SOLVER.MAX_EPOCH", "3")
    trainer = MetaBINTrainer(longer)
    trainer.resume_or_load(resume=True)
    assert trainer.start_epoch == 2
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, saved["model"][name]), name
    trainer.train()


def test_iteration_time_includes_the_meta_step(tmp_path: Path) -> None:
    names = [type(hook).__name__ for hook in MetaBINTrainer(tiny_config(tmp_path))._hooks]
    assert names.index("MetaLearningHook") < names.index("IterationTimer")


def test_a_meta_batch_of_another_size_has_its_own_loader(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, "METABIN.IMS_PER_BATCH", "6"))
    assert len(next(trainer.hook("MetaLearningHook").batches)["images"]) == 6
    assert len(next(trainer._trainer._data_loader_iter)["images"]) == 12


@pytest.mark.parametrize("sampler", ["DomainBalancedSampler", "GraphSampler"])
@pytest.mark.parametrize("seed", [0, LARGEST_SEED])
def test_batches_of_any_seed_go_on(tmp_path: Path, seed: int, sampler: str) -> None:
    options = ["METABIN.SEED", str(seed), "DATALOADER.SAMPLER_TRAIN", sampler]
    options += ["METABIN.IMS_PER_BATCH", "6", *small_backbone.OPTIONS]
    first, second = (started(tiny_config(tmp_path, *options)) for _ in range(2))
    hooks = [trainer.hook("MetaLearningHook") for trainer in (first, second)]
    for batches in (hooks[0].batches, first.base_batches):
        next(batches)
    hooks[1].load_state_dict(hooks[0].state_dict())
    second.base_batches.load_state_dict(first.base_batches.state_dict())
    for goes_on, resumed in (
        (hooks[0].batches, hooks[1].batches),
        (first.base_batches, second.base_batches),
    ):
        assert next(goes_on)["img_paths"] == next(resumed)["img_paths"]


def test_the_reference_draws_base_batches_over_the_union(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, base="MetaBIN-reference.yml"))
    meta = next(trainer.hook("MetaLearningHook").batches)["domains"]
    assert torch.bincount(meta).tolist() == [4, 4, 4]
    assert trainer.cfg.METABIN.FIRST_BASE_UPDATES == 10


def test_first_base_updates(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, "METABIN.FIRST_BASE_UPDATES", "3"))
    steps: list[int] = []
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(trainer.iter))
    with trainer.storage:
        trainer.run_step()
        trainer.iter = 1
        trainer.run_step()
    assert steps == [0, 0, 0, 1]


def test_layers_are_frozen_for_iterations_however_many_updates_the_first_has(
    tmp_path: Path,
) -> None:
    options = ["SOLVER.FREEZE_ITERS", "2", "MODEL.FREEZE_LAYERS", '["backbone"]']
    first = ["METABIN.FIRST_BASE_UPDATES", "3"]
    trainer = started(tiny_config(tmp_path, *small_backbone.OPTIONS, *options, *first))
    weight = trainer.model.backbone[0].weight
    start = weight.detach().clone()
    moved = []
    with trainer.storage:
        for trainer.iter in range(3):
            trainer.run_step()
            moved.append(not torch.equal(weight, start))
    assert moved == [False, False, True]


def test_cross_entropy_and_second_order_meta_losses_train(tmp_path: Path) -> None:
    losses = '("CrossEntropyLoss", "TripletLoss")'
    options = ["METABIN.META_TRAIN_LOSSES", losses, "METABIN.META_TEST_LOSSES", losses]
    trainer = started(tiny_config(tmp_path, *options, "METABIN.SECOND_ORDER", "True"))
    before = snapshot(trainer)
    with trainer.storage:
        trainer.hook("MetaLearningHook").after_step()
    assert changed(trainer, before) <= set(trainer.model.gates)
    assert trainer.storage.histories()["mtest_loss_cls"].latest() > 0


def test_cameras_can_be_domains(tmp_path: Path) -> None:
    cfg = tiny_config(
        tmp_path, "METABIN.DOMAIN", "camera", "METABIN.NUM_META_TRAIN", "1", domains=1
    )
    trainer = started(cfg)
    assert trainer.data_loader.dataset.num_domains == 2
    with trainer.storage:
        trainer.run_step()
        trainer.hook("MetaLearningHook").after_step()


def test_jointly_trained_gates_are_clipped_after_each_step(tmp_path: Path) -> None:
    trainer = started(
        tiny_config(
            tmp_path,
            *("MODEL.META_ARCHITECTURE", "Baseline", "METABIN.HOOKS", "()"),
            *("SOLVER.BASE_LR", "100.", "METABIN.FIRST_BASE_UPDATES", "2"),
        )
    )
    gates = list(gate_parameters(trainer.model).values())
    seen: list[torch.Tensor] = []

    def look(*_: object) -> None:
        seen.append(torch.cat([gate.detach() for gate in gates]))

    trainer.optimizer.register_step_post_hook(look)
    with torch.no_grad():
        gates[0].fill_(1.5)
    with trainer.storage:
        trainer.run_step()
    assert len(seen) == 2
    assert all(0 <= values.min() < values.max() <= 1 for values in seen)


def test_mixed_precision_on_cpu_moves_gates(tmp_path: Path) -> None:
    trainer = started(tiny_config(tmp_path, *HALF_PRECISION))
    # Every triplet pulls.
    trainer.model.loss_kwargs["tri"]["margin"] = 100.0
    before = snapshot(trainer)
    with trainer.storage:
        trainer.run_step()
        trainer.hook("MetaLearningHook").after_step()
    assert "backbone.bn1.gate" in changed(trainer, before)
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


def gates_after_one_step(folder: Path, scaler: torch.amp.GradScaler | None) -> torch.Tensor:
    trainer = started(tiny_config(folder))
    hook = trainer.hook("MetaLearningHook")
    if scaler is not None:
        hook.grad_scaler = scaler
    with trainer.storage:
        hook.after_step()
    return torch.cat(list(trainer.model.gates.values())).detach()


def test_the_loss_scale_cancels_and_an_overflow_skips_the_outer_step(tmp_path: Path) -> None:
    plain = gates_after_one_step(tmp_path, None)
    scaled = gates_after_one_step(tmp_path, torch.amp.GradScaler("cpu", init_scale=2.0**10))
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-6)
    assert (plain < 1).any()

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    overflown = gates_after_one_step(tmp_path, scaler)
    assert (overflown == 1).all()
    assert scaler.get_scale() == 2.0**126


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    def weights() -> dict[str, torch.Tensor]:
        trainer = started(tiny_config(tmp_path))
        with trainer.storage:
            for trainer.iter in range(2):
                trainer.run_step()
                trainer.hook("MetaLearningHook").after_step()
        return snapshot(trainer)

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


class CountingHook(HookBase):
    """A third party's hook."""

    def __init__(self, cfg: CfgNode, trainer: MetaBINTrainer) -> None:
        self.steps = 0

    def after_step(self) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


def test_a_third_partys_hook_runs_and_is_checkpointed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HOOK_REGISTRY._obj_map, "CountingHook", CountingHook)
    cfg = tiny_config(tmp_path, "METABIN.HOOKS", '("CountingHook",)')
    MetaBINTrainer(cfg).train()
    saved = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert saved["CountingHook"] == {"steps": 4}


def test_an_entry_that_makes_no_hook_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HOOK_REGISTRY._obj_map, "NoHook", lambda _cfg, _trainer: object())
    with pytest.raises(ConfigError, match=r"HOOKS has 'NoHook', whose entry gave a object; derive"):
        MetaBINTrainer(tiny_config(tmp_path, "METABIN.HOOKS", '("NoHook",)'))


@pytest.mark.parametrize(
    "options",
    [
        ["MODEL.HEADS.NUM_CLASSES", "13"],
        [
            "MODEL.FREEZE_LAYERS",
            "['backbone.layer[12]','heads.bottleneck']",
            "SOLVER.FREEZE_ITERS",
            "1",
        ],
        # Nothing is frozen.
        ["MODEL.FREEZE_LAYERS", "['bakbone']"],
    ],
)
def test_values_that_can_work_are_not_refused(tmp_path: Path, options: list[str]) -> None:
    trainer = started(tiny_config(tmp_path, *options))
    with trainer.storage:
        trainer.run_step()


@pytest.mark.parametrize(
    ("dataset", "fault"),
    [
        ("source9.csv", r"Manifest source9\.csv is neither"),
        ("Nowhere", "TEST.PRECISE_BN.DATASET lists 'Nowhere'"),
        ("Market1501", "TEST.PRECISE_BN.DATASET lists 'Market1501'"),
        ("target.csv", r"TEST.PRECISE_BN.DATASET lists .*target\.csv', which has no train images"),
    ],
)
def test_data_of_precise_statistics_are_asked_for_by_their_key(
    tmp_path: Path, dataset: str, fault: str
) -> None:
    cfg = tiny_config(tmp_path, "TEST.PRECISE_BN.ENABLED", "True")
    name = str(tmp_path / dataset) if dataset == "target.csv" else dataset
    cfg.TEST.PRECISE_BN.DATASET = name
    with pytest.raises(DatasetError, match=fault) as caught:
        MetaBINTrainer(cfg)
    assert "DATASETS.NAMES" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["METABIN.NUM_META_TRAIN", "3"], r"METABIN\.NUM_META_TRAIN is 3 of 3 domains"),
        (["SOLVER.IMS_PER_BATCH", "13"], r"SOLVER\.IMS_PER_BATCH"),
        (["MODEL.BACKBONE.NORM", "BN"], r"MODEL\.BACKBONE\.NORM \"BIN\""),
        (["METABIN.INNER_LR.LOW", "0.5"], r"METABIN\.INNER_LR\.HIGH is 0\.1, below LOW"),
        (["METABIN.INNER_LR.PERIOD", "0."], r"PERIOD is 0\.0 epochs of 2 iterations, .* at LOW;"),
        (["METABIN.INNER_LR.PERIOD", "0.5"], r"PERIOD is 0\.5 epochs of 2 iterations, .* at LOW;"),
        (["MODEL.META_ARCHITECTURE", "Baseline"], r"needs MODEL\.META_ARCHITECTURE MetaBIN"),
        (["MODEL.HEADS.NUM_CLASSES", "11"], r"NUM_CLASSES is 11, but .* show 12 identities"),
        (
            ["MODEL.FREEZE_LAYERS", "['backbone','bakbone']", "SOLVER.FREEZE_ITERS", "1"],
            r"FREEZE_LAYERS has 'bakbone', .* backbone for example",
        ),
        (["MODEL.FREEZE_LAYERS", "['heads(']", "SOLVER.FREEZE_ITERS", "1"], r"has 'heads\('"),
        # The meta step moves gates, whatever the optimizer leaves as it is.
        (
            ["MODEL.FREEZE_LAYERS", "['backbone.bn1.gate']", "SOLVER.FREEZE_ITERS", "1"],
            r"FREEZE_LAYERS has 'backbone\.bn1\.gate', .* no parameter of the base step",
        ),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, options: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        MetaBINTrainer(tiny_config(tmp_path, *options))


class TrainerWithOwnData(MetaBINTrainer):
    """A third party's trainer, with fastreid's data set in place of the plugin's."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        items = [item for name in cfg.DATASETS.NAMES for item in build_dataset(name).train]
        return build_reid_train_loader(cfg, train_set=cls.images(cfg, items))

    @classmethod
    def images(cls, cfg: CfgNode, items: list[Any]) -> CommDataset:
        return CommDataset(items, build_transforms(cfg))


class TrainerWithOneView(TrainerWithOwnData):
    """The same, with domains."""

    @classmethod
    def images(cls, cfg: CfgNode, items: list[Any]) -> CommDataset:
        domains = [number * 3 // len(items) for number in range(len(items))]
        return DomainDataset(items, domains, ["a", "b", "c"], build_transforms(cfg))


class TrainerWithCountAlone(TrainerWithOwnData):
    """Data that say how many domains there are, and not which image is of which."""

    @classmethod
    def images(cls, cfg: CfgNode, items: list[Any]) -> CommDataset:
        dataset = super().images(cfg, items)
        dataset.num_domains = 3
        return dataset


@pytest.mark.parametrize(
    ("trainer", "options", "sentence"),
    [
        (TrainerWithCountAlone, {}, r"SAMPLER_TRAIN is 'DomainBalancedSampler', but a CommDataset"),
        (
            TrainerWithCountAlone,
            {
                "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
                "METABIN.HOOKS": "()",
                "METABIN.BASE_LOSSES": '("Alignment",)',
            },
            r"METABIN\.BASE_LOSSES is \('Alignment',\), but a CommDataset has no domain labels",
        ),
        (TrainerWithOwnData, {}, r"SAMPLER_TRAIN is 'DomainBalancedSampler', but a CommDataset"),
        (
            TrainerWithOwnData,
            {"DATALOADER.SAMPLER_TRAIN": "TrainingSampler"},
            r"METABIN\.HOOKS is \('MetaLearningHook',\), but a CommDataset has no domain labels",
        ),
        (
            TrainerWithOwnData,
            {
                "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
                "METABIN.HOOKS": "()",
                "METABIN.BASE_LOSSES": '("InterleavedMemory",)',
            },
            r"METABIN\.BASE_LOSSES is \('InterleavedMemory',\), but a CommDataset has no domain",
        ),
        (
            TrainerWithOneView,
            {"METABIN.BASE_LOSSES": '("Alignment",)'},
            r"Alignment, which needs a second view .* DomainDataset of the loader has no strong",
        ),
    ],
)
def test_data_of_ones_own_that_lack_what_a_key_needs_are_refused(
    tmp_path: Path, trainer: type[MetaBINTrainer], options: dict[str, str], sentence: str
) -> None:
    cfg = tiny_config(tmp_path, *(part for pair in options.items() for part in pair))
    with pytest.raises(DatasetError, match=sentence):
        trainer(cfg)


def test_data_of_ones_own_with_all_that_is_needed_train(tmp_path: Path) -> None:
    class Trainer(TrainerWithOneView):
        @classmethod
        def images(cls, cfg: CfgNode, items: list[Any]) -> CommDataset:
            dataset = super().images(cfg, items)
            dataset.strong_transform = strong_view(cfg)
            return dataset

    cfg = tiny_config(tmp_path, *small_backbone.OPTIONS, "METABIN.BASE_LOSSES", '("Alignment",)')
    trainer = Trainer(cfg)
    trainer.train()
    assert "loss_alignment" in trainer.storage.histories()


@REID_HEADS_REGISTRY.register()
class HeadWithAnotherPool(nn.Module):
    """A head of one's own: what pools in it has another name than in fastreid's."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(cfg.MODEL.BACKBONE.FEAT_DIM, cfg.MODEL.HEADS.NUM_CLASSES)

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Any:
        pooled = self.pool(features).flatten(1)
        if not self.training:
            return pooled
        logits = self.classifier(pooled)
        return {"cls_outputs": logits, "pred_class_logits": logits, "features": pooled}


def test_a_head_that_the_meta_step_cannot_use_is_refused(tmp_path: Path) -> None:
    options = (*small_backbone.OPTIONS, "MODEL.HEADS.NAME", "HeadWithAnotherPool")
    with pytest.raises(ConfigError, match=r"HeadWithAnotherPool has no pool_layer, .* that name$"):
        MetaBINTrainer(tiny_config(tmp_path, *options))
    # The base step can.
    MetaBINTrainer(tiny_config(tmp_path, *options, "METABIN.HOOKS", "()")).train()


def test_a_sampler_that_ends_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(_cfg: CfgNode, dataset: DomainDataset) -> range:
        return range(len(dataset))

    monkeypatch.setitem(SAMPLER_REGISTRY._obj_map, "Once", once)
    options = (*small_backbone.OPTIONS, "METABIN.HOOKS", "()", "DATALOADER.SAMPLER_TRAIN", "Once")
    # 48 images make 4 batches of 12.
    trainer = MetaBINTrainer(tiny_config(tmp_path, *options, "METABIN.ITERS_PER_EPOCH", "3"))
    with pytest.raises(ConfigError, match=r"SAMPLER_TRAIN Once has no further images at iter.* 4;"):
        trainer.train()


@pytest.mark.parametrize(("period", "high"), [("1.", "0.1"), ("0.", "0.001")])
def test_the_inner_step_size_reaches_both_of_its_ends(
    tmp_path: Path, period: str, high: str
) -> None:
    options = ["METABIN.INNER_LR.PERIOD", period, "METABIN.INNER_LR.HIGH", high]
    trainer = started(tiny_config(tmp_path, *small_backbone.OPTIONS, *options))
    episodes = trainer.hook("MetaLearningHook").episodes
    assert {episodes.inner_lr(number) for number in range(6)} == {0.001, float(high)}


@pytest.mark.parametrize(
    ("domain", "advice"),
    [
        ("dataset", 'or set METABIN.DOMAIN "camera" for a single source'),
        ("camera", "another camera"),
    ],
)
def test_one_domain_is_refused(tmp_path: Path, domain: str, advice: str) -> None:
    options = ["SOLVER.IMS_PER_BATCH", "4", "METABIN.DOMAIN", domain]
    cfg = tiny_config(tmp_path, *options, domains=1)
    manifest = tmp_path / "source0.csv"
    lines = [line.split(",") for line in manifest.read_text().splitlines()]
    one_camera = [
        ",".join((path, person, "camid" if i == 0 else "0", part))
        for i, (path, person, _, part) in enumerate(lines)
    ]
    manifest.write_text("\n".join(one_camera) + "\n")
    with pytest.raises(ConfigError, match=r"1 domain\(s\)") as caught:
        MetaBINTrainer(cfg)
    assert str(caught.value).endswith(advice)


def test_a_missing_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE is 'cuda'.*MODEL\.DEVICE cpu"):
        MetaBINTrainer(tiny_config(tmp_path, "MODEL.DEVICE", "cuda"))


def test_an_epoch_without_iterations_is_refused(tmp_path: Path) -> None:
    options = ["METABIN.ITERS_PER_EPOCH", "0", "DATALOADER.SAMPLER_TRAIN", "TrainingSampler"]
    with pytest.raises(ConfigError, match=r"SOLVER\.IMS_PER_BATCH is larger"):
        MetaBINTrainer(
            tiny_config(tmp_path, *options, "METABIN.HOOKS", "()", "SOLVER.IMS_PER_BATCH", "60")
        )


def rates_of(trainer: MetaBINTrainer, epochs: int) -> list[float]:
    """The step size of each of two iterations an epoch, by fastreid's own hook."""
    hook = next(h for h in trainer._hooks if type(h).__name__ == "LRScheduler")
    rates = []
    with trainer.storage:
        for trainer.epoch in range(epochs):
            for _ in range(2):
                rates.append(trainer.optimizer.param_groups[0]["lr"])
                hook.after_step()
                trainer.iter += 1
            hook.after_epoch()
    return rates


def test_learning_rate_decays_at_the_papers_epochs(tmp_path: Path) -> None:
    """Warm-up 10, x0.1 at 40 and 70 epochs (Section 4.1), by fastreid's own hook."""
    options = ["SOLVER.WARMUP_ITERS", "20", "SOLVER.MAX_EPOCH", "100"]
    trainer = started(tiny_config(tmp_path, *options))
    rates = rates_of(trainer, 100)
    by_epoch = rates[::2]
    assert by_epoch[0] == pytest.approx(0.001)
    assert by_epoch[5] == pytest.approx(0.0055)
    assert by_epoch[10:40] == pytest.approx([0.01] * 30)
    assert by_epoch[40:70] == pytest.approx([0.001] * 30)
    assert by_epoch[70:] == pytest.approx([0.0001] * 30)


@pytest.mark.parametrize("delay", [0, 2, 5])
@pytest.mark.parametrize("warmup", [0, 3, 8])
def test_steps_count_from_the_start_whatever_comes_before_them(
    tmp_path: Path, warmup: int, delay: int
) -> None:
    """fastreid's epoch scheduler waits for the longer of the warm-up and ``DELAY_EPOCHS``."""
    options = {
        "SOLVER.WARMUP_ITERS": warmup,
        "SOLVER.DELAY_EPOCHS": delay,
        "SOLVER.STEPS": [7, 9],
        "SOLVER.MAX_EPOCH": 11,
    }
    words = [str(word) for pair in options.items() for word in pair]
    trainer = started(tiny_config(tmp_path, *small_backbone.OPTIONS, *words))
    rates = rates_of(trainer, 11)
    expected = [0.01 * 0.1 ** sum(epoch >= step for step in (7, 9)) for epoch in range(11)]
    assert rates[warmup:] == pytest.approx([rate for rate in expected for _ in range(2)][warmup:])


def test_steps_stay_where_they_are_without_a_warm_up(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, "SOLVER.WARMUP_ITERS", "0")
    assert list(steps_from_start(cfg, 2).SOLVER.STEPS) == [40, 70]
    assert list(cfg.SOLVER.STEPS) == [40, 70]
