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


def test_a_loss_that_is_computed_no_more_is_not_told(caplog):
    printer = CommonMetricPrinter(1000)
    printer.logger.propagate = True
    with EventStorage(0) as storage, caplog.at_level("INFO", printer.logger.name):
        storage.epoch = 0
        storage.put_scalar("mtrain_loss_scatter", 0.5)
        for storage.iter in range(300):
            storage.put_scalar("time", 2.0)
            storage.put_scalar("total_loss", 2.0)
            if storage.iter in (150, 299):
                printer.write()
        assert storage.history("mtrain_loss_scatter").latest() == 0.5
    early, late = caplog.messages
    assert "mtrain_loss_scatter: 0.5" in early
    assert "mtrain_loss_scatter" not in late
    assert "total_loss: 2" in late
