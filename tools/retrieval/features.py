"""Features of images, by a trained network, as the evaluation takes them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.data.transforms import build_transforms
from fastreid.evaluation import inference_context
from PIL import Image

from metabin_plugin.data import ReadableDataset, build_reid_test_loader
from metabin_plugin.engine import trained_network
from metabin_plugin.errors import DatasetError


class Describer:
    """Turns images into features.

    The images are resized and the features taken (``MODEL.HEADS.NECK_FEAT``) as in evaluation,
    with ``TEST.FLIP`` as the mean of the image's and its mirror image's.

    Args:
        cfg: a config with ``MODEL.WEIGHTS``.

    Raises:
        ConfigError: ``MODEL.WEIGHTS`` is empty, or the config cannot work.
        WeightsError: the file is damaged or does not fit.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg
        self._network = trained_network(cfg, "MODEL.WEIGHTS is empty")
        self._transform = build_transforms(cfg, is_train=False)

    def describe(
        self, paths: Sequence[str], skip_unreadable: bool = False
    ) -> tuple[np.ndarray, list[str]]:
        """Features of image files.

        Args:
            paths: the files.
            skip_unreadable: whether to go on after one that cannot be read.

        Returns:
            Features (N, D), float32, not normalized, in the order of the files; and a text for
            each, "" or the sentence that says why it cannot be read. Then its feature is NaN.

        Raises:
            DatasetError: an image cannot be read, and is not to be skipped.
        """
        images = _Images(paths, self._transform, skip_unreadable)
        loader, _ = build_reid_test_loader(self._cfg, test_set=images)
        loader.worker_init_fn = _leave_interrupts
        features, faults = [], []
        with inference_context(self._network), torch.no_grad():
            for batch in loader:
                faults += batch["faults"]
                features.append(self._features(batch))
        rows = torch.cat(features).numpy()
        rows[[fault != "" for fault in faults]] = np.nan
        return rows, faults

    def probe(self) -> np.ndarray:
        """The feature (D,) of a fixed image, which tells this network from others."""
        batch = {"images": self._transform(_coloured_blocks())[None]}
        with inference_context(self._network), torch.no_grad():
            return self._features(batch)[0].numpy()

    def _features(self, batch: dict[str, Any]) -> torch.Tensor:
        features = self._network(batch)
        if self._cfg.TEST.FLIP.ENABLED:
            mirrored = {**batch, "images": batch["images"].flip(dims=[3])}
            features = (features + self._network(mirrored)) / 2
        return features.float().cpu()


class _Images(ReadableDataset):
    """Images whose faults can be data, with a black image in the place of the one that has it."""

    def __init__(self, paths: Sequence[str], transform: Any, skip_unreadable: bool) -> None:
        super().__init__([(path, 0, 0) for path in paths], transform, relabel=False)
        self._skip = skip_unreadable

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return {**super().__getitem__(index), "faults": ""}
        except DatasetError as error:
            if not self._skip:
                raise
            black = self.transform(Image.new("RGB", (64, 128)))
            empty = {"targets": 0, "camids": 0, "img_paths": self.img_items[index][0]}
            return {"images": black, **empty, "faults": str(error)}


def _coloured_blocks() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64, 128), Image.Resampling.BILINEAR)


def _leave_interrupts(worker: int) -> None:
    # A terminal's Ctrl-C goes to all processes, and one of them has to say what was kept.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
