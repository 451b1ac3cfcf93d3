"""Every error Thaw raises on purpose.

    ThawError
    ├── ConfigError      params.yaml or an option says something that cannot be used
    ├── StorageError     a disk is full, over quota, read-only or closed to us
    ├── PreflightError   something that would stop a run later was found before it began
    ├── WorkspaceError   the folder is not a workspace, is locked, or would be overwritten
    ├── DataError        the dataset cannot be used as it is
    ├── LedgerError      the record of which example belongs to which split is missing or contradicts itself
    ├── SplitError       the dataset cannot be split as asked
    ├── BackboneError    pretrained weights cannot be had, or are not what they claim to be
    ├── TrainingError    a training cannot start, go on or be trusted
    ├── VersioningError      what dvc.lock and .dvc files say and what is on the disk disagree
    ├── TrackingError    the tracking server or the model registry refuses or is away
    ├── ServingError     a model cannot answer
    └── Interrupted      the run was asked to stop, and did so with everything saved

An error names the subject, what was found, what was expected and the hint, so that the reader can act
without opening the source. The command line prints exactly that and exits with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pipeline.redaction import redact
from pipeline.text import printable


class ThawError(Exception):
    """Something the user can fix. Secrets are taken out of its text.

    Args:
        subject: what is wrong, named: a path, a key of params.yaml, a class, a stage.
        found: what was found there.
        expected: what would have been right.
        hint: what to do or type next.
        details: one line an item where many items are at fault (all are given; the
            reader shortens).
    """

    code: ClassVar[str] = "thaw"
    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        subject: str,
        *,
        found: str = "",
        expected: str = "",
        hint: str = "",
        details: Sequence[str] = (),
    ) -> None:
        self.subject = redact(subject)
        self.found = redact(found)
        self.expected = redact(expected)
        self.hint = redact(hint)
        self.details = tuple(redact(detail) for detail in details)
        super().__init__(str(self))

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, details: int | None = None) -> list[str]:
        """What is printed, each line safe to show; of the details the first so many,
        all by default.
        """
        lines = [f"{self.code}: {self.subject}"]
        if self.found:
            lines.append(f"  found:    {self.found}")
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.hint:
            lines.append(f"  hint:     {self.hint}")
        for detail in self.details[:details]:
            lines.append(f"  - {detail}")
        return [printable(line) for line in lines]

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send errors home by pickling them; keyword-only arguments
        # need this.
        return _rebuild, (
            type(self),
            self.subject,
            self.found,
            self.expected,
            self.hint,
            self.details,
        )


def _rebuild(
    kind: type[ThawError],
    subject: str,
    found: str,
    expected: str,
    hint: str,
    details: tuple[str, ...],
) -> ThawError:
    return kind(subject, found=found, expected=expected, hint=hint, details=details)


class ConfigError(ThawError):
    """params.yaml or an option says something that cannot be used."""

    code = "config"


class StorageError(ThawError):
    """A disk is full, over quota, read-only, or does not let us in."""

    code = "storage"


class PreflightError(ThawError):
    """Something that would stop the run later was found before any work was done."""

    code = "preflight"


class WorkspaceError(ThawError):
    """The folder is not a workspace, is in use by another run, or would be overwritten."""

    code = "workspace"


class DataError(ThawError):
    """The dataset cannot be used as it is."""

    code = "data"


class LedgerError(ThawError):
    """The split ledger is missing or contradicts itself."""

    code = "ledger"


class SplitError(ThawError):
    """The dataset cannot be split as asked."""

    code = "split"


class BackboneError(ThawError):
    """Pretrained weights cannot be had, or are not what they claim to be."""

    code = "backbone"


class TrainingError(ThawError):
    """A training cannot start, go on or be trusted."""

    code = "training"


class VersioningError(ThawError):
    """What dvc.lock and .dvc files say and what is on the disk disagree."""

    code = "versioning"


class TrackingError(ThawError):
    """The tracking server or the model registry refuses or is away."""

    code = "tracking"


class ServingError(ThawError):
    """A model cannot answer."""

    code = "serving"


class Interrupted(ThawError):
    """The run was asked to stop; what it had done is saved and the next run goes on
    from there.
    """

    code = "interrupted"
    exit_code = 130
