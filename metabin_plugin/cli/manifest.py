"""Make a manifest, and a config that trains on it, of photographs in folders.

python tools/make_manifest.py FOLDER --output shop.csv [--config shop.yml]
    [--layout '{camera}/{identity}/*'] [--exclude 'old/*' ...]
    [--hold-out 0.25 | --test-domains NAME ...] [--splits 1] [--seed 0]

Who is on a photograph, and which camera took it where, is in its path. The usual layouts are
recognized (folders of identities, of cameras with identities, of domains with cameras with
identities, Market-1501's file names); --layout says any other one: {domain}, {camera}, {identity}
and {subset} stand for names, * for anything. Beside a * a name is a whole number:
'{identity}_c{camera}*'.

A share of each domain's people is held out to test with; --test-domains holds out whole domains
instead, which is what MetaBIN is for. Folders train, query and gallery, or others called so, are
taken as they are, and what lies beside them is left out. Identity -1 is junk, which is left out.
0000 in file names like Market-1501's, 0000_c1s1_000151_01.jpg, are distractors, which are in the
gallery only. Images are listed, not read: tools/check_datasets.py reads them, and takes those that
cannot be read out of the manifest by --drop-unreadable.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from metabin_plugin.data.image_files import FoundFiles, find_files
from metabin_plugin.data.manifest import SUBSETS
from metabin_plugin.data.photographs.photograph import Photograph, label_photographs
from metabin_plugin.data.photographs.subsets import (
    assign_subsets,
    check_testable,
    hold_out,
    set_queries_apart,
)
from metabin_plugin.data.photographs.training import (
    config_text,
    manifest_text,
    plan_training,
    text_of,
)
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import make_folder_of, write_whole
from metabin_plugin.text import shown

BASE = Path(__file__).resolve().parents[2] / "configs" / "MetaBIN-own.yml"
HOLD_OUT = 0.25


def main(arguments: Sequence[str] | None = None) -> None:
    """Find, label, share out, write; say what was understood."""
    args = parse(arguments)
    files = find_photographs(args.folder)
    paths = [text_of(Path(path).as_posix()) for path in files.images]
    layout, photographs, left_out = label_photographs(paths, args.layout, args.exclude)
    print(f"{args.folder} was read as {layout}; --layout says any other layout")
    for line in said_of_files(files, left_out):
        print(line)
    if "subset" not in layout.fields:
        tested = people_to_test(photographs, args)
        shared = assign_subsets(photographs, tested, args.splits, args.seed)
    elif args.hold_out is not None or args.test_domains or args.splits > 1:
        raise DatasetError(
            f"Layout {layout} has its own subsets; leave --hold-out, --test-domains and --splits "
            "out."
        )
    else:
        shared = set_queries_apart(photographs)
        check_testable(shared)
    for line in said_of_distractors(photographs, shared):
        print(line)
    print(table(shared))
    write(shared, args)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        DatasetError: a value or a file name cannot work.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="the photographs, in folders")
    parser.add_argument("--output", type=Path, required=True, help="the manifest to write (.csv)")
    parser.add_argument("--config", type=Path, help="the config to write (.yml)")
    parser.add_argument(
        "--layout", type=text_of, default="", help="pattern of the paths below the folder"
    )
    parser.add_argument(
        "--exclude",
        nargs="+",
        type=text_of,
        default=[],
        metavar="GLOB",
        help="paths to leave out",
    )
    test = parser.add_mutually_exclusive_group()
    test.add_argument(
        "--hold-out", type=float, help=f"share of each domain's people to test with ({HOLD_OUT})"
    )
    test.add_argument("--test-domains", nargs="+", type=text_of, default=[], metavar="DOMAIN")
    parser.add_argument(
        "--splits",
        type=int,
        choices=(1, 10),
        default=1,
        help="1: queries and a gallery; 10: ten single-shot splits, drawn at evaluation",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    args = parser.parse_args(arguments)
    if args.hold_out is not None and not 0 <= args.hold_out < 1:
        raise DatasetError(f"--hold-out is {args.hold_out}; give a share, at least 0 and below 1.")
    for option, path, suffix in (("output", args.output, ".csv"), ("config", args.config, ".yml")):
        if path and path.suffix != suffix:
            raise DatasetError(f"--{option} {path} needs another suffix; make it {suffix}.")
    return args


def find_photographs(folder: str) -> FoundFiles:
    """The files of a folder.

    Raises:
        DatasetError: it is not a folder, cannot be read, or holds no image that can be.
    """
    try:
        files = find_files(folder)
    except OSError as error:
        raise DatasetError(
            f"Folder {shown(str(error.filename))} cannot be read ({error.strerror}); name the "
            "folder that holds the photographs."
        ) from None
    if not files.images:
        foreign = files.foreign()
        remedy = f"convert {shown(foreign[0])} and its like to JPEG" if foreign else "name another"
        raise DatasetError(f"Folder {folder} holds no image that Pillow reads; {remedy}.")
    return files


def said_of_files(files: FoundFiles, left_out: Mapping[str, int]) -> Iterator[str]:
    """A line for each kind of files that the manifest lacks."""
    for why, count in left_out.items():
        yield f"left out: {count:,} images {why}"
    if files.left_out():
        yield files.left_out()
    rest = Counter(Path(name).suffix or name for name in set(files.others) - set(files.foreign()))
    if rest:
        kinds = ", ".join(f"{count} {shown(kind)}" for kind, count in sorted(rest.items()))
        yield f"left out: files that are no images ({kinds})"


def said_of_distractors(
    photographs: Sequence[Photograph], shared: Sequence[Photograph]
) -> Iterator[str]:
    """What became of the distractors, and of people who might be some.

    Args:
        photographs: those that were found.
        shared: those with a subset.
    """
    found = sum(photograph.is_distractor for photograph in photographs)
    kept = sum(photograph.is_distractor for photograph in shared)
    if kept:
        yield f"distractors: {kept:,} images of 0000, in the gallery only"
    if found > kept:
        yield f"left out: {found - kept:,} images of distractors (0000) without a gallery to be in"
    if any(p.identity == "0000" and not p.is_distractor for p in shared):
        yield (
            "0000 is a person here, as files of Market-1501's distractors have other names "
            "(0000_c1s1_000151_01.jpg); leave it out by --exclude if it is nobody"
        )


def people_to_test(
    photographs: Sequence[Photograph], args: argparse.Namespace
) -> set[tuple[str, str]]:
    """Those of the test domains, or the share that is held out.

    Raises:
        DatasetError: there is no such domain, none is left, or nobody can be held out.
    """
    if not args.test_domains:
        share = HOLD_OUT if args.hold_out is None else args.hold_out
        return hold_out(photographs, share, args.seed)
    domains = sorted({photograph.domain for photograph in photographs} - {""})
    strange = [name for name in args.test_domains if name not in domains]
    if strange or set(domains) == set(args.test_domains):
        what = f"names {strange[0]}, which is not one" if strange else "names all"
        raise DatasetError(
            f"--test-domains {what} of the domains, {', '.join(domains) or 'of which there are 0'};"
            " name some, and leave one to train on."
        )
    return {p.person for p in photographs if p.domain in args.test_domains}


def table(photographs: Sequence[Photograph]) -> str:
    """Markdown table of what each subset has."""
    rows = []
    for subset in SUBSETS:
        some = [photograph for photograph in photographs if photograph.subset == subset]
        cameras = {(p.domain, p.camera) for p in some if p.camera}
        domains = {p.domain for p in some if p.domain}
        people = {p.person for p in some}
        if some:
            rows.append((subset, len(some), len(people), len(cameras), len(domains)))
    headers = ("Subset", "Images", "Identities", "Cameras", "Domains")
    return tabulate(rows, headers=headers, tablefmt="pipe", intfmt=",")


def write(photographs: Sequence[Photograph], args: argparse.Namespace) -> None:
    """Write the manifest and the config, and say what is next.

    Raises:
        DatasetError: a file cannot be written, or there is nobody to train on.
    """
    manifest = manifest_text(photographs, Path(args.folder), args.output)
    config = b""
    if args.config:
        train = [photograph for photograph in photographs if photograph.subset == "train"]
        if not train:
            raise DatasetError("There are no images to train on; leave --config out.")
        training = plan_training(train)
        has_test = len(train) < len(photographs)
        config = config_text(training, args.output, args.config, BASE, has_test=has_test)
        print(f"{args.config} trains on {training.why}")
        make_folder_of(args.config, DatasetError)
        write_whole(args.config, lambda file: file.write(config), DatasetError)
    make_folder_of(args.output, DatasetError)
    write_whole(args.output, lambda file: file.write(manifest), DatasetError)
    print(f"{args.output}: {len(photographs):,} images")
    data = f"--config-file {args.config}" if args.config else f"--datasets {args.output}"
    print(f"next: python tools/check_datasets.py {data}")
