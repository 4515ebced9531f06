"""Registers the plugin, without which fastreid cannot be imported, and settles hypothesis."""

import logging
import os
import signal

import pytest
import torch
from hypothesis import HealthCheck, settings

import metabin_plugin
from tests.campaigns import EXHAUSTIVE

# Without a GPU the kernels are interpreted, which Triton decides when it is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A busy machine is no reason to fail, and a test must not depend on the run's luck.
settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

# Networks this small are slower on several threads, and far slower on a busy machine.
torch.set_num_threads(1)
# For the processes that tests start: with as many threads as cores they wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

metabin_plugin.register()

# A shell starts its background jobs with Ctrl-C ignored, which tests and their children inherit.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Handed out first, so that no worker begins with a long file when the others have nothing left.
LONGEST = (
    *("test_readme", "test_make_backbone_table", "test_wheel", "test_golden_steps"),
    *("test_config_changes", "test_benchmark_gpu", "test_launching", "test_export_onnx"),
    *("test_resume", "test_mutations", "test_steps", "test_optional_faiss", "test_spawning"),
    *("test_augmining_training", "test_any_config", "test_newcomer", "test_stop_signals"),
    *("test_train_net", "test_kill_while_writing"),
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first; leave out long campaigns, and what needs a GPU without one."""
    if not EXHAUSTIVE:
        long = [item for item in items if item.get_closest_marker("exhaustive")]
        items[:] = [item for item in items if item not in set(long)]
        config.hook.pytest_deselected(items=long)
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take the config nodes of projects out again, which importing their tests has added.

    A run's config would have them, and no tool outside the project can read it then.
    """
    from fastreid.config.defaults import _C

    for node in ("AUGMINING", "DIMN"):
        _C.pop(node, None)


@pytest.fixture
def plugin_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> pytest.LogCaptureFixture:
    """What the plugin logs, which does not reach pytest's handler once fastreid has set it up."""
    monkeypatch.setattr(logging.getLogger("metabin_plugin"), "parent", logging.getLogger())
    return caplog
