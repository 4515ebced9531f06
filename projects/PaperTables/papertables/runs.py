"""One run: a row with a seed, its folder, and what is known of it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from metabin_plugin.errors import ConfigError
from metabin_plugin.files import replace_file
from papertables.settings import Settings, changes

_RECORD, _RESULTS = "run.json", "results.json"
# fastreid's log names the most that PyTorch has held of a GPU, in MiB.
_CUDA_MEMORY = re.compile(r"max_mem: (\d+)M")


@dataclass(frozen=True)
class Record:
    """What is kept of a run between calls of the command.

    Attributes:
        settings: all that its config files, the budget and the command line set.
        finished: whether its process ended well.
        seconds: how long its processes took, all attempts together.
        resident_mib: the most main memory that one of them held.
    """

    settings: Settings
    finished: bool = False
    seconds: float = 0.0
    resident_mib: float = 0.0

    def after_attempt(self, finished: bool, seconds: float, resident_mib: float) -> Record:
        """The record with one more process."""
        return replace(
            self,
            finished=finished,
            seconds=self.seconds + seconds,
            resident_mib=max(self.resident_mib, resident_mib),
        )


@dataclass(frozen=True)
class Run:
    """A row with a seed.

    Attributes:
        row: name of the row.
        seed: value of ``METABIN.SEED``.
        folder: its ``OUTPUT_DIR``.
    """

    row: str
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.row} seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the run's processes print."""
        return self.folder / "run.log"

    @property
    def results(self) -> Path:
        """The run's last evaluation."""
        return self.folder / _RESULTS

    def record(self) -> Record | None:
        """What is known of the run; None if it was never started.

        Raises:
            ConfigError: the file is damaged.
        """
        path = self.folder / _RECORD
        if not path.exists():
            return None
        try:
            return Record(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is damaged; remove {self.folder}") from error

    def write_record(self, record: Record) -> None:
        """Keep what is known of the run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(record), indent=1) + "\n"
        replace_file(self.folder / _RECORD, lambda file: file.write(text.encode()))

    def is_finished(self) -> bool:
        """Whether the run need not be started."""
        record = self.record()
        return record is not None and record.finished and self.results.exists()

    def check_unchanged(self, settings: Settings) -> None:
        """Refuse a run that was started with other settings.

        Raises:
            ConfigError: a key differs.
        """
        record = self.record()
        # As JSON keeps them, which has no tuples.
        differing = changes(record.settings, json.loads(json.dumps(settings))) if record else []
        if differing:
            raise ConfigError(
                f"{self} was run with other settings ({'; '.join(differing)}); remove "
                f"{self.folder}, or choose another --output"
            )

    def peak_mib(self, record: Record) -> float:
        """The most memory that the run held: of the GPU if it had one, else of main memory."""
        log = self.folder / "log.txt"
        of_gpu = (
            _CUDA_MEMORY.findall(log.read_text(encoding="utf-8", errors="replace"))
            if log.exists()
            else []
        )
        return max(map(float, of_gpu), default=record.resident_mib)
