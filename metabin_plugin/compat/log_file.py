"""``setup_logger``'s file has no end of tracebacks once it cannot be written any more."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from metabin_plugin.compat.rebinding import repair
from metabin_plugin.files import reason


class _OneReport:
    """What a handler does with an error of writing: one line on standard error, then nothing."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._has_reported = False

    def __call__(self, record: logging.LogRecord) -> None:
        if self._has_reported:
            return
        self._has_reported = True
        error = sys.exc_info()[1]
        print(
            f"warning: {self._path} cannot be written ({reason(error or OSError())}); lines of the "
            "log are missing there",
            file=sys.stderr,
        )


def _with_one_report(original: Callable[..., Any]) -> Callable[..., Any]:
    def setup_logger(*args: Any, **kwargs: Any) -> logging.Logger:
        logger: logging.Logger = original(*args, **kwargs)
        for handler in logger.handlers:
            path = getattr(getattr(handler, "stream", None), "name", None)
            if isinstance(handler.handleError, _OneReport):
                continue
            if isinstance(path, str) and os.path.isfile(path):
                handler.handleError = _OneReport(path)  # type: ignore[method-assign]
        return logger

    return setup_logger


def repair_log_file() -> None:
    """On a full disk every line of the log prints a traceback of ``logging`` itself."""
    from fastreid.utils import logger

    repair(logger, "setup_logger", _with_one_report)
