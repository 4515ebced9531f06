from __future__ import annotations

import pytest
from fastreid.evaluation.evaluator import inference_context
from torch import nn


def model_with_a_frozen_layer() -> nn.Sequential:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(1))
    model[1].eval()
    return model


def test_frozen_layers_stay_frozen():
    model = model_with_a_frozen_layer()
    with inference_context(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False]


def test_a_failing_evaluation_leaves_the_mode():
    model = model_with_a_frozen_layer()
    with pytest.raises(KeyError), inference_context(model):
        raise KeyError
    assert [module.training for module in model.modules()] == [True, True, False]
