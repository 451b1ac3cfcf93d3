"""One example on its way in: as the reader listed it, as the scan measured it, or why
it cannot be used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.records import Finding


@dataclass(frozen=True, slots=True)
class ListedExample:
    """One example as the reader found it, before anything was opened."""

    path: str  # below the data folder, `/`-separated, as the manifest writes it
    target: str
    group: str | None = None
    given_split: str | None = None
    meta: tuple[tuple[str, Any], ...] = ()
    # Of an example that is no file of its own: canonical JSON of its inputs.
    content: str | None = None
    stratum: str | None = None  # by which the split assigns it; None: the target itself
    # The class of each object in it; None: the target is the one class.
    classes: tuple[str, ...] | None = None
    # hashable: the truth as it was read, until `Reader.check_targets` makes the target
    # of it.
    annotation: Any = None

    @property
    def described_target(self) -> str:
        """The target as a message shows it: a class by its name, objects by their
        classes.
        """
        if self.classes is None:
            return self.target
        return ", ".join(sorted(set(self.classes))) or "no objects"


@dataclass(frozen=True, slots=True)
class ExampleFault:
    """Why one file cannot be used: becomes a row of the quarantine."""

    path: str
    code: str  # "truncated", "not-an-image", "too-small", …
    found: str
    expected: str
    hint: str
    id: str | None = None


class ExampleError(Exception):
    """Why one file cannot be used, on the way out of its checks."""

    def __init__(self, code: str, found: str, expected: str, hint: str) -> None:
        super().__init__(code)
        self.code = code
        self.found = found
        self.expected = expected
        self.hint = hint

    def of(self, path: str, identity: str | None = None) -> ExampleFault:
        """The fault of the example at a path."""
        return ExampleFault(
            path, self.code, self.found, self.expected, self.hint, identity
        )


@dataclass(frozen=True)
class ExampleListing:
    """All examples the reader found, what it could not read, and what it left out of
    examples that stay.
    """

    examples: tuple[ListedExample, ...]
    faults: tuple[ExampleFault, ...]
    findings: tuple[Finding, ...] = ()
    object_faults: tuple[ExampleFault, ...] = ()


@dataclass(frozen=True, slots=True)
class MeasuredExample:
    """What a scan measured of one example, all of it determined by the content."""

    id: str  # MD5 of the content
    # Column → value, without the `scan.` prefix; `phash` is 16 hex digits where there
    # is one.
    values: dict[str, Any]
    # "exif-rotated", "cmyk", "16-bit", "alpha", "grey", "extension".
    converted: tuple[str, ...] = ()
    doubt: ExampleFault | None = (
        # usable, yet to be left out where few others look like this: a placeholder, a
        # black frame.
        None
    )


@dataclass(frozen=True)
class CheckedTargets:
    """Examples whose targets were held against their content.

    Args:
        usable: those that stay, in their order, with their final target, stratum and
            classes.
        faults: why others are left out; they count as examples that cannot be used.
        object_faults: what was left out of examples that stay; the path is that of the
            annotation, `#` and the line.
        findings: what else is to be said.
        labels: the label space in order, where the targets give one.
    """

    usable: tuple[tuple[ListedExample, MeasuredExample], ...]
    faults: tuple[ExampleFault, ...] = ()
    object_faults: tuple[ExampleFault, ...] = ()
    findings: tuple[Finding, ...] = ()
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ColumnExpectation:
    """What one measured column of every usable example must satisfy: one of `values`,
    or between `low` and `high`.
    """

    column: str  # without the `scan.` prefix
    values: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DriftMeasure:
    """How far something moved since another version of the data, beside what every
    task's labels and numbers show.

    Args:
        name: "words"; the finding's code is `drift-` and it.
        subject: what moved, in words.
        value: how far.
        limit: from where on a warning is given.
        expected: the same in words, with the setting's name.
        items: what a reader wants to see of it.
    """

    name: str
    subject: str
    value: float
    limit: float
    expected: str
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class RandomDraw:
    """The counted randomness of one example in one epoch: everything random about it
    follows from these.
    """

    seed: int
    view: int  # the epoch, or the view's number where views are counted
    id: str


class SampleFacts(NamedTuple):
    """What was generated.

    Args:
        description: how many examples of what, in words.
        written: whether this call wrote it, or found it there already.
    """

    description: str
    written: bool
