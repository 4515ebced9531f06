"""What is kept of a run over all its processes."""

from __future__ import annotations

from papertables.runs import Ended, Record

HALF = Ended(status=-9, seconds=20.0, cpu_seconds=8.0, resident_mib=500.0)
REST = Ended(status=0, seconds=10.0, cpu_seconds=9.0, resident_mib=400.0)


def test_seconds_of_all_processes_are_added() -> None:
    record = Record({}).before_attempt({"commit": "a"}).after_attempt(False, HALF)
    assert (record.finished, record.is_open) == (False, False)
    record = record.before_attempt({"commit": "b"}).after_attempt(True, REST)
    assert record == Record({}, True, 30.0, 17.0, 500.0, place={"commit": "b"})
    assert record.is_timed


def test_a_process_whose_end_was_not_seen_makes_the_seconds_unknown() -> None:
    # The command was killed, and started again.
    record = Record({}).before_attempt({}).before_attempt({}).after_attempt(True, REST)
    assert record.finished
    assert not record.is_timed
    # It stays so.
    assert not record.before_attempt({}).is_timed
