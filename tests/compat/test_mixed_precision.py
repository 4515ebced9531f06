from __future__ import annotations

import warnings

import pytest
import torch
from fastreid.engine.train_loop import AMPTrainer
from fastreid.utils.events import EventStorage

from metabin_plugin.compat.training import autocast_dtype, build_grad_scaler, use_dtype


class Model(torch.nn.Module):
    """One weight; remembers the type that its product was computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1, bias=False)

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        out = self.layer(batch)
        self.dtype = out.dtype
        return {"loss": out.float().sum()}


def trainer_of(model: Model) -> AMPTrainer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = AMPTrainer(model, [torch.ones(1, 2)], optimizer, param_wrapper=None)
    trainer.iter = 0
    return trainer


def test_amp_trains_on_cpu_in_bfloat16_without_deprecated_calls():
    model = Model()
    before = model.layer.weight.detach().clone()
    with warnings.catch_warnings(), EventStorage():
        warnings.simplefilter("error")
        trainer = trainer_of(model)
        trainer.run_step()
    assert model.dtype is torch.bfloat16
    torch.testing.assert_close(model.layer.weight.detach(), before - 0.5)


def test_the_scaler_answers_the_schedulers_question():
    with EventStorage():
        trainer = trainer_of(Model())
        scale = trainer.grad_scaler.get_scale()
        trainer.run_step()
    assert trainer.grad_scaler.get_scale() == scale == 1.0


def test_a_given_scaler_is_kept():
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = model.layer.weight.detach().clone()
    trainer = AMPTrainer(model, [torch.ones(1, 2)], optimizer, None, scaler)
    with EventStorage():
        trainer.run_step()
    assert trainer.grad_scaler is scaler
    torch.testing.assert_close(model.layer.weight.detach(), before - 0.5)


def test_a_model_in_eval_mode_is_refused():
    model = Model()
    trainer = trainer_of(model)
    model.eval()
    with pytest.raises(RuntimeError, match="eval mode"):
        trainer.run_step()


@pytest.mark.parametrize(
    ("device", "name", "dtype"),
    [
        ("cuda", "auto", torch.float16),
        ("cpu", "auto", torch.bfloat16),
        ("cuda", "float16", torch.float16),
        ("cuda", "bfloat16", torch.bfloat16),
        ("cpu", "bfloat16", torch.bfloat16),
    ],
)
def test_the_type_of_a_device(device, name, dtype):
    assert autocast_dtype(torch.device(device), name) is dtype


@pytest.mark.parametrize(("name", "scales"), [("float16", True), ("bfloat16", False)])
def test_only_float16_is_scaled(name, scales):
    assert build_grad_scaler(torch.device("cpu"), name).is_enabled() == scales
    trainer = trainer_of(Model())
    use_dtype(trainer, name)
    assert trainer.grad_scaler.is_enabled() == scales
    with EventStorage():
        trainer.run_step()
    assert trainer.model.dtype is getattr(torch, name)
