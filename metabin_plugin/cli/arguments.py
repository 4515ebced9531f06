"""The arguments of the commands: a function for each, whose docstring is the command's help.

Nothing is imported here that takes time, so that help comes at once.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from argparse import REMAINDER, ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path

from metabin_plugin.environment import available_cpus
from metabin_plugin.repository import config_path

Describe = Callable[[ArgumentParser], None]

# What the rooms that do the work have under the same names; importing those takes seconds.
KINDS = ("flat", "ivf", "ivf-pq")
METRICS = ("cosine", "euclidean")
OPSETS = (17, 18, 19, 20)

# Share of the people who are tested with where nothing else is said.
HOLD_OUT = 0.25


def answer_help(describe: Describe, about: str | None = None) -> None:
    """Print a script's help and end it, if its command line asks for that; else do nothing.

    A script calls it before it imports what takes seconds.

    Args:
        describe: adds the script's arguments to a parser.
        about: what the script does.

    Raises:
        SystemExit: after the help.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        parser = ArgumentParser(description=about)
        describe(parser)
        parser.parse_args(["--help"])


def train(parser: ArgumentParser) -> None:
    """Train a network, or with --eval-only evaluate one.

    metabin train --config MetaBIN.yml [--resume] [--num-gpus N] [KEY VALUE ...]

    A config is a path, or the name of one of the plugin's recipes. Data sets are looked for below
    FASTREID_DATASETS; DATASETS.NAMES takes manifests too.
    """
    _config(parser, default="")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS")
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="processes on each machine"
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="from 0 on")
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="where several machines meet, tcp://HOST:PORT of the first",
    )
    _pairs(parser)


def evaluate(parser: ArgumentParser) -> None:
    """Evaluate a network on its targets: `train --eval-only`.

    metabin eval --config MetaBIN.yml MODEL.WEIGHTS logs/metabin/model_final.pth [KEY VALUE ...]

    It takes the arguments of `train`.
    """
    train(parser)
    parser.set_defaults(eval_only=True)


def check(parser: ArgumentParser) -> None:
    """Check data before a long run: read every image, count, and list what would stop or spoil it.

    metabin check --config MetaBIN.yml [--workers N] [KEY VALUE ...]
    metabin check [--workers N] --datasets NAME_OR_MANIFEST ...

    With a config its training data (DATASETS.NAMES), its targets (DATASETS.TESTS) and its batches
    are checked; with --datasets all images of the named ones. A picture that is on both sides of a
    test, in another file or format too, is a problem, and so are people of a manifest who are
    trained on and tested with. Counts of the benchmark's datasets are shown beside the published
    ones, and a difference is a warning. The exit status is 1 if there is a problem; warnings leave
    it 0. --drop-unreadable rewrites manifests without the images that cannot be read, and checks
    what is left.
    """
    what = parser.add_mutually_exclusive_group(required=True)
    _config(what, help="check the data of this config")
    what.add_argument(
        "--datasets", nargs="+", metavar="NAME", help="check these datasets and manifests"
    )
    parser.add_argument(
        "--workers",
        type=_natural,
        default=available_cpus(),
        help="processes that read images (all cores); 0 reads in this one",
    )
    parser.add_argument(
        "--drop-unreadable",
        action="store_true",
        help="rewrite manifests without the images that cannot be read",
    )
    _pairs(parser, "KEY VALUE pairs, with a config")


def manifest(parser: ArgumentParser) -> None:
    """Make a manifest, and a config that trains on it, of photographs in folders.

    metabin manifest FOLDER --output shop.csv [--config shop.yml]
        [--layout '{camera}/{identity}/*'] [--exclude 'old/*' ...]
        [--hold-out 0.25 | --test-domains NAME ...] [--splits 1] [--seed 0]

    Who is on a photograph, and which camera took it where, is in its path. The usual layouts are
    recognized (folders of identities, of cameras with identities, of domains with cameras with
    identities, Market-1501's file names); --layout says any other one: {domain}, {camera},
    {identity} and {subset} stand for names, * for anything. Beside a * a name is a whole number:
    '{identity}_c{camera}*'.

    A share of each domain's people is held out to test with; --test-domains holds out whole domains
    instead, which is what MetaBIN is for. Folders train, query and gallery, or others called so,
    are taken as they are, and what lies beside them is left out. Identity -1 is junk, which is left
    out. 0000 in file names like Market-1501's, 0000_c1s1_000151_01.jpg, are distractors, which are
    in the gallery only. Images are listed, not read: `metabin check` reads them, and takes those
    that cannot be read out of the manifest by --drop-unreadable.
    """
    parser.add_argument("folder", help="the photographs, in folders")
    parser.add_argument("--output", type=Path, required=True, help="the manifest to write (.csv)")
    parser.add_argument(
        "--config", type=Path, help="the config to write (.yml); an edited one is kept"
    )
    parser.add_argument("--layout", default="", help="pattern of the paths below the folder")
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="GLOB", help="paths to leave out"
    )
    test = parser.add_mutually_exclusive_group()
    test.add_argument(
        "--hold-out", type=float, help=f"share of each domain's people to test with ({HOLD_OUT})"
    )
    test.add_argument("--test-domains", nargs="+", default=[], metavar="DOMAIN")
    parser.add_argument(
        "--splits",
        type=int,
        choices=(1, 10),
        default=1,
        help="1: queries and a gallery; 10: ten single-shot splits, drawn at evaluation",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")


def index(parser: ArgumentParser) -> None:
    """Index a gallery: a folder of images, a manifest, a registered data set, or ready features.

    metabin index --config CONFIG --gallery FOLDER --output gallery.index
        MODEL.WEIGHTS CHECKPOINT [KEY VALUE ...]

    An index is flat up to 200,000 images, "ivf" up to 2,000,000, "ivf-pq" above. The features of a
    gallery are kept in OUTPUT.parts until the index is written, and the same command goes on from
    there after a stop.

    With --by-camera features are compared as METABIN.TEST.CAMERA_STANDARDIZATION evaluates them,
    less what the images of a camera have in common. A manifest or a data set says which camera took
    an image, --camera which one took all of a folder. The index is flat.
    """
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gallery", help="folder of images, manifest (.csv) or data set")
    source.add_argument("--features", type=Path, help=".npy file, one row for each image")
    parser.add_argument("--ids", type=Path, help="text file with a line for each of --features")
    parser.add_argument("--metric", choices=METRICS, help="of --features (cosine)")
    parser.add_argument("--by-camera", action="store_true", help="standardize features by camera")
    _cameras(parser)
    _camera(parser)
    _config(parser, default="", help="the config of the training")
    parser.add_argument("--output", type=Path, required=True, help="the index file to write")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave such images out")
    parser.add_argument("--kind", choices=("auto", *KINDS), default="auto")
    parser.add_argument("--lists", type=int, help="inverted lists")
    parser.add_argument("--probes", type=int, help="lists that a query is compared with")
    parser.add_argument("--bytes", type=int, help="size of a vector's code in ivf-pq")
    parser.add_argument("--training", type=int, help="vectors to learn lists and codes from")
    parser.add_argument("--gpu", action="store_true", help="use Faiss's GPUs")
    _pairs(parser)


def add(parser: ArgumentParser) -> None:
    """Add images to an index, which is as it was until all of them are in it.

    metabin add gallery.index --gallery FOLDER [--skip-unreadable]

    The network is the one that the index was made by. Images that are in the index are left out.
    Features are kept in INDEX.parts until all are there, and the same command goes on from there
    after a stop. Lists and codes stay as they were learned; an index that has grown many times
    over is better made anew.

    What an index by camera compares is that of one made of all images at once. A manifest or a data
    set says which camera took an image, --camera which one took all of a folder.
    """
    parser.add_argument("index", type=Path, help="what `index` wrote")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gallery", help="folder of images, manifest (.csv) or data set")
    source.add_argument("--features", type=Path, help=".npy file, for an index of such")
    parser.add_argument("--ids", type=Path, help="text file with a line for each of --features")
    _cameras(parser)
    _camera(parser)
    parser.add_argument("--skip-unreadable", action="store_true", help="leave such images out")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs for the network")


def remove(parser: ArgumentParser) -> None:
    """Remove images from an index, whether their files are still there or not.

    metabin remove gallery.index IMAGE ... [--list FILE]

    Images are named by their paths, or as the index has them: relative to the gallery's folder, or
    by their identifiers. Where the index has not all of them, none is removed.
    """
    parser.add_argument("index", type=Path, help="what `index` wrote")
    parser.add_argument("images", nargs="*", help="paths or names")
    parser.add_argument("--list", type=Path, help="text file with a path or name in each line")


def merge(parser: ArgumentParser) -> None:
    """Merge indexes of one network: the first, and behind its images those of the others.

    metabin merge one.index two.index [...] --output all.index

    Lists, codes and threshold are the first's. Images that are in several are there once.
    """
    parser.add_argument("index", type=Path, help="what `index` wrote")
    parser.add_argument("others", type=Path, nargs="+", metavar="other")
    parser.add_argument("--output", type=Path, required=True, help="may be one of them")


def query(parser: ArgumentParser) -> None:
    """Ask an index for the gallery images nearest to some images: a table and a contact sheet.

    metabin query gallery.index IMAGE_OR_FOLDER ... [--top 10] [--output found.csv]
    metabin query gallery.index IMAGE_OR_FOLDER ... --one-person [--output found.json]

    The network is the one that the index was made by, with the config that the index has kept. In
    the table a name that a spreadsheet would take for a formula has an apostrophe in front.

    With a threshold, which `metabin threshold` writes into the index, the column `decision` says of
    each image whether it is a "match" or "too far"; where none is a match it says "nobody". On the
    contact sheet a line stands where the threshold is.

    With --one-person all images together are one query, by the mean of their features. A distance
    is the mean of the images' distances, so that a threshold is used as for one image.

    An index by camera is asked with the camera of each image: --camera says it of files and
    folders; a manifest in their place, of which the queries are taken, says it itself. The index
    must have images of that camera. Its table has two more columns at the end, `query_camera` and
    `camera`: which one took the query (of several images of one person all of theirs), and which
    one the gallery image. JSON has `cameras`, one for each image of a query, and `camera`.
    """
    parser.add_argument("index", type=Path, help="what `index` wrote")
    parser.add_argument(
        "queries",
        nargs="+",
        help="images, folders of images and manifests; or a .npy file of features",
    )
    _camera(parser)
    parser.add_argument("--top", type=int, default=10, help="gallery images for each query")
    parser.add_argument("--one-person", action="store_true", help="all images show one person")
    parser.add_argument("--output", type=Path, default=Path("found.csv"), help=".json for JSON")
    parser.add_argument("--sheet", type=Path, help="contact sheet (OUTPUT with suffix .png)")
    parser.add_argument("--sheet-rows", type=int, default=20, help="first queries on the sheet")
    parser.add_argument("--gallery-folder", default="", help="where the gallery's images are now")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="DISTANCE",
        help="below which it is the same person (the index's); inf for any",
    )
    parser.add_argument("--probes", type=int, help="lists that a query is compared with")
    parser.add_argument("--gpu", action="store_true", help="use Faiss's GPUs")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs for the network")


def threshold(parser: ArgumentParser) -> None:
    """Find from which distance on an index has nobody like a query, and write it into the index.

    metabin threshold --index gallery.index --dataset NAME_OR_MANIFEST
        [--false-match-rate 0.001] [--opts KEY VALUE ...]

    The data set has queries and a gallery of people who are known, best of the same cameras; of
    several splits it is the first. The threshold is the distance below which the wanted share of
    its comparisons of different people lie. How far other people would move it is found by drawing
    the people anew, with replacement.

    With an index by camera the images are standardized by the index's statistics, so that they must
    be of its cameras.
    """
    parser.add_argument("--index", type=Path, required=True, help="what `index` wrote")
    parser.add_argument("--dataset", required=True, help="a name of DATASETS.TESTS, or a manifest")
    parser.add_argument(
        "--false-match-rate",
        type=float,
        default=1e-3,
        metavar="SHARE",
        help="of the comparisons of different people (%(default)s)",
    )
    parser.add_argument("--resamplings", type=int, default=500, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the resamplings")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs for the network")


def ranked(parser: ArgumentParser) -> None:
    """Draw the ranked galleries of a data set's queries, right matches green, wrong ones red.

    metabin ranked --config CONFIG --dataset NAME [--which worst] [--queries 6]
        [--output ranked.png] MODEL.WEIGHTS CHECKPOINT [KEY VALUE ...]

    NAME is a registered data set or a manifest; of several splits it is the first. Beside
    ranked.png it leaves ranked.csv. Gallery images of the query's identity by its camera are left
    out, as in evaluation; TEST.AQE and TEST.RERANK are not applied.
    """
    _config(parser, required=True)
    parser.add_argument("--dataset", required=True, help="a name of DATASETS.TESTS")
    parser.add_argument("--queries", type=int, default=6, help="how many")
    parser.add_argument("--which", choices=("spread", "worst", "random"), default="spread")
    parser.add_argument("--seed", type=int, default=0, help="of --which random")
    parser.add_argument("--ids", type=_numbers, help="identities instead, 3,17 for example")
    parser.add_argument("--top", type=int, default=10, help="gallery images for each query")
    parser.add_argument("--output", type=Path, default=Path("ranked.png"))
    _pairs(parser)


def plot(parser: ArgumentParser) -> None:
    """Draw a figure of trained networks or of trainings, with its numbers as CSV.

    metabin plot embeddings | gates | gate-gradients | training
    """
    figures = {
        "embeddings": embeddings,
        "gates": gates,
        "gate-gradients": gate_gradients,
        "training": training,
    }
    add_commands(parser, "figure", figures)


def embeddings(parser: ArgumentParser) -> None:
    """Map query and gallery features of unseen targets by t-SNE, networks side by side (Fig. 3).

    metabin plot embeddings CHECKPOINT [CHECKPOINT ...] [--labels NAME ...] [--lines]
        [--datasets NAME ...] [--identities 40] [--output embeddings.png] [--opts KEY VALUE ...]

    Each network has the config that its training left beside its checkpoint. Beside embeddings.png
    it leaves embeddings.csv, the place of each image, and embeddings_distances.csv: how far queries
    are from their matches and from all gallery images, over the whole of each target's first split.
    """
    _checkpoints(parser, "embeddings.png", has_labels=True)
    parser.add_argument("--datasets", nargs="+", help="targets (DATASETS.TESTS of the first)")
    parser.add_argument("--identities", type=int, default=40, help="how many to map; 0 for all")
    parser.add_argument("--lines", action="store_true", help="join queries and their matches")
    _config(parser, default="", help="config.yaml beside each checkpoint")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs for the configs")


def gates(parser: ArgumentParser) -> None:
    """Draw the gates of trained networks, and write the numbers behind the figure (Fig. 4).

    metabin plot gates CHECKPOINT [CHECKPOINT ...] [--labels NAME ...] [--output gates.png]

    Beside gates.png it leaves gates.csv (each layer), gates_parts.csv (the network, and the
    shallow, middle and deep third of its layers) and gates_histogram.csv (all gates of the
    network).
    """
    _checkpoints(parser, "gates.png", has_labels=True)


def gate_gradients(parser: ArgumentParser) -> None:
    """Draw which way each meta-train loss moves the gates of a trained network (Fig. 5).

    metabin plot gate-gradients CHECKPOINT [CHECKPOINT ...] [--batches 20]
        [--config CONFIG] [--output gate_gradients.png] [--opts KEY VALUE ...]

    Every term of METABIN.META_TRAIN_LOSSES is differentiated alone, on meta-train mini-batches of
    the training data, the same for all checkpoints. Checkpoints of one training give a curve over
    its iterations. Numbers: gate_gradients.csv, and gate_gradients_layers.csv by layer.
    """
    _checkpoints(parser, "gate_gradients.png", has_labels=False)
    parser.add_argument("--batches", type=int, default=20, help="mini-batches to average over")
    _config(parser, default="", help="config.yaml beside the checkpoint")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs for the config")


def training(parser: ArgumentParser) -> None:
    """Draw the curves of one or more trainings: losses, step sizes, accuracies on the targets.

    metabin plot training OUTPUT_DIR [OUTPUT_DIR ...] [--labels NAME ...]
        [--scalars 'mtrain_*' ...] [--output training.png]

    They are read from each run's metrics.json, to which fastreid writes after every epoch and every
    200 iterations, and which has all evaluations but the last. Numbers: training.csv.
    """
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="an OUTPUT_DIR")
    _labels(parser)
    parser.add_argument("--scalars", nargs="+", help="names, * for anything (the usual ones)")
    parser.add_argument("--output", type=Path, default=Path("training.png"))


def export(parser: ArgumentParser) -> None:
    """Export a trained network as an ONNX file, with its normalization folded into convolutions.

    metabin export --config MetaBIN.yml --output model.onnx
        MODEL.WEIGHTS logs/metabin/model_final.pth [KEY VALUE ...]

    The file takes `images`: RGB, float32, 0 to 255, (batch, 3, height, width), resized as in
    evaluation (bicubic, INPUT.SIZE_TEST; with INPUT.CROP the middle of that). It gives `features`:
    what evaluation compares by TEST.METRIC, without TEST.FLIP. METABIN.FOLD_TOLERANCE takes gates
    that are near 1 for 1.
    """
    _config(parser, default="", help="the config of the training")
    parser.add_argument("--output", required=True, help="the ONNX file to write")
    parser.add_argument(
        "--opset",
        type=int,
        choices=OPSETS,
        default=OPSETS[-1],
        help="version of ONNX's operators; TensorRT 8 reads 17 (default: %(default)s)",
    )
    _pairs(parser)


def convert(parser: ArgumentParser) -> None:
    """Convert a checkpoint of the authors' code for this project, or back.

    metabin convert INPUT OUTPUT                # from the authors' code
    metabin convert INPUT OUTPUT --to authors   # for the authors' code

    Values are not touched: OUTPUT has the same tensors, in the same order, under other names.
    Converting there and back gives the same checkpoint, without the entries that are named as
    dropped.
    """
    parser.add_argument("input", help="the checkpoint to convert")
    parser.add_argument("output", help="the file to write; one that is there is replaced")
    parser.add_argument("--to", choices=["plugin", "authors"], default="plugin")


def demo(parser: ArgumentParser) -> None:
    """The demo: train BN and MetaBIN on drawn people, evaluate, search: a check that it all works.

    metabin demo [--output logs/demo] [--seeds 1,2] [--resume] [KEY VALUE ...]

    With each seed a first training makes what stands in for ImageNet weights, of people drawn with
    another seed, and both methods start from it. The table, whose deviations are over the seeds,
    its numbers and three figures are left in the output folder. Ctrl-C saves the run at hand;
    --resume goes on there.

    Without FASTREID_DATASETS the people are drawn first, into datasets/demo and, for the first
    trainings, into the folder of --pretraining-data. With it the data are taken as they are.
    """
    parser.add_argument("--output", type=Path, default=Path("logs/demo"))
    parser.add_argument("--seeds", type=_numbers, default=[1, 2], help="runs of a method: 1,2")
    parser.add_argument(
        "--pretraining-data",
        default="datasets/demo-pretraining",
        help="FASTREID_DATASETS of the first runs",
    )
    parser.add_argument("--resume", action="store_true", help="go on where it was stopped")
    _pairs(parser, "KEY VALUE pairs for all runs")


def add_commands(parser: ArgumentParser, chosen: str, commands: Mapping[str, Describe]) -> None:
    """Give a parser commands.

    Args:
        parser: of the words in front of them.
        chosen: name of the option that will hold the chosen one.
        commands: what describes each of them, by its name.
    """
    choice = parser.add_subparsers(dest=chosen, required=True, metavar=chosen.upper())
    for name, describe in commands.items():
        text = inspect.getdoc(describe) or ""
        added = choice.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        describe(added)


def _config(
    parser: argparse._ActionsContainer,
    *,
    help: str = "a config's path, or the name of a recipe",
    default: str | None = None,
    required: bool = False,
) -> None:
    parser.add_argument(
        "--config-file",
        "--config",
        type=config_path,
        default=default,
        required=required,
        metavar="FILE",
        help=help,
    )


def _cameras(parser: ArgumentParser) -> None:
    parser.add_argument("--cameras", type=Path, help="the same with cameras, of an index by camera")


def _camera(parser: ArgumentParser) -> None:
    # As in a manifest, spaces around a name are no part of it.
    parser.add_argument(
        "--camera", type=str.strip, default="", metavar="NAME", help="which one took the images"
    )


def _pairs(parser: ArgumentParser, help: str = "KEY VALUE pairs") -> None:
    parser.add_argument("opts", nargs=REMAINDER, type=_of_pairs, help=help)


def _checkpoints(parser: ArgumentParser, output: str, *, has_labels: bool) -> None:
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="checkpoint")
    if has_labels:
        _labels(parser)
    parser.add_argument("--output", type=Path, default=Path(output))


def _labels(parser: ArgumentParser) -> None:
    parser.add_argument("--labels", nargs="+", help="a name for each (the end of its path)")


def _of_pairs(word: str) -> str:
    # No value begins with two dashes; a negative number has one.
    if word.startswith("--"):
        raise argparse.ArgumentTypeError(
            f"{word} is behind the KEY VALUE pairs; give options before them"
        )
    return word


def _numbers(text: str) -> list[int]:
    try:
        # One that is named twice is meant once.
        return list(dict.fromkeys(int(number) for number in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of whole numbers; give 3,17 for example"
        ) from None


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number of 0 or more; give 4 for example"
        )
    return int(text)
