"""Data loaders: fastreid's own, with domain labels, registered samplers and manifests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import fastreid.data.build
import torch
from fastreid.data.transforms import build_transforms
from fastreid.utils import comm
from yacs.config import CfgNode

from metabin_plugin.data.lookup import build_nonempty_dataset
from metabin_plugin.data.resumable import ResumableLoader
from metabin_plugin.data.sampler_choice import build_registered_sampler
from metabin_plugin.data.seed import stream_seed
from metabin_plugin.data.target_images import TargetImages
from metabin_plugin.data.train_set import build_train_set

Loader = Callable[..., Any]


def build_reid_train_loader(*args: Any, **kwargs: Any) -> Any:
    """Build fastreid's training loader; its batches also have ``"domains"``.

    It is called as fastreid's function of this name: with a config, and optionally a finished
    ``train_set``, ``transforms`` or ``sampler``, or with explicit arguments throughout.
    ``DATALOADER.SAMPLER_TRAIN`` is looked up in ``SAMPLER_REGISTRY`` first.

    Returns:
        A ``ResumableLoader`` over a ``DomainDataset`` or the given ``train_set``; a plain
        ``DataLoader`` without a config.

    Raises:
        DatasetError: a dataset is unknown, missing or without training images.
        ConfigError: the sampler is unknown, or does not fit the batch or the data.
    """
    return route_train_loader(fastreid.data.build.build_reid_train_loader)(*args, **kwargs)


def build_reid_test_loader(*args: Any, **kwargs: Any) -> Any:
    """Build fastreid's test loader, with ``DATALOADER.NUM_WORKERS`` workers.

    It is called as fastreid's function of this name: with a config and a ``dataset_name`` or a
    ``test_set``, or with explicit arguments throughout.

    Returns:
        A ``DataLoader`` over the query and then the gallery images, and the number of queries.

    Raises:
        DatasetError: the dataset is unknown, missing or without query or gallery images.
    """
    return route_test_loader(fastreid.data.build.build_reid_test_loader)(*args, **kwargs)


def route_train_loader(original: Loader) -> Loader:
    """Return what takes the place of fastreid's ``build_reid_train_loader``.

    Args:
        original: fastreid's function; a replacement for it is returned as it is.
    """
    return _route(original, _build_train_loader)


def route_test_loader(original: Loader) -> Loader:
    """Return what takes the place of fastreid's ``build_reid_test_loader``.

    Args:
        original: fastreid's function; a replacement for it is returned as it is.
    """
    return _route(original, _build_test_loader)


def _route(original: Loader, build_from_config: Loader) -> Loader:
    if hasattr(original, "routed_from"):
        return original

    @functools.wraps(original)
    def routed(*args: Any, **kwargs: Any) -> Any:
        if isinstance(args[0] if args else kwargs.get("cfg"), CfgNode):
            return build_from_config(original, *args, **kwargs)
        return original(*args, **kwargs)

    routed.routed_from = original  # type: ignore[attr-defined]
    return routed


def _build_train_loader(
    original: Loader,
    cfg: CfgNode,
    *,
    train_set: Any = None,
    transforms: Any = None,
    sampler: Any = None,
    **kwargs: Any,
) -> Any:
    if train_set is None:
        transforms = build_transforms(cfg, is_train=True) if transforms is None else transforms
        train_set = build_train_set(cfg, transforms, **kwargs)
    if sampler is None:
        sampler = build_registered_sampler(cfg, train_set)
    loader = original(cfg, train_set=train_set, transforms=transforms, sampler=sampler)
    return ResumableLoader(loader, stream_seed(cfg))


def _build_test_loader(
    original: Loader,
    cfg: CfgNode,
    *,
    dataset_name: str | None = None,
    test_set: Any = None,
    num_query: int = 0,
    transforms: Any = None,
    **kwargs: Any,
) -> Any:
    if test_set is None:
        if dataset_name is None:
            raise TypeError("build_reid_test_loader needs a dataset_name or a test_set")
        transforms = build_transforms(cfg, is_train=False) if transforms is None else transforms
        dataset = build_nonempty_dataset(
            dataset_name, ["query", "gallery"], key="DATASETS.TESTS", **kwargs
        )
        if comm.is_main_process():
            dataset.show_test()
        test_set = TargetImages(dataset, transforms)
        num_query = test_set.num_query
    # Given a config, fastreid would start 4 workers whatever it says.
    loader, num_query = original(
        test_set=test_set,
        test_batch_size=cfg.TEST.IMS_PER_BATCH,
        num_query=num_query,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    loader.use_device(torch.device(cfg.MODEL.DEVICE))
    # Else each evaluation would draw from the generator that the training draws from.
    loader.generator = torch.Generator()
    return loader, num_query
