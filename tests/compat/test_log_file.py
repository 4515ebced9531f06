"""A log that cannot be written any more costs one line, and not the run."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from fastreid.utils.logger import setup_logger


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, folder = "metabin_full_disk", str(tmp_path)
    logger = setup_logger(folder, name=name, color=False)
    logger.info("there was space")
    (handler,) = (
        h for h in logger.handlers if getattr(h.stream, "name", "") == str(tmp_path / "log.txt")
    )
    os.dup2(os.open("/dev/full", os.O_WRONLY), handler.stream.fileno())
    capsys.readouterr()
    for number in range(3):
        assert setup_logger(folder, name=name, color=False) is logger
        logger.info("line %d", number)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path / 'log.txt'} cannot be written (No space left")
    assert "there was space" in (tmp_path / "log.txt").read_text()
    logging.getLogger(name).handlers.clear()
