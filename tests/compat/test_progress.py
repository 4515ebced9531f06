"""The progress line of runs that are shorter than fastreid's timer needs."""

from __future__ import annotations

from fastreid.utils.events import CommonMetricPrinter, EventStorage


def test_two_lines_in_one_iteration_before_any_time_is_known():
    printer = CommonMetricPrinter(10)
    with EventStorage(0) as storage:
        storage.epoch = 0
        storage.iter = 1
        printer.write()
        printer.write()
        assert printer._last_write[0] == 1
        storage.iter = 2
        printer.write()
        assert printer._last_write[0] == 2


def test_a_known_iteration_time_is_used(caplog):
    printer = CommonMetricPrinter(10)
    printer.logger.propagate = True
    with EventStorage(0) as storage, caplog.at_level("INFO", printer.logger.name):
        storage.epoch, storage.iter = 0, 4
        storage.put_scalar("time", 2.0)
        printer.write()
    assert "eta: 0:00:10" in caplog.text
