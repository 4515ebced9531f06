"""The data that a config names: data sets, found and checked, and fastreid's loaders of them."""

from __future__ import annotations

import difflib
import itertools
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastreid.data.build
import torch
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.transforms import build_transforms
from fastreid.utils import comm
from torchvision.transforms import ColorJitter, Compose, RandAugment, RandomApply, RandomErasing
from yacs.config import CfgNode

from metabin_plugin.compat.patching import patch
from metabin_plugin.config.table import Choice
from metabin_plugin.data.domains import label_domains, shared_identities
from metabin_plugin.data.images import DomainDataset, ReadableDataset, Source
from metabin_plugin.data.manifest import ManifestDataset, is_manifest
from metabin_plugin.data.resumable import ResumableLoader
from metabin_plugin.data.sampler import stream_seed
from metabin_plugin.errors import ConfigError, DatasetError
from metabin_plugin.registries import (
    BASE_LOSS_REGISTRY,
    SAMPLER_REGISTRY,
    registered,
    sampler_names,
)
from metabin_plugin.text import shown

logger = logging.getLogger(__name__)

# Of BAU's strong view: factors of brightness, contrast and saturation, and largest turn of the hue.
_JITTER, _HUE = (0.5, 2.0), 0.1
_NOT_FOUND = re.compile(r'"(?P<path>.*)" is not found')
Items = Sequence[Sequence[Any]]


def datasets_root() -> str:
    """Return the folder that holds all datasets, ``$FASTREID_DATASETS`` or fastreid's default."""
    return os.environ.get("FASTREID_DATASETS", fastreid.data.build._root)


def build_dataset(
    name: str, root: str | None = None, *, key: str = "DATASETS.NAMES", **kwargs: Any
) -> Any:
    """Build the dataset with a registered name, or the one of a manifest file.

    Args:
        name: a name in fastreid's ``DATASET_REGISTRY``, or the path of a ``.csv`` file.
        root: the folder that holds all datasets; by default ``datasets_root()``.
        key: config key that named it, for the error texts.
        **kwargs: passed on to the dataset, ``combineall`` for example.

    Returns:
        A fastreid ``ImageDataset``.

    Raises:
        DatasetError: no dataset has this name, or its files are not there.
    """
    root = datasets_root() if root is None else root
    if is_manifest(name):
        return ManifestDataset(name, root=root, **kwargs)
    try:
        dataset_class = DATASET_REGISTRY.get(name)
    except KeyError:
        if os.path.isdir(name):
            raise DatasetError(
                f"{key} lists {name!r}, which is a folder; make a manifest of its images with "
                "`metabin manifest` and name that"
            ) from None
        raise DatasetError(
            f"{key} lists {name!r}, which is neither a registered dataset nor a .csv file; "
            f"{_suggest(name, registered(DATASET_REGISTRY))}"
        ) from None
    with _explain_missing_files(key, name, root):
        return dataset_class(root=root, **kwargs)


def build_nonempty_dataset(
    name: str, subsets: Sequence[str], root: str | None = None, *, key: str, **kwargs: Any
) -> Any:
    """Build a dataset as ``build_dataset`` does, and check that it has images of some subsets.

    Args:
        name: as for ``build_dataset``.
        subsets: those that must not be empty, of ``train``, ``query`` and ``gallery``.
        root: as for ``build_dataset``.
        key: config key that named it, for the error texts.
        **kwargs: passed on to the dataset.

    Returns:
        A fastreid ``ImageDataset``.

    Raises:
        DatasetError: no dataset has this name, its files are not there, or a subset is empty.
    """
    root = datasets_root() if root is None else root
    dataset = build_dataset(name, root, key=key, **kwargs)
    for subset in subsets:
        if not read_subset(dataset, name, subset, root, key=key):
            remedy = (
                f"give some of its lines the subset {subset!r}"
                if isinstance(dataset, ManifestDataset)
                else f"name another dataset or put its images under {root}"
            )
            raise DatasetError(f"{key} lists {name!r}, which has no {subset} images; {remedy}")
    return dataset


def read_subset(
    dataset: Any, name: str, subset: str, root: str | None = None, *, key: str
) -> list[Any]:
    """The image items of a dataset's subset.

    Many of fastreid's datasets look for their images only when a list is first read.

    Args:
        dataset: what ``build_dataset`` returned for ``name``.
        name: as for ``build_dataset``.
        subset: ``train``, ``query`` or ``gallery``.
        root: as for ``build_dataset``.
        key: config key that named it, for the error texts.

    Raises:
        DatasetError: its files are not there.
    """
    with _explain_missing_files(key, name, datasets_root() if root is None else root):
        return getattr(dataset, subset)


def check_targets(names: Iterable[str]) -> None:
    """Check before a training that each target can be evaluated after it. No image is read.

    Args:
        names: ``DATASETS.TESTS``.

    Raises:
        DatasetError: a target is unknown, missing or empty, or none of its queries can be scored.
    """
    for name in names:
        dataset = build_nonempty_dataset(name, ["query", "gallery"], key="DATASETS.TESTS")
        require_matches(name, splits_of(dataset))


def check_statistics_data(cfg: CfgNode) -> None:
    """Check before a training that the data of ``TEST.PRECISE_BN`` are there. No image is read.

    Args:
        cfg: the config.

    Raises:
        DatasetError: precise statistics are asked for, and its dataset is unknown, missing or
            without training images.
    """
    node = cfg.TEST.PRECISE_BN
    if node.ENABLED:
        build_nonempty_dataset(
            node.DATASET,
            ["train"],
            key="TEST.PRECISE_BN.DATASET",
            combineall=cfg.DATASETS.COMBINEALL,
        )


def require_matches(name: str, splits: Sequence[tuple[Items, Items]]) -> None:
    """Check that a target can be evaluated.

    Args:
        name: the target, as the config names it.
        splits: its splits; each must have a query that can be scored.

    Raises:
        DatasetError: a split has none.
    """
    for query, gallery in splits:
        if len(unmatched_queries(query, gallery)) == len(query):
            cameras = {item[2] for side in (query, gallery) for item in side}
            raise DatasetError(
                f"Target {shown(repr(name))} cannot be evaluated: none of its {len(query)} queries "
                "has a gallery image of the same person from another camera (cameras in all: "
                f"{len(cameras)}); correct the persons and cameras of its images, or name another "
                "dataset in DATASETS.TESTS"
            )


def unmatched_queries(query: Items, gallery: Items) -> list[str]:
    """Paths of the queries whose identity no other camera's gallery image shows.

    Args:
        query: one ``(path, identity, camera)`` for each query.
        gallery: the same for each gallery image.
    """
    cameras: dict[Any, set[Any]] = defaultdict(set)
    for item in gallery:
        cameras[item[1]].add(item[2])
    return [path for path, identity, camera, *_ in query if not cameras[identity] - {camera}]


def splits_of(dataset: Any) -> Sequence[tuple[Items, Items]]:
    """Query and gallery of each split of a target; one pair where it has no further splits."""
    return getattr(dataset, "splits", None) or [(dataset.query, dataset.gallery)]


@contextmanager
def _explain_missing_files(key: str, name: str, root: str) -> Iterator[None]:
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"{key} lists {name!r}: {error}") from error
    except OSError as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        fault = "is not found" if missing else f"cannot be read ({error.strerror})"
        path = error.filename
    except RuntimeError as error:
        match = _NOT_FOUND.search(str(error))
        if match is None:
            raise
        path, fault = match["path"], "is not found"
    else:
        return
    raise DatasetError(
        f"{key} lists {name!r}, but {path} {fault}; put the dataset there, or set the "
        f"environment variable FASTREID_DATASETS (now {root!r}) to the folder that holds it"
    )


def _suggest(name: str, known: Sequence[str]) -> str:
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case)
    names = [by_lower_case[match] for match in close] or list(known)
    return ("did you mean " if close else "choose one of ") + ", ".join(names)


def build_train_set(cfg: CfgNode, transforms: Any, **kwargs: Any) -> DomainDataset:
    """Join the training images of ``DATASETS.NAMES`` and label their domains.

    Args:
        cfg: a fastreid config; one without ``METABIN.DOMAIN`` has datasets as domains.
        transforms: what turns a PIL image into a tensor.
        **kwargs: passed on to the datasets, ``combineall`` for example.

    Returns:
        The images in fastreid's order. Their labels do not depend on where the data are. Where two
        data sets give identities the same label, which makes them the same, the log says so.

    Raises:
        DatasetError: a dataset is unknown, missing or without training images, or all images are of
            one identity.
        ConfigError: no dataset is named, or ``METABIN.DOMAIN`` has an unknown value.
    """
    if not cfg.DATASETS.NAMES:
        raise ConfigError("DATASETS.NAMES is empty; name at least one dataset to train on")
    sources = []
    for name in cfg.DATASETS.NAMES:
        dataset = build_nonempty_dataset(name, ["train"], key="DATASETS.NAMES", **kwargs)
        if comm.is_main_process():
            dataset.show_train()
        sources.append((name, dataset))
    labels = _distinguish(sources)
    for one, other, shared in shared_identities(
        [(label, dataset) for label, (_, dataset) in zip(labels, sources, strict=True)]
    ):
        if one != other:
            logger.warning(
                "DATASETS.NAMES: %s and %s have %d identities of the same label, %r for one: they "
                "are taken for the same people; if they are not, put the data set's name in front",
                shown(one),
                shown(other),
                len(shared),
                shown(min(shared)),
            )
    kind = cfg.METABIN.DOMAIN if "METABIN" in cfg else "dataset"
    train_set = DomainDataset(*label_domains(sources, kind), transform=transforms)
    train_set.sources = [
        Source(label, len(dataset.train))
        for label, (_, dataset) in zip(labels, sources, strict=True)
    ]
    if _needs_strong_view(cfg):
        train_set.strong_transform = strong_view(cfg)
    if train_set.num_classes < 2:
        raise DatasetError(
            "The training images of DATASETS.NAMES show one identity, but at least 2 are needed to "
            "tell people apart; add images of others"
        )
    return train_set


def _needs_strong_view(cfg: CfgNode) -> bool:
    names = cfg.METABIN.BASE_LOSSES if "METABIN" in cfg else ()
    return any(getattr(BASE_LOSS_REGISTRY.get(n), "needs_strong_view", False) for n in names)


def strong_view(cfg: CfgNode) -> Any:
    """Augmentation of the second view of a training image, as in the published code of BAU.

    RandAugment, colour jitter and random erasing, each with the probability
    ``METABIN.STRONG_VIEW.PROB``, around the resize, crop, padding, flip and affine map of
    ``INPUT``. RandAugment has torchvision's strength, and what is erased becomes the mean pixel.

    Args:
        cfg: a fastreid config.

    Returns:
        What turns a PIL image into a tensor (3, H, W) in [0, 255].
    """
    probability = cfg.METABIN.STRONG_VIEW.PROB
    cfg = cfg.clone()
    cfg.defrost()
    for name in ("AUTOAUG", "AUGMIX", "CJ", "REA", "RPT"):
        cfg.INPUT[name].ENABLED = False
    *geometry, to_tensor = build_transforms(cfg, is_train=True).transforms
    jitter = ColorJitter(_JITTER, _JITTER, _JITTER, _HUE)
    return Compose(
        [
            RandomApply([RandAugment()], p=probability),
            *geometry,
            RandomApply([jitter], p=probability),
            to_tensor,
            RandomErasing(p=probability, value=list(cfg.MODEL.PIXEL_MEAN)),
        ]
    )


def _distinguish(sources: Sequence[tuple[str, Any]]) -> list[str]:
    """Keep manifests apart that have the same name in different folders; the label of each source.

    Their number in ``DATASETS.NAMES`` does it, as folders may be renamed.
    """
    labels: dict[Path, str] = {}
    taken = {dataset.dataset_name for _, dataset in sources if isinstance(dataset, ManifestDataset)}
    first: set[str] = set()
    found = []
    for name, dataset in sources:
        if not isinstance(dataset, ManifestDataset):
            found.append(name)
            continue
        # One that is named twice has the same people twice.
        file, stem = dataset.file.resolve(), dataset.dataset_name
        if file not in labels:
            numbered = (f"{stem}#{number}" for number in itertools.count(2))
            labels[file] = next(n for n in numbered if n not in taken) if stem in first else stem
            first.add(stem)
            taken.add(labels[file])
        dataset.distinguish(labels[file])
        found.append(labels[file])
    return found


class TargetImages(ReadableDataset):
    """The query images of a target, then its gallery images.

    Args:
        dataset: a fastreid ``ImageDataset``.
        transform: what turns a PIL image into a tensor.

    Attributes:
        num_query: number of query images.
        splits: pairs of query and gallery items, the dataset's own first; one pair where the
            dataset has no further splits.
        has_cameras: whether its camera labels are those of cameras, or only keep queries and
            gallery apart.
        strangers: for each split further queries, of people who are not in its gallery; empty
            where the dataset has none.
    """

    def __init__(self, dataset: Any, transform: Any) -> None:
        super().__init__(dataset.query + dataset.gallery, transform, relabel=False)
        self.has_cameras = getattr(dataset, "has_cameras", True)
        self.num_query = len(dataset.query)
        self.splits = splits_of(dataset)
        self.strangers = getattr(dataset, "strangers", ())


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
    return fastreid.data.build.build_reid_train_loader(*args, **kwargs)


def build_reid_test_loader(*args: Any, **kwargs: Any) -> Any:
    """Build fastreid's test loader, with ``DATALOADER.NUM_WORKERS`` workers.

    It is called as fastreid's function of this name: with a config and a ``dataset_name`` or a
    ``test_set``, or with explicit arguments throughout.

    Returns:
        A ``DataLoader`` over the query and then the gallery images, and the number of queries.

    Raises:
        DatasetError: the dataset is unknown, missing or without query or gallery images.
    """
    return fastreid.data.build.build_reid_test_loader(*args, **kwargs)


def _has_config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return isinstance(args[0] if args else kwargs.get("cfg"), CfgNode)


@patch(
    "fastreid.data.build:build_reid_train_loader",
    fault="It knows data sets and samplers by hard-coded names, tells no domains apart, and cannot "
    "go on in the middle of its data.",
    unless="it is called without a config.",
)
def train_loader_of_config(original: Loader, *args: Any, **kwargs: Any) -> Any:
    """Take manifests and registered samplers, label the domains, and let a run be resumed.

    The batches are on ``MODEL.DEVICE``.
    """
    if not _has_config(args, kwargs):
        return original(*args, **kwargs)
    return _train_loader(original, *args, **kwargs)


def _train_loader(
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
    loader.use_device(torch.device(cfg.MODEL.DEVICE))
    return ResumableLoader(loader, stream_seed(cfg))


@patch(
    "fastreid.data.build:build_reid_test_loader",
    fault="It knows data sets by hard-coded names, and starts 4 workers whatever the config says.",
    unless="it is called without a config.",
)
def test_loader_of_config(original: Loader, *args: Any, **kwargs: Any) -> Any:
    """Take manifests, keep the splits of a target, and start ``DATALOADER.NUM_WORKERS`` workers.

    The batches are on ``MODEL.DEVICE``.
    """
    if not _has_config(args, kwargs):
        return original(*args, **kwargs)
    return _test_loader(original, *args, **kwargs)


def _test_loader(
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


def build_registered_sampler(cfg: CfgNode, train_set: Any) -> Any:
    """Build the sampler that ``DATALOADER.SAMPLER_TRAIN`` names, if it is a registered one.

    Args:
        cfg: a fastreid config.
        train_set: the training images, a fastreid ``CommDataset``.

    Returns:
        The sampler, or None if the name is that of one of fastreid's own.

    Raises:
        ConfigError: no sampler has this name, or fastreid's would never fill a batch.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name in registered(SAMPLER_REGISTRY):
        return SAMPLER_REGISTRY.get(name)(cfg, train_set)
    Choice(sampler_names).check("DATALOADER.SAMPLER_TRAIN", name)
    _check_identities(cfg, train_set)
    return None


def _check_identities(cfg: CfgNode, train_set: Any) -> None:
    # With a batch that these two samplers cannot fill exactly they search for ever.
    if cfg.DATALOADER.SAMPLER_TRAIN not in ("NaiveIdentitySampler", "BalancedIdentitySampler"):
        return
    batch, instances = cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE
    unit = instances * comm.get_world_size()
    if batch < unit or batch % unit:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {batch!r}, but with {cfg.DATALOADER.SAMPLER_TRAIN} it must "
            f"be a multiple of {unit}, DATALOADER.NUM_INSTANCE x processes; set it to "
            f"{max(1, batch // unit) * unit}"
        )
    needed = batch // instances
    if train_set.num_classes < needed:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {batch} with DATALOADER.NUM_INSTANCE {instances} needs {needed} "
            f"identities, but the training images have {train_set.num_classes}; lower the first or "
            "raise the second"
        )
