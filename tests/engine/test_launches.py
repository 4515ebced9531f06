"""What whole iterations launch on the path of a GPU, counted without one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from metabin_plugin.norm import set_norm_form, triton_form
from tests.engine.starting import started
from tests.engine.tiny_data import tiny_config
from tests.norm.emulated_kernels import EmulatedKernels
from tests.norm.operators import Operators

NETWORKS = {
    "mobilenetv2": ("build_mobilenetv2_backbone", "1.0x-paper", "1280"),
    "resnet50": ("build_resnet_backbone", "50x", "2048"),
}
BASELINE = (
    "MODEL.META_ARCHITECTURE",
    "Baseline",
    "MODEL.BACKBONE.NORM",
    "BN",
    "METABIN.HOOKS",
    "()",
)


class Counts(NamedTuple):
    """Of an iteration: operators that are dispatched, and the kernels of BIN in their place."""

    operators: int
    launches: int


def counted(tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> Counts:
    """Counts of the second iteration, with the hooks that train."""
    name, depth, dimension = NETWORKS[network]
    trainer = started(
        tiny_config(
            tmp_path,
            *("MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.DEPTH", depth),
            *("MODEL.BACKBONE.FEAT_DIM", dimension, *options),
        )
    )
    set_norm_form(trainer.model, "triton")
    kernels = EmulatedKernels()
    monkeypatch.setattr(triton_form, "_kernels", lambda: kernels)
    with trainer.storage:
        for trainer.iter in range(2):
            kernels.launched.clear()
            with Operators() as operators:
                trainer.run_step()
                for hook in trainer._named_hooks.values():
                    hook.after_step()
    own = sum("metabin" in operator for operator in operators.called)
    return Counts(len(operators.called), len(operators.called) - own + len(kernels.launched))


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", ["mobilenetv2", pytest.param("resnet50", marks=pytest.mark.exhaustive)]
)
def test_an_iteration_is_hardly_more_than_its_three_passes(
    tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = counted(tmp_path, network, monkeypatch, *BASELINE)
    meta = counted(tmp_path, network, monkeypatch)
    # Three passes in place of one, and the losses. An operator of batch normalization is one or
    # two launches, one of BIN is three.
    assert meta.operators / plain.operators <= 2.31, (meta, plain)
    assert meta.launches / plain.launches <= 3.2, (meta, plain)
