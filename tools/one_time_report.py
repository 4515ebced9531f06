"""What the tools that make a dataset's images once say at their end."""

from __future__ import annotations

from pathlib import Path

from metabin_plugin.data.benchmark_counts import PUBLISHED, Count
from metabin_plugin.data.datasets.base import SourceDataset

GO_ON = "the same command goes on where it stopped"


def report_counts(dataset: type[SourceDataset], datasets_root: Path, in_release: Count) -> None:
    """Print what the dataset finds beside what was in the release and what was published."""
    train = dataset(root=str(datasets_root)).train
    found = Count(len({item[1] for item in train}), len(train))
    published = PUBLISHED[dataset.__name__]["train"]
    print(f"{dataset.__name__}: {_text(found)} (published: {_text(published)})")
    if found != in_release:
        print(f"warning: the release holds {_text(in_release)}; remove the others from the folder")
    elif found != published:
        print("warning: the release is not the one of the benchmark, or not complete")


def _text(count: Count) -> str:
    return f"{count.identities:,} identities, {count.images:,} images"
