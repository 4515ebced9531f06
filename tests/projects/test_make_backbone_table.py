"""The tables of backbones: they are those of the outcomes, and the outcomes those of the code."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import backbones
import make_backbone_table
from backbones import (
    END,
    START,
    BackboneTableError,
    Outcome,
    Results,
    family_table,
    page,
    read_results,
    run_all,
    run_trial,
    smallest,
    trial_config,
    with_block,
    write_results,
)
from metabin_plugin.deploy.export import fold_network, image_size, network_to_export
from metabin_plugin.deploy.folding import Folding
from metabin_plugin.modeling.backbones import (
    BACKBONES,
    FAMILIES,
    MOBILENETV2,
    RESNET,
    KnownBackbone,
)
from metabin_plugin.norm import convert_norm, count_gates, gate_parameters
from tests.campaigns import EXHAUSTIVE

COMMITTED = make_backbone_table.OUTCOMES
RESNET18 = KnownBackbone(RESNET, "18x")


@functools.cache
def committed() -> Results:
    return read_results(COMMITTED)


def counted(name: str) -> list[KnownBackbone]:
    """Each depth of a family; and each set of flags with the smallest depth that has it."""
    family = [backbone for backbone in BACKBONES if backbone.name == name]
    if EXHAUSTIVE:
        return family
    with_flags = {b.flags: b for b in reversed(family) if b.flags}
    return [*(b for b in family if not b.flags), *with_flags.values()]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_committed_counts_are_those_of_the_networks(name: str) -> None:
    for backbone in counted(name):
        network = backbone.build()
        with torch.device("meta"), torch.no_grad():
            features = network.eval()(torch.empty(2, 3, 64, 32)).shape[1]
            convert_norm(network, "BIN")
        outcome = committed().outcomes[backbone]
        parameters = sum(parameter.numel() for parameter in network.parameters())
        counts = (outcome.features, outcome.layers, outcome.gates, outcome.parameters)
        assert counts == (features, *count_gates(network), parameters), backbone
        assert features == backbone.features


def test_the_papers_counts_are_among_them() -> None:
    # Section 4.1, and DESIGN's own of the authors' code.
    expected = {
        (MOBILENETV2, "1.4x"): (53, 23_822),
        (MOBILENETV2, "1.0x-paper"): (53, 17_088),
        (RESNET, "50x"): (53, 26_560),
        (RESNET, "18x"): (20, 4_800),
    }
    for (name, depth), counts in expected.items():
        outcome = committed().outcomes[KnownBackbone(name, depth)]
        assert (outcome.layers, outcome.gates) == counts


def test_all_were_trained_evaluated_and_exported() -> None:
    outcomes = committed().outcomes
    assert list(outcomes) == list(BACKBONES)
    assert not [outcome.error for outcome in outcomes.values() if outcome.error]
    assert all(o.trained and o.evaluated and o.exported for o in outcomes.values())


def test_the_committed_tables_are_those_of_the_outcomes(tmp_path: Path) -> None:
    written, readme = tmp_path / "BACKBONES.md", tmp_path / "README.md"
    text = make_backbone_table.README.read_text(encoding="utf-8")
    readme.write_text(text, encoding="utf-8")
    make_backbone_table.main(["write", "--output", str(written), "--readme", str(readme)])
    again = "run projects/Benchmarks/make_backbone_table.py write"
    assert written.read_text(encoding="utf-8") == make_backbone_table.PAGE.read_text("utf-8"), again
    assert readme.read_text(encoding="utf-8") == text, again


def some_results() -> Results:
    done = Outcome(asdict(RESNET18), 512, 20, 4800, 11_000_000, True, True, True, 1.26)
    failed = Outcome(asdict(replace(RESNET18, with_ibn=True)), error="ValueError: a | <b>.")
    return Results("A machine", {replace(RESNET18, with_ibn=True): failed, RESNET18: done})


def test_rows_say_what_came_out() -> None:
    lines = page(some_results()).splitlines()
    rows = [line for line in lines if line.startswith("| `18x`")]
    assert rows[0] == "| `18x` |  | 512 | 20 | 4,800 | 11,000,000 | yes | yes | yes | 1.3 |"
    assert rows[1] == "| `18x` | IBN | 0 | 0 | 0 | 0 | – | – | – | – |"
    failure = r"NAME build_resnet_backbone, DEPTH 18x, WITH_IBN True: ValueError: a \| \<b>."
    assert failure in lines


def test_a_family_is_one_row() -> None:
    results = Results(
        outcomes={
            backbone: Outcome(asdict(backbone), 1, number, 1000, 1, True, number > 0)
            for number, backbone in enumerate(BACKBONES)
        }
    )
    rows = family_table(results).splitlines()[2:]
    assert len(rows) == len(FAMILIES)
    depths = " ".join(f"`{depth}`" for depth in FAMILIES[MOBILENETV2].depths)
    assert (
        rows[0] == f"| MobileNetV2: `{MOBILENETV2}` | {depths} | 0 to 8 | 1,000 | 8 of 9 | 0 of 9 |"
    )


def test_outcomes_are_read_as_written_and_in_the_order_of_the_list(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.json"
    write_results(path, some_results())
    read = read_results(path)
    assert read == some_results()
    assert list(read.outcomes) == [RESNET18, replace(RESNET18, with_ibn=True)]
    assert read_results(tmp_path / "absent.json") == Results()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"machine": "", "outcomes": [{"a": 1}]}'])
def test_another_file_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "outcomes.json"
    path.write_text(content)
    with pytest.raises(
        BackboneTableError, match=r"^--json .*outcomes\.json is no file of outcomes"
    ):
        read_results(path)


def test_missing_outcomes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.json"
    write_results(path, some_results())
    with pytest.raises(BackboneTableError, match=r"no outcome of \d+ backbones \(NAME build_mob"):
        make_backbone_table.main(["write", "--json", str(path)])


@pytest.mark.parametrize(
    "text", ["", f"{START}\n", f"{END}\n{START}\n", f"{START}\n{END}\n{START}\n{END}\n"]
)
def test_a_page_without_its_marks_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(BackboneTableError, match="must have the lines"):
        with_block(path, "x\n")
    with pytest.raises(BackboneTableError, match="cannot be read"):
        with_block(tmp_path / "absent.md", "x\n")


def test_only_what_is_between_the_marks_changes(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"a\n{START}\nold\n{END}\nb\n")
    assert with_block(path, "new\n") == f"a\n{START}\nnew\n{END}\nb\n"


def test_a_run_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tried = tmp_path / "outcomes.json", []

    def fake(backbone: KnownBackbone, exports: bool) -> Outcome:
        tried.append(backbone)
        if len(tried) == 3:
            raise KeyboardInterrupt
        error = "failed" if len(tried) == 2 else ""
        return Outcome(asdict(backbone), trained=True, exported=exports, error=error)

    monkeypatch.setattr(backbones, "BACKBONES", BACKBONES[:4])
    monkeypatch.setattr(backbones, "_in_own_process", fake)
    with pytest.raises(KeyboardInterrupt):
        run_all(path, [], again=False)
    run_all(path, [], again=False)
    assert tried == [*BACKBONES[:3], *BACKBONES[2:4]]
    tried[:] = tried[:3]
    run_all(path, [BACKBONES[0]], again=True)
    assert tried[3:] == [BACKBONES[0], BACKBONES[1]]
    assert read_results(path).outcomes[BACKBONES[0]].exported


def test_two_runs_at_once_keep_the_outcomes_of_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, threads = tmp_path / "outcomes.json", list[threading.Thread]()
    first, second, third = BACKBONES[:3]
    turn = threading.local()

    def run(backbone: KnownBackbone) -> None:
        turn.of = backbone
        run_all(path, [], again=False)

    def trial(backbone: KnownBackbone, _exports: bool) -> Outcome:
        # A run begins and ends while another tries a backbone.
        if backbone == first:
            run(second)
        return Outcome(asdict(backbone), trained=True)

    def write(to: Path, results: Results) -> None:
        # And one comes to its end while another is about to write.
        if not threads:
            threads.append(threading.Thread(target=run, args=(third,)))
            threads[0].start()
            threads[0].join(1)
        write_results(to, results)

    monkeypatch.setattr(backbones, "_is_open", lambda backbone, *_: backbone == turn.of)
    monkeypatch.setattr(backbones, "_in_own_process", trial)
    monkeypatch.setattr(backbones, "write_results", write)
    run(first)
    threads[0].join()
    assert list(read_results(path).outcomes) == [first, second, third]


def _die(*_arguments: object) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.slow
def test_a_killed_process_is_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "outcomes.json"
    forks = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _method: forks)
    monkeypatch.setattr(backbones, "BACKBONES", [RESNET18])
    monkeypatch.setattr(backbones, "run_trial", _die)
    run_all(path, [], again=False)
    assert "was killed" in read_results(path).outcomes[RESNET18].error


def check_trial(backbone: KnownBackbone, folder: Path, exports: bool) -> None:
    outcome = run_trial(backbone, folder, exports)
    assert outcome.error == ""
    expected = committed().outcomes[backbone]
    assert outcome == replace(expected, exported=exports, seconds=outcome.seconds)
    assert outcome.seconds > 0


@torch.no_grad()
def fold_all_but_one(network: nn.Module, size: tuple[int, int], tolerance: float) -> Folding:
    """Fold with gates of 1 in all layers but the first.

    What is left is what families differ in. Exporting BIN itself, again and again, takes most of
    the time of the whole.
    """
    first, *others = gate_parameters(network).values()
    assert (first < 1).any()
    for gate in others:
        gate.fill_(1)
    return fold_network(network, size, tolerance)


# Of each family the longest part. One that shuffles channels, and one whose blocks are merged;
# MobileNetV2 and ResNet are exported by other tests.
EXPORTED = ("build_shufflenetv2_backbone", "build_repvgg_backbone")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", smallest(), ids=str)
def test_the_smallest_of_each_family_trains_evaluates_and_exports(
    backbone: KnownBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backbones.fold_network", fold_all_but_one)
    exports = EXHAUSTIVE or backbone.name in EXPORTED
    check_trial(backbone, tmp_path, exports)
    if not exports:
        # It refuses a folded network that computes something else.
        cfg = trial_config(backbone, tmp_path)
        cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
        folding = fold_all_but_one(network_to_export(cfg), image_size(cfg), tolerance=0.0)
        assert folding.folded_channels > 0


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES, ids=str)
def test_every_backbone_has_the_outcome_of_the_table(
    backbone: KnownBackbone, tmp_path: Path
) -> None:
    check_trial(backbone, tmp_path, exports=True)


@pytest.mark.slow
def test_a_step_that_changes_nothing_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def still(backbone: KnownBackbone, folder: Path) -> object:
        cfg = trial_config(backbone, folder)
        cfg.METABIN.OUTER_LR = 0.0
        return cfg

    monkeypatch.setattr("backbones.trial_config", still)
    outcome = run_trial(RESNET18, tmp_path, exports=False)
    assert outcome.error == "TrialError: 2 iterations have not moved the gates"
    assert not outcome.trained
