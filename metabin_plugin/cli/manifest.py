"""``metabin manifest``: photographs in folders become a manifest and a config."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from metabin_plugin.cli.arguments import HOLD_OUT
from metabin_plugin.data.images import FoundFiles, find_files
from metabin_plugin.data.manifest import SUBSETS
from metabin_plugin.data.photographs.photograph import Photograph, label_photographs
from metabin_plugin.data.photographs.subsets import (
    assign_subsets,
    check_testable,
    hold_out,
    set_queries_apart,
)
from metabin_plugin.data.photographs.training import (
    HEAD,
    config_text,
    manifest_text,
    plan_training,
    text_of,
)
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import make_folder_of, open_regular, write_whole
from metabin_plugin.text import shown

BASE = "MetaBIN-own.yml"


def run(options: Namespace) -> None:
    """Find, label, share out, write; say what was understood.

    Raises:
        DatasetError: an option, a file name or the photographs cannot work.
    """
    check_options(options)
    pattern = text_of(options.layout)
    exclude = [text_of(glob) for glob in options.exclude]
    files = find_photographs(options.folder)
    paths = [text_of(Path(path).as_posix()) for path in files.images]
    layout, photographs, left_out, of_no_use = label_photographs(paths, pattern, exclude)
    print(f"{options.folder} was read as {layout}; --layout says any other layout")
    for line in (*said_of_files(files, left_out), *said_of_patterns(of_no_use, paths)):
        print(line)
    if "subset" not in layout.fields:
        tested = people_to_test(photographs, options)
        shared = assign_subsets(photographs, tested, options.splits, options.seed)
    elif options.hold_out is not None or options.test_domains or options.splits > 1:
        raise DatasetError(
            f"Layout {layout} has its own subsets; leave --hold-out, --test-domains and --splits "
            "out"
        )
    else:
        shared = set_queries_apart(photographs)
        check_testable(shared)
    for line in said_of_distractors(photographs, shared):
        print(line)
    print(table(shared))
    write(shared, options)


def check_options(options: Namespace) -> None:
    """Refuse a share of nobody or everybody, and to write over files that this did not write.

    Raises:
        DatasetError: a value or a file name cannot work.
    """
    share = options.hold_out
    if share is not None and not 0 <= share < 1:
        raise DatasetError(f"--hold-out is {share!r}; give a share, at least 0 and below 1")
    files = (("output", options.output, ".csv"), ("config", options.config, ".yml"))
    for option, path, suffix in files:
        if path and path.suffix != suffix:
            raise DatasetError(f"--{option} {path} needs another suffix; make it {suffix}")
    beginnings = (("output", options.output, "path,pid,camid"), ("config", options.config, HEAD))
    for option, path, beginning in beginnings:
        if path and not _is_new_or_begins(path, beginning.encode()):
            raise DatasetError(
                f"--{option} {path} is there and was not written by metabin manifest; give another "
                "name, or remove the file"
            )


def _is_new_or_begins(path: Path, beginning: bytes) -> bool:
    try:
        with open_regular(path) as file:
            found = file.read(len(beginning))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not found or found == beginning


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
            "folder that holds the photographs"
        ) from None
    if not files.images:
        foreign = files.foreign()
        remedy = f"convert {shown(foreign[0])} and its like to JPEG" if foreign else "name another"
        raise DatasetError(f"Folder {folder} holds no image that Pillow reads; {remedy}")
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


def said_of_patterns(of_no_use: Sequence[str], paths: Sequence[str]) -> Iterator[str]:
    """A line for each pattern of --exclude that leaves nothing out."""
    for glob in of_no_use:
        folder = f"{glob.rstrip('/')}/"
        is_folder = any(path.startswith(folder) for path in paths)
        why = f"{folder}* is what is in that folder" if is_folder else "no path is like it"
        yield f"--exclude {shown(glob)} leaves nothing out; {shown(why)}"


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


def people_to_test(photographs: Sequence[Photograph], options: Namespace) -> set[tuple[str, str]]:
    """Those of the test domains, or the share that is held out.

    Raises:
        DatasetError: there is no such domain, none is left, or nobody can be held out.
    """
    if not options.test_domains:
        share = HOLD_OUT if options.hold_out is None else options.hold_out
        return hold_out(photographs, share, options.seed)
    tested = [text_of(name) for name in options.test_domains]
    domains = sorted({photograph.domain for photograph in photographs} - {""})
    if not domains:
        raise DatasetError(
            "--test-domains is given, but no path was read as having a domain; say by --layout "
            "where in the paths {domain} is, or leave it out"
        )
    strange = [name for name in tested if name not in domains]
    if strange or set(domains) == set(tested):
        what = f"names {strange[0]}, which is not one" if strange else "names all"
        raise DatasetError(
            f"--test-domains {what} of the domains, {', '.join(domains)}; name some, and leave one "
            "to train on"
        )
    return {p.person for p in photographs if p.domain in tested}


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


def write(photographs: Sequence[Photograph], options: Namespace) -> None:
    """Write the manifest and the config, and say what is next.

    Raises:
        DatasetError: a file cannot be written, a config is there that is another, or there is
            nobody to train on. Nothing is written then.
    """
    manifest = manifest_text(photographs, Path(options.folder), options.output)
    config = b""
    if options.config:
        train = [photograph for photograph in photographs if photograph.subset == "train"]
        if not train:
            raise DatasetError("There are no images to train on; leave --config out")
        if len({photograph.person for photograph in train}) == 1:
            raise DatasetError(
                "The images to train on show one person, and two are needed; add images of others, "
                "or leave --config out"
            )
        training = plan_training(train)
        has_test = len(train) < len(photographs)
        config = config_text(training, options.output, options.config, BASE, has_test=has_test)
        check_not_edited(options.config, config)
        print(f"{options.config} trains on {training.why}")
        make_folder_of(options.config, DatasetError)
        write_whole(options.config, lambda file: file.write(config), DatasetError)
    make_folder_of(options.output, DatasetError)
    write_whole(options.output, lambda file: file.write(manifest), DatasetError)
    print(f"{options.output}: {len(photographs):,} images")
    data = ("--config-file", options.config) if options.config else ("--datasets", options.output)
    print(f"next: {shlex.join(map(str, ('metabin', 'check', *data)))}")


def check_not_edited(path: Path, content: bytes) -> None:
    """Refuse to write over a config in which there may be work of the user.

    Args:
        path: the file to write.
        content: what it would hold.

    Raises:
        DatasetError: it is there, and holds something else.
    """
    try:
        with open_regular(path) as file:
            found = file.read()
    # What cannot be read cannot be written, which is said then.
    except OSError:
        return
    if found and found != content:
        raise DatasetError(
            f"--config {path} is there already, with other content; leave --config out to keep "
            "it, give another path, or remove it"
        )
