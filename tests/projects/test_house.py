"""The table of the house, of an invented one whose numbers are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_script

SCRIPT = Path(__file__).parents[2] / "projects" / "Benchmarks" / "house.py"

HOUSE = {
    # A circle of three, one step of it relative and one through the package's __init__.
    "metabin_plugin/__init__.py": "",
    "metabin_plugin/ring/__init__.py": "from metabin_plugin.ring.one import first\n",
    "metabin_plugin/ring/one.py": "from . import two\n\nfirst = two\n",
    "metabin_plugin/ring/two.py": "from metabin_plugin.ring import first\n",
    # Half of it is inside a function, so that Python meets no circle when it imports them.
    "metabin_plugin/late.py": "import json\nimport metabin_plugin.early\n",
    "metabin_plugin/early.py": "def call():\n    from .late import json\n\n    return json\n",
    # For a type checker alone: neither a circle nor an importer.
    "metabin_plugin/typed.py": (
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import metabin_plugin.user\n"
    ),
    "metabin_plugin/user.py": "from metabin_plugin.typed import TYPE_CHECKING\n",
    # Scripts have modules of one name, each its own.
    "tools/show.py": "from shared import name\nfrom metabin_plugin import typed\n",
    "tools/shared.py": "name = 1\n",
    "projects/Own/run.py": "import shared\n",
    "projects/Own/shared.py": "try:\n    import numpy\nexcept ImportError:\n    raise\n",
    # Tests are no part of the house.
    "tests/test_user.py": "import metabin_plugin.user\n",
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("house")
    for path, text in HOUSE.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    written = root / "table.json"
    command = [sys.executable, str(SCRIPT), "--no-trace", "--root", str(root)]
    subprocess.run([*command, "--json", str(written)], check=True, capture_output=True)
    return json.loads(written.read_text())


def test_modules_and_lines(table: dict[str, Any]) -> None:
    assert table["modules"] == {"metabin_plugin": 8, "tools": 2, "projects": 2, "all": 12}
    assert table["lines"]["tools"] == 3
    assert table["lines"]["all"] == sum(
        text.count("\n") for path, text in HOUSE.items() if not path.startswith("tests/")
    )


def test_modules_with_one_importer(table: dict[str, Any]) -> None:
    assert set(table["imported once"]) == {
        "metabin_plugin/ring/__init__.py",
        "metabin_plugin/ring/one.py",
        "metabin_plugin/ring/two.py",
        "metabin_plugin/late.py",
        "metabin_plugin/early.py",
        "tools/shared.py",
        "projects/Own/shared.py",
    }
    assert table["modules with exactly one importer"]["metabin_plugin"] == 5


def test_circles(table: dict[str, Any]) -> None:
    ring = {f"metabin_plugin/ring/{name}.py" for name in ("__init__", "one", "two")}
    late = {"metabin_plugin/late.py", "metabin_plugin/early.py"}
    assert [set(circle) for circle in table["circles"]] == [ring]
    with_functions = [set(circle) for circle in table["circles with imports inside functions"]]
    assert sorted(with_functions, key=len) == [late, ring]
    assert table["imports inside functions alone"]["all"] == 1


@pytest.mark.slow
def test_traced_calls(tmp_path: Path) -> None:
    written = tmp_path / "table.json"
    done = run_script(SCRIPT, "--json", written)
    assert done.returncode == 0, done.stderr
    traced = json.loads(written.read_text())["traced"]
    calls = {name: trace["calls"] for name, trace in traced.items()}
    rooms = {
        name: {Path(file).parts[0].removesuffix(".py") for file in files}
        for name, files in calls.items()
    }
    # A whole iteration has a forward pass and both steps' losses; an evaluation has neither loss.
    assert {"norm", "losses", "meta"} <= rooms["iteration"]
    assert not {"losses", "meta"} & rooms["evaluation"]
    assert {"norm", "ranking", "evaluation"} <= rooms["call of test"]
    # What the trainer's test enters is a part of the evaluation that calls it.
    assert calls["call of test"].keys() < calls["evaluation"].keys()
