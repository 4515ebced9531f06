"""Domain labels, the domain-balanced sampler, manifests and the data loaders."""

from metabin_plugin.data.build import (
    build_dataset,
    build_reid_test_loader,
    build_reid_train_loader,
    build_train_set,
    datasets_root,
)
from metabin_plugin.data.domains import label_domains
from metabin_plugin.data.images import DomainDataset, ReadableDataset
from metabin_plugin.data.manifest import ManifestDataset
from metabin_plugin.data.sampler import DomainBalancedSampler, GraphSampler
from metabin_plugin.registries import SAMPLER_NAMES

__all__ = [
    "SAMPLER_NAMES",
    "DomainBalancedSampler",
    "DomainDataset",
    "GraphSampler",
    "ManifestDataset",
    "ReadableDataset",
    "build_dataset",
    "build_reid_test_loader",
    "build_reid_train_loader",
    "build_train_set",
    "datasets_root",
    "label_domains",
]
