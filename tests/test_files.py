from __future__ import annotations

import errno
import os
import re
import secrets
import signal
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import pytest

from metabin_plugin.errors import MetaBINError
from metabin_plugin.files import check_file, is_file_name, open_regular, replace_file
from tests import processes
from tests.full_disk import full_disk


def test_the_new_content_takes_the_old_ones_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a much longer old content")
    replace_file(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_until_it_is_complete_the_old_content_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
        (partial,) = tmp_path.glob("file.*.partial")
        assert partial.read_bytes() == b"new"

    replace_file(path, write)
    assert path.read_bytes() == b"new"


def test_content_reaches_the_disk_before_its_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "file", []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(handle: int) -> None:
        file = Path(f"/proc/self/fd/{handle}").resolve()
        assert file.is_dir() or file.read_bytes() == b"new"
        done.append(file.name)
        fsync(handle)

    def seen_replace(source: str, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    replace_file(path, lambda file: file.write(b"new"))
    assert re.fullmatch(r"file\.[0-9a-f]{8}\.partial", done[0])
    assert done[1:] == ["rename", tmp_path.name]


def test_a_relative_path_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    replace_file("file", lambda file: file.write(b"new"))
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("fails", [False, True])
def test_a_file_that_is_being_written_can_be_written_meanwhile(tmp_path: Path, fails: bool) -> None:
    path = tmp_path / "file"

    def write(file: BinaryIO) -> None:
        file.write(b"slow ")
        file.flush()
        replace_file(path, lambda other: other.write(b"fast"))
        assert path.read_bytes() == b"fast"
        if fails:
            raise ValueError
        file.write(b"one")

    with pytest.raises(ValueError) if fails else nullcontext():
        replace_file(path, write)
    assert path.read_bytes() == (b"fast" if fails else b"slow one")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError("no content"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        raise error

    with pytest.raises(type(error)):
        replace_file(path, write)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with full_disk(path), pytest.raises(OSError) as failure:
        replace_file(path, lambda file: file.write(b"new" * 100_000))
    assert failure.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_folder_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "absent" / "file", lambda file: file.write(b"new"))


def test_a_file_system_that_cannot_sync_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def only_files(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    replace_file(tmp_path / "file", lambda file: file.write(b"new"))
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("target", ["precious", "absent"])
def test_a_link_is_replaced_and_not_followed(tmp_path: Path, target: str) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "precious").write_text("precious")
    (inside / "file").symlink_to(outside / target)
    replace_file(inside / "file", lambda file: file.write(b"new"))
    assert (inside / "file").read_bytes() == b"new" and not (inside / "file").is_symlink()
    assert os.listdir(inside) == ["file"] and os.listdir(outside) == ["precious"]
    assert (outside / "precious").read_text() == "precious"


def test_a_link_with_the_name_of_the_unfinished_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "precious").write_text("precious")
    monkeypatch.setattr(secrets, "token_hex", lambda count: "5a" * count)
    link = tmp_path / "file.5a5a5a5a.partial"
    link.symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        replace_file(tmp_path / "file", lambda file: file.write(b"new"))
    assert link.is_symlink() and link.read_text() == "precious"
    assert not (tmp_path / "file").exists()


def _write_until_killed(path: str) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    replace_file(path, write)


def test_what_killed_writers_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    path, others = tmp_path / "file", ["file.partial", "file.txt.0123abcd.partial", "file.0123abcd"]
    for other in others:
        (tmp_path / other).write_text("another")
    for _ in range(2):
        process = processes.start(_write_until_killed, str(path))
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert len(list(tmp_path.glob("file.????????.partial"))) == 1
    replace_file(path, lambda file: file.write(b"new"))
    assert sorted(os.listdir(tmp_path)) == sorted(["file", *others])
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_device_or_pipe_is_not_replaced(tmp_path: Path, through_a_link: bool) -> None:
    """As root a rename would put a file in the place of /dev/null, or of the link /dev/stdout."""
    pipe, path = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    (path.symlink_to if through_a_link else path.hardlink_to)(pipe)
    with pytest.raises(OSError, match="Not a regular file"):
        replace_file(path, lambda file: file.write(b"new"))
    with pytest.raises(
        MetaBINError, match=r"--output .* is not a regular file; give the path of one"
    ):
        check_file(path, "--output", MetaBINError)
    assert path.is_fifo() and path.is_symlink() == through_a_link
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


def test_a_regular_file_is_opened_by_any_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content\r\n")
    (tmp_path / "link").symlink_to("file")
    for path in (tmp_path / "file", str(tmp_path / "link")):
        with open_regular(path) as file:
            assert file.read() == b"content\r\n"


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "link to a pipe", "absent"])
def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "name"
    os.mkfifo(tmp_path / "pipe")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to a pipe":
        path.symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "socket":
            # A socket's path is short.
            monkeypatch.chdir(tmp_path)
            server.bind("name")
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError) as caught:
            open_regular(path)
    assert caught.value.filename == str(path) and caught.value.strerror
    assert len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.mark.parametrize("name", ["model_final.pth", "ü 日本.png", "-rf", "..."])
def test_names_inside_a_folder(name: str) -> None:
    assert is_file_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/b", "/etc/passwd", "../x", "a\\b", "C:x"),
        *("a\nb", "\x1b[2J", "\udcff", "a\0b", None, 3, b"file", ["file"]),
    ],
)
def test_what_is_no_name_inside_a_folder(name: object) -> None:
    assert not is_file_name(name)
