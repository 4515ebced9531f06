from __future__ import annotations

import pytest

from tests.compat.processes import run_python

PRINT_STATE = """
import sys
import __main__
print(__name__, __file__, sys.argv, sys.path[0], __main__.__dict__ is globals())
"""

# What a script for plain fastreid looks like: it knows nothing of the plugin.
ALL_REDUCE = """
import sys
import torch
import torch.distributed as dist
from fastreid.engine import launch
from fastreid.utils import comm

class Number:
    value = 10.0

def main(number):
    total = torch.tensor(number.value + comm.get_rank())
    dist.all_reduce(total)
    ranks = comm.gather(comm.get_rank())
    if comm.is_main_process():
        print("sum", total.item(), "ranks", ranks, sys.argv[1:], flush=True)

if __name__ == "__main__":
    launch(main, 2, args=(Number(),))
"""

USER_ERROR = """
from fastreid.engine import launch

def main():
    from metabin_plugin.errors import DatasetError
    raise DatasetError("datasets/x: no such folder; create it.")

if __name__ == "__main__":
    launch(main, 2)
"""


def write(tmp_path, text: str) -> str:
    path = tmp_path / "script.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("arguments", [(), ("-h",)])
def test_usage_without_a_script(arguments):
    run = run_python("-m", "metabin_plugin", *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "usage: python -m metabin_plugin SCRIPT [ARGS...]\n"


def test_a_missing_script_is_named():
    run = run_python("-m", "metabin_plugin", "no/such/script.py")
    assert run.returncode == 2
    assert "no/such/script.py" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_a_script_sees_what_python_itself_would_show_it(tmp_path):
    script = write(tmp_path, PRINT_STATE)
    plain = run_python(script, "--key", "value")
    plugged = run_python("-m", "metabin_plugin", script, "--key", "value")
    assert plugged.stdout == plain.stdout != ""


@pytest.mark.slow
def test_spawned_processes_find_the_scripts_functions_and_the_plugin(tmp_path):
    run = run_python("-m", "metabin_plugin", write(tmp_path, ALL_REDUCE), "--option")
    assert run.stdout == "sum 21.0 ranks [0, 1] ['--option']\n", run.stderr


@pytest.mark.slow
def test_an_error_in_a_spawned_process_is_one_sentence(tmp_path):
    run = run_python("-m", "metabin_plugin", write(tmp_path, USER_ERROR))
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "error: datasets/x: no such folder; create it."
    assert "Traceback" not in run.stderr
