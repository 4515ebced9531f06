"""The graphs of ``GraphSampler``: which identities of a domain look alike to the network."""

from __future__ import annotations

from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.data.transforms import build_transforms
from fastreid.engine import DefaultTrainer
from fastreid.engine.train_loop import HookBase
from fastreid.evaluation import inference_context
from fastreid.utils import comm
from torch import Tensor

from metabin_plugin.data import GraphSampler, ReadableDataset, build_reid_test_loader
from metabin_plugin.processes import share_buffers


class GraphHook(HookBase):
    """Makes a graph for ``GraphSampler`` every ``METABIN.GRAPH_SAMPLER.PERIOD`` iterations.

    It is of the network as it is before the iteration, in evaluation mode, on images without
    augmentation. The loader's workers, which have drawn ahead, are started anew, so that the
    iteration itself has a batch of the new graph, whatever their number. All processes share the
    work, with the buffers of rank 0, and get the same graph. A checkpoint holds the graph in use.

    Args:
        cfg: the config with the METABIN node.
        trainer: a trainer that already has its model and data loader.
    """

    def __init__(self, cfg: CfgNode, trainer: DefaultTrainer) -> None:
        self._cfg = cfg
        self._period = cfg.METABIN.GRAPH_SAMPLER.PERIOD
        self._dataset = trainer.data_loader.dataset
        self._transform = build_transforms(cfg, is_train=False)
        self.sampler: GraphSampler = trainer.data_loader.batch_sampler.sampler

    def before_step(self) -> None:
        """Make the graph that this iteration and those after it use, where one is due."""
        if self.trainer.iter % self._period == 0:
            self.trainer.base_batches.close()
            nodes = self.sampler.draw_nodes(self.trainer.iter // self._period)
            self.sampler.connect(nodes, self._features(nodes.images))

    def state_dict(self) -> dict[str, Any]:
        """The sampler's."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: it is not one; nothing has changed.
        """
        self.sampler.load_state_dict(state)

    def _features(self, images: list[int]) -> Tensor:
        network = self.trainer.network
        # A resumed run has rank 0's everywhere.
        share_buffers(network)
        items = [self._dataset.img_items[image] for image in images]
        described = ReadableDataset(items, self._transform, relabel=False)
        loader, _ = build_reid_test_loader(self._cfg, test_set=described)
        with inference_context(network), torch.no_grad():
            own = [network(batch).float().cpu() for batch in loader]
        # In the order of the images: each process had a stretch of them.
        return torch.cat([rows for share in comm.all_gather(own) for rows in share])
