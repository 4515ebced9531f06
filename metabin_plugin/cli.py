"""How a command ends on a mistake of the user's or on Ctrl-C: one sentence, no traceback."""

from __future__ import annotations

import logging
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from metabin_plugin import errors
from metabin_plugin.errors import MetaBINError

# The trainer logs every exception with its traceback before it lets it pass.
_TRAINER_LOGGER = "metabin_plugin.engine.trainer"
# What shells add to a signal's number to make an exit status of it.
STATUS_BASE = 128
AGAIN = "the same command starts again"
_QUALIFIED = re.compile(rf"^{re.escape(errors.__name__)}\.(\w+): (.+)$")


def user_error(traceback: str) -> MetaBINError | None:
    """The user's error that another process reported as text.

    Args:
        traceback: A formatted traceback, as PyTorch carries it over from its worker processes.

    Returns:
        The error with its own sentence, or None when the traceback ends with any other exception.
    """
    last = traceback.strip().splitlines()[-1:]
    match = _QUALIFIED.match(last[0]) if last else None
    kind = getattr(errors, match.group(1), None) if match else None
    return kind(match.group(2)) if match and kind else None


def sentence(error: MetaBINError) -> str:
    """The one sentence of an error, also of one re-raised from a data loader's worker process."""
    text = str(error)
    original = user_error(text) if "Original Traceback" in text else None
    return str(original or text)


class _WithoutTraceback(logging.Filter):
    """Lets the trainer log a user's error as its sentence."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, MetaBINError):
            record.msg, record.args = f"{record.getMessage()} {sentence(error)}", ()
            record.exc_info = None
        return True


@contextmanager
def run_cli(go_on: str = AGAIN) -> Iterator[None]:
    """Turn a :class:`MetaBINError` of the block into ``error: <sentence>`` and exit status 1.

    Ctrl-C becomes ``stopped; <go_on>`` and status 130.

    Args:
        go_on: How the user gets what the command had not finished.

    Raises:
        SystemExit: With this status, after the sentence was written to standard error.
    """
    without_traceback = _WithoutTraceback()
    logger = logging.getLogger(_TRAINER_LOGGER)
    logger.addFilter(without_traceback)
    try:
        yield
    except MetaBINError as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        # The terminal's echo of the keys is at the end of the last line.
        print(f"\nstopped; {go_on}", file=sys.stderr)
        raise SystemExit(STATUS_BASE + signal.SIGINT) from None
    finally:
        logger.removeFilter(without_traceback)
