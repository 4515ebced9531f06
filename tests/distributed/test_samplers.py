"""Training loaders of two ranks: every image of a global batch is on one rank only."""

from __future__ import annotations

import pytest
from fastreid.config import CfgNode

from metabin_plugin.engine import MetaBINTrainer
from tests.distributed.processes import run_ranks
from tests.engine.tiny_data import tiny_config

SAMPLERS = (
    "TrainingSampler",
    "NaiveIdentitySampler",
    "BalancedIdentitySampler",
    "DomainBalancedSampler",
    "GraphSampler",
)
# One pass over the 48 images.
BATCHES, IMAGES_PER_BATCH = 4, 12


def batches(rank: int, cfg: CfgNode) -> dict[str, list[tuple[list[str], list[int]]]]:
    """Paths and identities of the first batches, by sampler."""
    drawn = {}
    for sampler in SAMPLERS:
        cfg.DATALOADER.SAMPLER_TRAIN = sampler
        stream = iter(MetaBINTrainer.build_train_loader(cfg))
        wanted = [next(stream) for _ in range(BATCHES)]
        drawn[sampler] = [(batch["img_paths"], batch["targets"].tolist()) for batch in wanted]
    return drawn


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder = tmp_path_factory.mktemp("samplers")
    cfg = tiny_config(folder, "SOLVER.IMS_PER_BATCH", str(IMAGES_PER_BATCH))
    return run_ranks(folder / "run", 2, batches, cfg)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ranks_draw_disjoint_images(ranks: list, sampler: str) -> None:
    for (first, ids), (second, other_ids) in zip(ranks[0][sampler], ranks[1][sampler], strict=True):
        assert len(first) == len(second) == IMAGES_PER_BATCH // 2
        assert not set(first) & set(second)
        # NaiveIdentitySampler may give both ranks the same person, in different images.
        if "Balanced" in sampler or sampler == "GraphSampler":
            assert not set(ids) & set(other_ids)


def test_a_pass_over_the_data_has_every_image_once(ranks: list) -> None:
    drawn = [path for rank in ranks for paths, _ in rank["TrainingSampler"] for path in paths]
    assert len(drawn) == len(set(drawn)) == BATCHES * IMAGES_PER_BATCH
