"""Whose the folder of a run is: nothing in it is written, or taken, for another run's."""

from __future__ import annotations

import os
import shutil
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from metabin_plugin.errors import RunFolderError
from metabin_plugin.run_folder import (
    begin_run,
    end_run,
    prepare_folder,
    trace_of_run,
    write_config,
)
from tests.processes import context, start

LINKED = (
    *("config.yaml", "log.txt", "log.txt.rank1", "metrics.json", "last_checkpoint", ".lock"),
    *("config.yaml.partial", "last_checkpoint.partial", "model_final.pth", "results.json"),
    *("model_0003.pth.partial", "results.csv", "results.csv.partial", "events.out.tfevents.1.a"),
)


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("to", ["file", "missing", "folder"])
def test_links_among_a_runs_files_are_refused(tmp_path: Path, name: str, to: str) -> None:
    folder, target = tmp_path / "out", tmp_path / "target"
    folder.mkdir()
    if to == "folder":
        target.mkdir()
    elif to == "file":
        target.write_text("precious")
    (folder / name).symlink_to(target)
    for take in (prepare_folder, lambda path: begin_run(path, resumes=True)):
        with pytest.raises(RunFolderError, match=rf"{name} is a link.* remove it, or"):
            take(str(folder))
    assert to != "file" or target.read_text() == "precious"
    assert sorted(os.listdir(folder)) == [name]


def test_pipes_are_refused_and_other_files_and_links_left_alone(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    folder = str(tmp_path / "out")
    (tmp_path / "real" / "data").symlink_to(tmp_path)
    (tmp_path / "real" / "imagenet.pth").symlink_to(tmp_path / "weights")
    begin_run(folder, resumes=False)
    end_run(folder)
    os.mkfifo(tmp_path / "real" / "log.txt")
    with pytest.raises(RunFolderError, match=r"log\.txt is not a file"):
        prepare_folder(folder)


@pytest.mark.parametrize(
    ("name", "content", "is_run"),
    [
        ("model_final.pth", "", True),
        ("model_0003.pth", "", True),
        ("model_iter_0000007.pth", "", True),
        ("last_checkpoint", "model_best.pth", True),
        ("metrics.json", '{"iteration": 1}\n', True),
        ("metrics.json", "", False),
        ("config.yaml", "A: 1", False),
        ("log.txt", "a line", False),
        ("imagenet.pth", "", False),
        ("run.log", "", False),
    ],
)
def test_a_folder_that_holds_a_run_begins_no_other(
    tmp_path: Path, name: str, content: str, is_run: bool
) -> None:
    (tmp_path / name).write_text(content)
    assert trace_of_run(str(tmp_path)) == (name if is_run else "")
    if is_run:
        with pytest.raises(RunFolderError, match=rf"OUTPUT_DIR .* holds a run.*{name}.*--resume"):
            begin_run(str(tmp_path), resumes=False)
    else:
        begin_run(str(tmp_path), resumes=False)
    begin_run(str(tmp_path), resumes=True)
    end_run(str(tmp_path))
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize("folder", ["a file/out", "a file", "x" * 300, "a\0b"])
def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a file").write_text("precious")
    for take in (prepare_folder, lambda path: begin_run(path, resumes=False)):
        with pytest.raises(RunFolderError, match=r"OUTPUT_DIR .* cannot be written .*; give"):
            take(str(tmp_path / folder))
    assert (tmp_path / "a file").read_text() == "precious"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder that root cannot write to")
def test_a_folder_that_cannot_be_written_is_one_sentence() -> None:
    for folder in ("/proc/self", "/proc/new"):
        with pytest.raises(RunFolderError, match=r"OUTPUT_DIR .* cannot be written"):
            begin_run(folder, resumes=False)
    with pytest.raises(RunFolderError, match=r"OUTPUT_DIR .* cannot be written"):
        write_config("/proc/self", "A: 1")


@pytest.mark.parametrize("resumes", [True, False])
def test_what_a_killed_run_left_of_a_checkpoint_is_removed(tmp_path: Path, resumes: bool) -> None:
    half = tmp_path / "model_0003.pth.0123abcd.partial"
    others = ["results.json.0123abcd.partial", "other.pth.0123abcd.partial"]
    for path in (half, *(tmp_path / name for name in others)):
        path.write_text("half")
    prepare_folder(str(tmp_path))
    assert half.exists()
    begin_run(str(tmp_path), resumes)
    end_run(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted([".lock", *others])


def hold(folder: Path, ours: Connection) -> None:
    begin_run(str(folder), resumes=True)
    # As the workers of a loader are.
    if os.fork() == 0:
        ours.recv()
        os._exit(0)
    ours.send("begun")
    ours.recv()
    end_run(str(folder))
    ours.send("ended")
    ours.recv()


@pytest.mark.parametrize("resumes", [True, False])
def test_two_runs_at_a_time_are_refused(tmp_path: Path, resumes: bool) -> None:
    ours, theirs = context().Pipe()
    holder = start(hold, tmp_path, theirs)
    assert ours.recv() == "begun"
    (tmp_path / "model_0000.pth").write_text("its own")
    (tmp_path / "model_0001.pth.0123abcd.partial").write_text("its own")
    with pytest.raises(RunFolderError, match="in use by a run that is still going on"):
        begin_run(str(tmp_path), resumes)
    prepare_folder(str(tmp_path))
    assert (tmp_path / "model_0001.pth.0123abcd.partial").exists()
    holder.kill()
    holder.join()
    # Though a process that it forked is still there.
    (tmp_path / "model_0000.pth").unlink()
    begin_run(str(tmp_path), resumes)
    begin_run(str(tmp_path), resumes)
    end_run(str(tmp_path))
    ours.close()


def test_a_folder_is_given_back(tmp_path: Path) -> None:
    ours, theirs = context().Pipe()
    begin_run(str(tmp_path), resumes=False)
    end_run(str(tmp_path))
    end_run(str(tmp_path))
    holder = start(hold, tmp_path, theirs)
    assert ours.recv() == "begun"
    ours.send("end")
    holder.kill()
    holder.join()


def test_a_folder_that_was_removed_is_taken_anew(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    begin_run(str(folder), resumes=False)
    shutil.rmtree(folder)
    begin_run(str(folder), resumes=False)
    assert (folder / ".lock").exists()
    end_run(str(folder))
