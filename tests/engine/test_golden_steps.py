"""Three whole iterations against the reference, through the real model, trainer and hook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.config import get_cfg
from fastreid.utils.events import EventStorage
from torch import nn

from metabin_plugin.engine import MetaBINTrainer, meta_learning
from metabin_plugin.meta import held_call
from metabin_plugin.modeling import meta_arch
from tests.engine import golden_recipe as recipe

CONFIG = Path(__file__).parents[2] / "configs" / "MetaBIN-reference.yml"
FILES = ("step_mobilenet", "step_resnet18", "step_resnet18_biginner", "step_resnet18_officialloop")
LOSS_NAMES = {
    "loss_stc": "ScatterLoss",
    "loss_triplet_add": "ShuffleLoss",
    "loss_triplet_mtrain": "TripletLoss",
    "loss_triplet_mtest": "TripletLoss",
}


class GoldenLoader:
    """Stands in for the images on disk only: base and meta batches in the recipe's order."""

    def __init__(self, description: dict[str, Any], device: str) -> None:
        self.device = device
        self.spec = description["spec"]
        base, meta = description["base_seeds"], description["meta_seeds"]
        first = len(base) - len(meta) + 1
        self.seeds = list(base[:first])
        for later_base, seed in zip([*base[first:], None], meta, strict=True):
            self.seeds.append(seed)
            if later_base is not None:
                self.seeds.append(later_base)
        self.dataset = self
        self.num_classes, self.num_domains = self.spec["nc"], self.spec["D"]

    def __len__(self) -> int:
        return 1000

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for seed in self.seeds:
            batch = recipe.draw_batch(seed, self.spec)
            yield {name: value.to(self.device) for name, value in batch.items()}


class Recorder:
    """Keeps what the real functions returned during one iteration."""

    def __init__(self, trainer: MetaBINTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trainer = trainer
        self.steps: list[Any] = []
        self.base: list[dict[str, Any]] = []
        self.gradients: list[np.ndarray] = []
        self.feature_maps: list[torch.Tensor] = []
        self.names: list[str] = []
        real_step = meta_learning.meta_step

        def step(*args: Any, **kwargs: Any) -> Any:
            self.steps.append(real_step(*args, **kwargs))
            return self.steps[-1]

        def held(module: nn.Module, *inputs: Any, **kwargs: Any) -> Any:
            if module is trainer.model.heads.pool_layer:
                self.feature_maps.append(inputs[0].detach())
            return held_call(module, *inputs, **kwargs)

        monkeypatch.setattr(meta_learning, "meta_step", step)
        monkeypatch.setattr(meta_arch, "held_call", held)
        trainer.model.heads.register_forward_hook(lambda m, i, output: self.base.append(output))
        trainer.optimizer.register_step_pre_hook(lambda *_: self._record_gradients())

    def clear(self) -> None:
        for values in (self.steps, self.base, self.gradients, self.feature_maps):
            values.clear()

    def _record_gradients(self) -> None:
        parameters = dict(self.trainer.model.named_parameters())
        sums = [recipe.checksum(parameters[name].grad) for name in self.names]
        self.gradients.append(np.stack(sums))


def build_trainer(
    description: dict[str, Any],
    form: str,
    device: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> MetaBINTrainer:
    spec = description["spec"]
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.MODEL.DEVICE = device
    # No evaluation of data sets that nobody has to have.
    cfg.TEST.EVAL_PERIOD = 0
    cfg.MODEL.BACKBONE.PRETRAIN = False
    cfg.MODEL.HEADS.NUM_CLASSES = spec["nc"]
    if spec["bb"] == "resnet":
        cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
        cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.FEAT_DIM = "18x", 512
    options = dict(zip(spec["opts"][::2], spec["opts"][1::2], strict=True))
    cfg.METABIN.ITERS_PER_EPOCH = spec["ipe"]
    cfg.METABIN.FIRST_BASE_UPDATES = spec["first"]
    cfg.SOLVER.WARMUP_ITERS = options.get("SOLVER.WARMUP_ITERS", 10 * spec["ipe"])
    # The reference's gate learning rate multiplies its cyclic ratio and is the outer step size.
    gate_lr = description["iterations"][0]["gate_lr"]
    cfg.METABIN.INNER_LR.LOW, cfg.METABIN.INNER_LR.HIGH = 0.001 * gate_lr, 0.1 * gate_lr
    if "META.SOLVER.LR_FACTOR.META" in options:
        ratios = [it["inner_step"] for it in description["iterations"]]
        cfg.METABIN.INNER_LR.LOW, cfg.METABIN.INNER_LR.HIGH = _ends(ratios, 5 * spec["ipe"])
    cfg.METABIN.OUTER_LR = gate_lr
    cfg.METABIN.NORM_FORM = form
    # Both kinds of batches come from one stream here, in the recipe's order.
    cfg.DATALOADER.SAMPLER_TRAIN = "DomainBalancedSampler"
    cfg.SOLVER.AMP.ENABLED = False
    monkeypatch.setattr(
        MetaBINTrainer,
        "build_train_loader",
        classmethod(lambda cls, cfg: GoldenLoader(description, device)),
    )
    monkeypatch.setattr(meta_learning, "split_domains", golden_split(description))
    torch.set_default_dtype(torch.float64)
    try:
        trainer = MetaBINTrainer(cfg)
    finally:
        torch.set_default_dtype(torch.float32)
    return trainer


def _ends(steps: list[float], period: int) -> tuple[float, float]:
    """Low and high end of the triangle on whose rise the first two steps are."""
    slope = (steps[1] - steps[0]) * (period // 2)
    low = steps[0] - slope / (period // 2)
    return low, low + slope


def golden_split(description: dict[str, Any]) -> Any:
    iterations = description["iterations"]
    return lambda domains, count, seed, iteration: (
        iterations[iteration]["mtrain_domains"],
        iterations[iteration]["mtest_domains"],
    )


def set_parameters(trainer: MetaBINTrainer, description: dict[str, Any], rename: Any) -> None:
    own = dict(trainer.model.named_parameters())
    seed = description["spec"]["seed"]
    table = description["param_table"]
    assert sorted(own) == sorted([*(rename(row[1]) for row in table)])
    with torch.no_grad():
        for index, name, role, shape, _ in table:
            own[rename(name)].copy_(recipe.draw_parameter(role, shape, seed + index))


def close(actual: Any, expected: Any, what: str) -> None:
    if isinstance(actual, torch.Tensor):
        actual = actual.cpu()
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    bound = 1e-7 if expected.dtype == np.float32 else 1e-9
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < bound, f"{what}: relative error {error:.1e}"


def close_checksums(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Checksums cancel, so the scale of a row is its sum of magnitudes.

    A bias before a layer that subtracts its mean has a gradient of zero; what rounding leaves of it
    is measured against the largest row.
    """
    magnitudes = expected[..., 1:2]
    scale = np.maximum(magnitudes, 1e-6 * magnitudes.max())
    error = (np.abs(actual - expected) / scale).max()
    assert error < 1e-9, f"{what}: relative error {error:.1e}"


def evaluate(trainer: MetaBINTrainer, images: torch.Tensor) -> np.ndarray:
    trainer.model.eval()
    with torch.no_grad():
        embeddings = trainer.model({"images": images.to(trainer.model.device)})
    trainer.model.train()
    return embeddings.cpu().numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form", "device"),
    [
        *((name, "native", "cpu") for name in FILES),
        ("step_resnet18", "plain", "cpu"),
        pytest.param("step_mobilenet", "plain", "cpu", marks=pytest.mark.exhaustive),
        *(pytest.param(name, "auto", "cuda", marks=pytest.mark.gpu) for name in FILES),
    ],
)
def test_three_iterations_equal_the_reference(
    name: str, form: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description, arrays = recipe.load(name)
    spec = description["spec"]
    rename = recipe.mobilenet_name if spec["bb"] == "mobilenet" else recipe.plugin_name
    trainer = build_trainer(description, form, device, tmp_path, monkeypatch)
    if spec["bb"] == "resnet":
        # fastreid's stem pools with ceil_mode instead of padding.
        trainer.model.backbone.maxpool = nn.MaxPool2d(3, 2, padding=1)
    set_parameters(trainer, description, rename)
    recorder = Recorder(trainer, monkeypatch)
    recorder.names = [rename(n) for n in description["base_grad_names"]]
    tests = recipe.draw_test_images(description["test_seed"], spec)
    np.testing.assert_allclose(recipe.checksum(tests), description["test_checksum"], rtol=1e-12)
    for seed, expected in description["batch_checksum"].items():
        images = recipe.draw_batch(int(seed), spec)["images"]
        np.testing.assert_allclose(recipe.checksum(images), expected, rtol=1e-9)

    gates = trainer.model.gates
    assert list(gates) == [rename(n) for n in description["gate_names"]]
    close(_join(gates), arrays["gate_initial"], "initial gates")
    close(evaluate(trainer, tests), arrays["eval_emb_before"], "embeddings before")

    with EventStorage(0) as trainer.storage:
        trainer.start_iter = 0
        trainer.before_train()
        for iteration, expected in enumerate(description["iterations"]):
            recorder.clear()
            trainer.iter = trainer.epoch = iteration
            trainer.before_step()
            lrs = sorted({group["lr"] for group in trainer.optimizer.param_groups})
            np.testing.assert_allclose(lrs, expected["main_lrs"], rtol=1e-12)
            trainer.run_step()
            trainer.after_step()
            it = f"it{iteration + 1}/"
            golden = {k[len(it) :]: v for k, v in arrays.items() if k.startswith(it)}
            check_base(recorder, trainer, expected, golden, it)
            check_meta(recorder, trainer, expected, golden, it)
            check_state(trainer, description, rename, golden, it)
            close(evaluate(trainer, tests), golden["eval_emb"], it + "embeddings")


def check_base(
    recorder: Recorder, trainer: MetaBINTrainer, expected: dict, golden: dict, it: str
) -> None:
    history = trainer.storage.histories()
    for key in ("loss_cls", "loss_triplet"):
        losses = [entry[key] for entry in expected["losses_base"]]
        values = [value for value, _ in history[key].values()[-len(losses) :]]
        np.testing.assert_allclose(values, losses, rtol=1e-9, err_msg=it + key)
    close_checksums(np.stack(recorder.gradients), golden["base_grad_checksum"], it + "base grad")
    last = recorder.base[len(recorder.gradients) - 1]
    close(last["pred_class_logits"].detach(), golden["base_logits"], it + "base logits")
    norms = last["features"].detach().norm(dim=1)
    close(norms, golden["base_pooled_norm"], it + "base features")


def check_meta(
    recorder: Recorder, trainer: MetaBINTrainer, expected: dict, golden: dict, it: str
) -> None:
    (step,) = recorder.steps
    history = trainer.storage.histories()
    np.testing.assert_allclose(history["inner_lr"].latest(), expected["inner_step"], rtol=1e-12)
    for losses, values in (
        (expected["losses_mtrain"], step.meta_train_losses),
        (expected["losses_mtest"], step.meta_test_losses),
    ):
        assert {LOSS_NAMES[key] for key in losses} == set(values)
        for key, loss in losses.items():
            np.testing.assert_allclose(
                float(values[LOSS_NAMES[key]]), loss, rtol=1e-9, err_msg=it + key
            )
    for values, key in (
        (step.inner_gradients, "mtrain_gate_grad"),
        (step.inner_parameters, "gate_inner"),
        (step.outer_gradients, "meta_gate_grad"),
    ):
        close(_join(values), golden[key], it + key)
        sums = np.stack([recipe.checksum(value) for value in values.values()])
        close_checksums(sums, golden[f"{key}_layer_checksum"], it + key + " by layer")
    for feature_map, side in zip(recorder.feature_maps, ("mtrain", "mtest"), strict=True):
        pooled = feature_map.mean((2, 3))
        close(pooled.norm(dim=1), golden[f"{side}_pooled_norm"], it + side + " features")
        targets = torch.zeros(len(pooled), dtype=torch.long, device=pooled.device)
        logits = held_call(trainer.model.heads, feature_map, targets)["pred_class_logits"]
        close(logits.detach(), golden[f"{side}_logits"], it + side + " logits")


def check_state(
    trainer: MetaBINTrainer, description: dict, rename: Any, golden: dict, it: str
) -> None:
    close(_join(trainer.model.gates), golden["gate_final"], it + "gates")
    state = trainer.model.state_dict()
    sums = [recipe.checksum(state[rename(name)]) for name in description["param_names"]]
    close_checksums(np.stack(sums), golden["param_checksum"], it + "parameters")
    sums = [recipe.checksum(state[rename(name)]) for name in description["running_names"]]
    close_checksums(np.stack(sums), golden["running_checksum"], it + "running statistics")


def _join(values: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([value.detach() for value in values.values()]).cpu().numpy()
