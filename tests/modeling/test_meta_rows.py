"""The losses of the meta step are the paper's, whatever those of the base step are."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from metabin_plugin.engine import MetaBINTrainer
from tests.distributed import small_backbone
from tests.engine.tiny_data import tiny_config
from tests.losses import oracle

LOSSES = ("ScatterLoss", "ShuffleLoss", "TripletLoss", "CrossEntropyLoss")


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["MODEL.LOSSES.TRI.NORM_FEAT", "True"],
        ["MODEL.LOSSES.TRI.HARD_MINING", "False"],
        ["MODEL.LOSSES.TRI.SCALE", "3.", "MODEL.LOSSES.CE.SCALE", "3."],
        ["MODEL.HEADS.NECK_FEAT", "after"],
        ["MODEL.LOSSES.NAME", '("CrossEntropyLoss",)'],
        ["METABIN.BASE_LOSSES", '("Alignment", "Uniformity", "DomainUniformity")'],
        ["MODEL.LOSSES.TRI.MARGIN", "0.7", "MODEL.LOSSES.CE.EPSILON", "0.25"],
    ],
    ids=" ".join,
)
def test_they_are_of_raw_pooled_features(tmp_path: Path, options: list[str]) -> None:
    trainer = MetaBINTrainer(tiny_config(tmp_path, *small_backbone.OPTIONS, *options))
    network = copy.deepcopy(trainer.network).double()
    losses = network.loss_kwargs
    batch = next(trainer.base_batches)
    identities, domains = batch["targets"], batch["domains"]
    images = network.preprocess_image({"images": batch["images"].double()})
    gates = {name: gate.detach() * 0.4 for name, gate in network.gates.items()}
    found = network.meta_losses(
        LOSSES, {"images": images, "targets": identities, "domains": domains}, gates
    )

    other = copy.deepcopy(network)
    with torch.no_grad():
        for name, gate in other.gates.items():
            gate.copy_(gates[name])
        features = other.backbone(images).mean(dim=(2, 3))
        neck = functional.batch_norm(features, None, None, training=True)
        logits = neck @ other.heads.weight.T
    shares = torch.full_like(logits, losses["ce"]["eps"] / (logits.shape[1] - 1))
    shares[torch.arange(len(logits)), identities] = 1 - losses["ce"]["eps"]
    cosines = [c for own in oracle.scatter_cosines(features, domains).values() for c in own]
    expected = {
        "ScatterLoss": torch.stack(cosines).mean(),
        "ShuffleLoss": oracle.shuffle(features, identities, domains),
        "TripletLoss": oracle.triplet(features, identities, losses["tri"]["margin"]),
        "CrossEntropyLoss": -(shares * logits.log_softmax(1)).sum(1).mean(),
    }
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=1e-9, atol=1e-9, msg=name)
