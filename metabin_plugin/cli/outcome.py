"""How a command ends on a mistake of the user's or on Ctrl-C: one sentence, no traceback.

And what it does where nobody reads what it prints any more: its work.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from metabin_plugin.errors import STATUS_BASE, MetaBINError, user_error
from metabin_plugin.text import visible

# The trainer logs every exception with its traceback before it lets it pass.
_TRAINER_LOGGER = "metabin_plugin.engine.trainer"
AGAIN = "the same command starts again"


def sentence(error: MetaBINError) -> str:
    """The one sentence of an error, also of one re-raised from a data loader's worker process.

    A name in it may come from elsewhere: control characters are escaped.
    """
    text = str(error)
    original = user_error(text) if "Original Traceback" in text else None
    return visible(str(original or text))


class _WithoutTraceback(logging.Filter):
    """Lets the trainer log a user's error as its sentence, and what only follows from another's."""

    def __init__(self, follows: Callable[[BaseException], bool]) -> None:
        super().__init__()
        self._follows = follows

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        said = ""
        if isinstance(error, MetaBINError):
            said = sentence(error)
        elif error is not None and self._follows(error):
            said = "the connection to another process of the run is gone"
        if said:
            record.msg, record.args = f"{record.getMessage()} {said}", ()
            record.exc_info = None
        return True


@contextmanager
def without_tracebacks(
    follows: Callable[[BaseException], bool] = lambda error: False,
) -> Iterator[None]:
    """A block in which the trainer logs errors of the user without a traceback.

    Args:
        follows: whether an error is that the connection to another process is gone, which says why.
    """
    without = _WithoutTraceback(follows)
    logger = logging.getLogger(_TRAINER_LOGGER)
    logger.addFilter(without)
    try:
        yield
    finally:
        logger.removeFilter(without)


class _Output(io.FileIO):
    """A file descriptor that is written to as long as somebody reads what comes out."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # What Windows says of a pipe without a reader.
            without_reader = errno.EINVAL if os.name == "nt" else errno.EPIPE
            if error.errno not in (errno.EPIPE, without_reader):
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return len(data)


@contextmanager
def _printing_to_nobody(name: str) -> Iterator[None]:
    """Let a stream of ``sys`` swallow what is printed after its reader has gone.

    A command in front of ``head`` so does its work to the end, in silence. A character that the
    locale cannot express is escaped, instead of ending the command.

    Args:
        name: ``stdout`` or ``stderr``.
    """
    stream = getattr(sys, name)
    # A terminal is read as long as it is there, and what a test has put there is its own affair.
    if not isinstance(stream, io.TextIOWrapper) or stream is not getattr(sys, f"__{name}__"):
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    if stream.isatty():
        yield
        return
    stream.flush()
    raw = _Output(stream.fileno(), "w", closefd=False)
    quiet = io.TextIOWrapper(
        # Python's own option -u leaves the buffer out, too.
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    setattr(sys, name, quiet)
    try:
        yield
    finally:
        quiet.flush()
        setattr(sys, name, stream)


def _report_error_of_thread(error: threading.ExceptHookArgs) -> None:
    """Python's report, but of what TensorBoard's thread hands on to the trainer."""
    if not type(error.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(error)


@contextmanager
def run_cli(go_on: str = AGAIN) -> Iterator[None]:
    """Turn a :class:`MetaBINError` of the block into ``error: <sentence>`` and exit status 1.

    Ctrl-C becomes ``stopped; <go_on>`` and status 130. What is printed after its reader has gone is
    lost, and the block goes on.

    Args:
        go_on: How the user gets what the command had not finished.

    Raises:
        SystemExit: With this status, after the sentence was written to standard error.
    """
    streams = ExitStack()
    streams.enter_context(without_tracebacks())
    streams.enter_context(_printing_to_nobody("stdout"))
    streams.enter_context(_printing_to_nobody("stderr"))
    report, threading.excepthook = threading.excepthook, _report_error_of_thread
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
        streams.close()
        threading.excepthook = report
