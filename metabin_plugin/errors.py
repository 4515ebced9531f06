"""The project's error types: everything that a user can cause and fix is one of these."""

from __future__ import annotations

import re

# What shells add to a signal's number to make an exit status of it.
STATUS_BASE = 128
_QUALIFIED = re.compile(r"^([\w.]+): (.+)$")


class MetaBINError(Exception):
    """Base class; its text is one sentence naming the key or path, the fault and the remedy."""


class ConfigError(MetaBINError):
    """A config key holds a value that cannot work."""


class DatasetError(MetaBINError):
    """A dataset folder, manifest or image is missing or unusable."""


class NormError(MetaBINError):
    """A network has nothing that the asked-for normalization could replace."""


class WeightsError(MetaBINError):
    """A weight file is missing, unreadable or does not fit the network."""


class LaunchError(MetaBINError):
    """A process of a distributed run ended without reporting an error."""


class LoaderError(MetaBINError):
    """The worker processes of a data loader cannot be started, or cannot go on."""


class RunFolderError(MetaBINError):
    """The folder of a run cannot be used, or holds another run."""


class CheckpointError(MetaBINError):
    """A checkpoint cannot be written."""


class NonFiniteError(MetaBINError):
    """A loss, a gradient, a gate or a feature is not a finite number any more."""


class SearchError(MetaBINError):
    """A gallery, an index or a query cannot be used as it is."""


class ExportError(MetaBINError):
    """A network cannot be exported."""


def user_error(traceback: str) -> MetaBINError | None:
    """The user's error that another process reported as text.

    Args:
        traceback: A formatted traceback, as PyTorch carries it over from its worker processes.

    Returns:
        The error with its own sentence, or None when the traceback ends with any other exception.
    """
    last = traceback.strip().splitlines()[-1:]
    match = _QUALIFIED.match(last[0]) if last else None
    kind = _kinds().get(match.group(1)) if match else None
    return kind(match.group(2)) if kind and match else None


def _kinds() -> dict[str, type[MetaBINError]]:
    """The error types by their full names, those of other modules too."""
    kinds: list[type[MetaBINError]] = [MetaBINError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {f"{kind.__module__}.{kind.__qualname__}": kind for kind in kinds}
