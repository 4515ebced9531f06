"""Draw the ranked gallery of a few queries, right matches framed green and wrong ones red.

python tools/plot_ranks.py --config-file CONFIG --dataset NAME [--queries 6] [--output ranks.png]
    MODEL.WEIGHTS CHECKPOINT [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import metabin_plugin

metabin_plugin.register()

import numpy as np
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.evaluation import inference_context
from fastreid.utils.checkpoint import Checkpointer
from PIL import Image, ImageOps

from metabin_plugin.cli import run_cli
from metabin_plugin.engine import MetaBINTrainer, read_config
from metabin_plugin.errors import ConfigError

TILE = (64, 128)
FRAME = 4
RANKS = 10
RIGHT, WRONG, QUERY = (40, 160, 60), (200, 50, 40), (60, 60, 60)


def main() -> None:
    """Extract features, rank and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--dataset", required=True, help="a name of DATASETS.TESTS")
    parser.add_argument("--queries", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("ranks.png"))
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    args = parser.parse_args()

    cfg = read_config(args.config_file, args.opts)
    cfg.MODEL.BACKBONE.PRETRAIN = False
    if not Path(cfg.MODEL.WEIGHTS).is_file():
        raise ConfigError(f"MODEL.WEIGHTS: there is no checkpoint {cfg.MODEL.WEIGHTS!r}; name one")
    items, num_query, distances = rank(cfg, args.dataset)
    chosen = np.linspace(0, num_query - 1, min(args.queries, num_query)).round().astype(int)
    sheet = draw_sheet(items, num_query, distances, chosen.tolist())
    args.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.output)


def rank(cfg: CfgNode, dataset: str) -> tuple[list[Any], int, torch.Tensor]:
    """Items of a target (queries first), number of queries, and cosine distances to the gallery."""
    model = MetaBINTrainer.build_model(cfg)
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    loader, num_query = MetaBINTrainer.build_test_loader(cfg, dataset)
    with inference_context(model), torch.no_grad():
        features = F.normalize(torch.cat([model(batch).float().cpu() for batch in loader]))
    items = list(loader.dataset.img_items)
    return items, num_query, 1 - features[:num_query] @ features[num_query:].T


def draw_sheet(
    items: list[Any], num_query: int, distances: torch.Tensor, queries: list[int]
) -> Image.Image:
    """One row for each query: the query, then the nearest gallery images.

    Gallery images of the query's identity and camera are left out, as evaluation does.
    """
    gallery = items[num_query:]
    width, height = TILE[0] + 2 * FRAME, TILE[1] + 2 * FRAME
    sheet = Image.new("RGB", (width * (RANKS + 1) + FRAME, height * len(queries)), "white")
    for row, query in enumerate(queries):
        _, identity, camera = items[query][:3]
        sheet.paste(_tile(items[query][0], QUERY), (0, row * height))
        kept = [
            i
            for i in distances[query].argsort().tolist()
            if tuple(gallery[i][1:3]) != (identity, camera)
        ]
        for column, index in enumerate(kept[:RANKS], start=1):
            path, found = gallery[index][:2]
            tile = _tile(path, RIGHT if found == identity else WRONG)
            sheet.paste(tile, (column * width + FRAME, row * height))
    return sheet


def _tile(path: str, colour: tuple[int, int, int]) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.expand(image.convert("RGB").resize(TILE), FRAME, colour)


if __name__ == "__main__":
    with run_cli():
        main()
