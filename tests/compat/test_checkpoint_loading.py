from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from fastreid.utils.checkpoint import Checkpointer

from metabin_plugin.errors import WeightsError


class RunsCode:
    def __reduce__(self):
        return os.getpid, ()


def test_numpy_values_load(tmp_path):
    model = torch.nn.Linear(2, 1)
    weights = {"weight": np.array([[1.0, 2.0]], dtype=np.float32), "bias": torch.ones(1)}
    path = tmp_path / "old.pth"
    torch.save({"model": weights, "metric": np.float64(0.5), "epoch": np.int64(3)}, path)
    rest = Checkpointer(model).load(str(path))
    assert rest == {"metric": 0.5, "epoch": 3}
    assert model.weight.tolist() == [[1.0, 2.0]]


def test_other_objects_stay_refused_in_one_sentence(tmp_path):
    path = tmp_path / "odd.pth"
    torch.save({"model": {}, "extra": RunsCode()}, path)
    with pytest.raises(WeightsError, match=r"odd\.pth holds Python objects"):
        Checkpointer(torch.nn.Linear(2, 1)).load(str(path))
