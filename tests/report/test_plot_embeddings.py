"""Distances of queries from their matches, and maps, against loops over pairs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.config import get_cfg
from PIL import Image

from metabin_plugin.evaluation import Images
from metabin_plugin.report.embeddings import Target, choose, extract, neighbour_map, query_distances
from metabin_plugin.report.files import FigureError


def random_target(cosine: bool, seed: int = 0) -> Target:
    """Nine queries and thirty gallery images of eight people by two cameras; two distractors."""
    generator = np.random.default_rng(seed)

    def side(count: int, identities: int) -> Images:
        features = torch.from_numpy(generator.normal(size=(count, 5))).float()
        if cosine:
            features /= features.norm(dim=1, keepdim=True)
        people = generator.integers(0, identities, count)
        return Images(features, people, generator.integers(0, 2, count))

    return Target(side(9, 8), side(30, 10), cosine)


@pytest.mark.parametrize("cosine", [True, False])
def test_distances_equal_a_loop_over_pairs(cosine: bool) -> None:
    target = random_target(cosine)
    matches, compared = [], []
    for q, person, camera in zip(*target.query, strict=True):
        for g, other, others_camera in zip(*target.gallery, strict=True):
            if person == other and camera == others_camera:
                continue
            a, b = q.double().tolist(), g.double().tolist()
            if cosine:
                distance = 1 - sum(x * y for x, y in zip(a, b, strict=True))
            else:
                distance = math.dist(a, b)
            compared.append(distance)
            if person == other:
                matches.append(distance)
    found = query_distances(target)
    assert found.matches == len(matches) > 5
    assert len(compared) < 9 * 30
    assert found.of_matches == pytest.approx(sum(matches) / len(matches), rel=1e-6)
    assert found.of_all == pytest.approx(sum(compared) / len(compared), rel=1e-6)
    assert found.ratio == pytest.approx(found.of_matches / found.of_all)


class Pixels(torch.nn.Module):
    """A network whose features are the first row of the image's pixels, on one side brighter."""

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["images"][:, 0, 0] * torch.arange(1.0, 17.0)


@pytest.mark.parametrize("flips", [False, True])
def test_features_are_those_of_evaluation(tmp_path: Path, flips: bool) -> None:
    rows, pixels = ["path,pid,camid,subset"], np.random.default_rng(0).integers(0, 256, (4, 16))
    for number, row in enumerate(pixels):
        image = np.broadcast_to(row[None, :, None], (32, 16, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        subset = ("query", "gallery")[number % 2]
        rows.append(f"{number}.png,{number // 2},{number % 2},{subset}")
    (tmp_path / "target.csv").write_text("\n".join(rows) + "\n")
    cfg = get_cfg()
    cfg.INPUT.SIZE_TEST, cfg.TEST.METRIC = [32, 16], "euclidean"
    cfg.TEST.FLIP.ENABLED, cfg.DATALOADER.NUM_WORKERS = flips, 0
    found = extract(cfg, Pixels(), str(tmp_path / "target.csv"))
    weights = np.arange(1.0, 17.0)
    expected = (pixels + pixels[:, ::-1]) / 2 * weights if flips else pixels * weights
    np.testing.assert_allclose(found.query.features, expected[::2])
    np.testing.assert_allclose(found.gallery.features, expected[1::2])


def test_chosen_people_have_a_match_and_all_their_images() -> None:
    target = random_target(True)
    matched = set(target.query.identities[target.pairs()[0].any(1)].tolist())
    chosen = choose(target, 3)
    people = set(chosen.query.identities.tolist())
    assert len(people) == 3 and people <= matched
    for mine, whole in ((chosen.query, target.query), (chosen.gallery, target.gallery)):
        rows = np.isin(whole.identities, list(people))
        assert torch.equal(mine.features, whole.features[torch.from_numpy(rows)])
        assert mine.cameras.tolist() == whole.cameras[rows].tolist()
    assert set(choose(target, 99).query.identities.tolist()) == matched
    assert choose(target, 0) is target


def test_maps_repeat_and_keep_what_is_together() -> None:
    centres = torch.eye(5).repeat_interleave(6, 0)
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(30, 5)) * 0.01).float()
    people, cameras = np.repeat(np.arange(5), 6), np.tile(np.arange(6), 5)
    whole = Images(centres + noise, people, cameras)
    query, gallery = whole.part(slice(0, None, 6)), whole
    places = neighbour_map(Target(query, gallery, True))
    assert places[0].shape == (5, 2) and places[1].shape == (30, 2)
    again = neighbour_map(Target(query, gallery, True))
    assert all(np.array_equal(a, b) for a, b in zip(places, again, strict=True))
    for place, person in zip(places[0], query.identities, strict=True):
        nearest = np.linalg.norm(places[1] - place, axis=1).argmin()
        assert gallery.identities[nearest] == person


def test_too_few_images_are_refused() -> None:
    target = random_target(True)
    few = Target(target.query.part(slice(1)), target.gallery.part(slice(2)), True)
    with pytest.raises(FigureError, match="3 images cannot be mapped"):
        neighbour_map(few)
