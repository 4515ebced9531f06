"""The commands and Python blocks of README files, and a folder in which they can be run."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests import processes
from tests.forking import fork_the_commands_of_the_demo

ROOT = Path(__file__).parents[2]
# Two pages are generated: their commands are tested beside what generates them.
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / ".github" / "CONTRIBUTING.md",
    *sorted(
        set((ROOT / "configs").glob("*.md"))
        - {ROOT / "configs/KEYS.md", ROOT / "configs/BACKBONES.md"}
    ),
    *sorted((ROOT / "projects").glob("**/README.md")),
    ROOT / "tools" / "README.md",
]
# All that is written for a reader, for links.
PAGES = sorted(
    {
        *DOCUMENTS,
        *ROOT.glob("*.md"),
        *(
            p
            for room in ("configs", "metabin_plugin", "projects", "tests")
            for p in (ROOT / room).glob("**/*.md")
        ),
    }
)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|src=\"([^\"]+)\"")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )?(?:python|pip|make|torchrun|export) [^`]+)`")
_SETTING = re.compile(r"[A-Z_]+=")


class Documented(NamedTuple):
    """A command of a document.

    Attributes:
        document: its name, for messages.
        settings: environment variables in front of it.
        words: program and arguments, without quotes.
    """

    document: str
    settings: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """The command in one line."""
        return " ".join(" ".join((*self.settings, *self.words)).split())


def blocks(path: Path, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return [code for kind, code in _FENCE.findall(path.read_text("utf-8")) if kind == language]


def commands(path: Path) -> list[Documented]:
    """Commands of a document: those of its bash blocks, and those in its sentences."""
    lines = [line for block in blocks(path, "bash") for line in joined_lines(block)]
    lines += map(shlex.split, _INLINE.findall(_FENCE.sub("", path.read_text("utf-8"))))
    document = str(path.relative_to(ROOT))
    return [documented(document, words) for words in lines if words]


def links(path: Path) -> list[str]:
    """Addresses that a page links to, or draws."""
    text = _FENCE.sub("", path.read_text("utf-8"))
    return [first or second for first, second in _LINK.findall(text)]


def anchors(path: Path) -> set[str]:
    """Names under which a page's headings can be linked to, as GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", path.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def documented(document: str, words: list[str]) -> Documented:
    """A command from its words."""
    count = 0
    while count < len(words) and _SETTING.match(words[count]):
        count += 1
    return Documented(document, tuple(words[:count]), tuple(words[count:]))


def joined_lines(block: str) -> list[list[str]]:
    """Words of each command of a shell script, wherever its lines are broken."""
    found: list[list[str]] = []
    unfinished = ""
    for line in block.replace("\\\n", " ").splitlines():
        unfinished += f"{line}\n"
        try:
            found.append(shlex.split(unfinished, comments=True))
        except ValueError:
            # Inside quotes, which the next line goes on.
            continue
        unfinished = ""
    assert not unfinished, unfinished
    return found


def commands_of_make(target: str) -> list[Documented]:
    """What ``make`` runs for a target behind the installation, with the words of a user."""
    dry = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [shlex.split(line) for line in dry.stdout.splitlines() if " tools/" in line]
    return [documented(f"make {target}", ["python", *words[1:]]) for words in lines]


def workspace(folder: Path) -> Path:
    """A folder that looks like the repository's to a command that is run in it."""
    for name in ("configs", "metabin_plugin", "projects", "tools"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(words: tuple[str, ...], folder: Path, settings: dict[str, str]) -> str:
    """Run a Python script as in a process of its own, in milliseconds instead of seconds.

    Args:
        words: ``python``, the script or ``-m`` and a module, and arguments; or ``metabin`` and its.
        folder: where to run it.
        settings: environment variables.

    Returns:
        What it printed.

    Raises:
        AssertionError: its exit status is not 0; with what it printed.
    """
    if words[0] == "metabin":
        words = ("python", "-m", "metabin_plugin.cli.main", *words[1:])
    assert words[0] == "python", words
    is_demo = words[1] == "tools/demo.py"
    before = fork_the_commands_of_the_demo if is_demo else None
    done = processes.run_script(*words[1:], folder=folder, settings=settings, before=before)
    text = done.stdout + done.stderr
    status = done.returncode
    assert status == 0, f"{' '.join(words)}\nended with {status}:\n{text[-3000:]}"
    return text
