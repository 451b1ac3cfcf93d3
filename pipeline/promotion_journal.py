"""The journal of a registered model: what was decided about its versions, in order, for
ever.

Each entry names the champion on which it was decided. An entry whose champion is not
the champion at its place is void: so whoever decided on what is no longer so (a run
that was suspended, a second machine) changes nothing. The champion is what the valid
entries lead to; MLflow's alias follows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from pipeline.errors import ThawError
from pipeline.records import FrozenModel
from pipeline.redaction import redact
from pipeline.text import shorten

Kind = Literal[
    "adopted", "verdict", "promoted", "rolled-back", "requested", "approved", "refused"
]

# After these the champion is another.
MOVES: tuple[Kind, ...] = ("adopted", "promoted", "rolled-back", "approved")
# Of a reason: MLflow keeps 6,000 of an entry, in which a quote counts twice.
MOST_CHARACTERS = 1500
CLOCK_DIFFERENCE = timedelta(days=1)  # that clocks of several machines may have
MOST_OF_A_NAME = 200  # characters of who did it


class Entry(FrozenModel):
    """One entry.

    Args:
        kind: adopted: the alias that was there before the journal; verdict: what a look
            at the test split came to; requested: a promotion waits for approval.
        champion: the version that was champion when this was decided; empty where none
            was.
        version: the version that it is about; empty where no version is champion any
            longer.
        by: who did it.
        reason: why, in a sentence.
        time: ISO 8601, UTC.
        decision: of a verdict; of a move made by hand, the verdict that it overrides.
        key: of the version's weights and everything else that is served.
        test_split: digest of the examples that judged it; empty where none were asked,
            which is no look.
        nonce: tells two writers of one entry apart.
    """

    kind: Kind
    champion: str
    version: str
    by: str
    reason: str
    time: str
    decision: str = ""
    key: str = ""
    test_split: str = ""
    nonce: str = ""

    @property
    def when(self) -> datetime:
        return datetime.fromisoformat(self.time)

    @property
    def is_override(self) -> bool:
        """Whether a person made a version champion that no verdict had found to deserve
        it.
        """
        return self.kind == "promoted" and self.decision in (
            "reject",
            "cannot-tell",
            "none",
        )


class JournalMovedError(ThawError):
    """The champion is another than the one that was decided on; look again, and decide
    anew.
    """


class Journal(Protocol):
    """Where entries are kept."""

    def read(self) -> list[Entry]:
        """All entries in order.

        Raises:
            TrackingError: the store is away.
        """

    def append(self, entry: Entry) -> None:
        """Adds an entry.

        Raises:
            JournalMovedError: its champion is not the champion any longer; nothing was
                added.
            TrackingError: the store is away.
        """

    def reconcile(self) -> str:
        """Makes the registry's alias follow the journal; returns the champion's
        version, empty where there is none.

        Raises:
            TrackingError: the store is away.
        """


@dataclass(frozen=True)
class History:
    """What entries come to.

    Args:
        champion: the version that is champion; empty where none is.
        valid: the entries that are not void, in order.
        verdicts: all of them, also void ones.
        looks: those for which the test split was looked at.
        withdrawn: versions that were rolled back, and not put back by hand since.
    """

    champion: str = ""
    valid: tuple[Entry, ...] = ()
    verdicts: tuple[Entry, ...] = ()
    looks: tuple[Entry, ...] = ()
    withdrawn: frozenset[str] = field(default_factory=frozenset)

    def find_verdict(self, version: str) -> Entry | None:
        """The last verdict on a version."""
        for entry in reversed(self.verdicts):
            if entry.version == version:
                return entry
        return None

    def find_request(
        self, version: str, expires_days: int, now: datetime
    ) -> Entry | None:
        """The request for a version's approval that is still open; None where there is
        none, it was answered, another version became champion since, or it has lapsed.

        One that a clock far ahead has dated has lapsed too: it would stay open for
        longer than any request should.
        """
        last = self._find_last_of_approval(version)
        if last is None or last.kind != "requested":
            return None
        oldest = now - timedelta(days=expires_days)
        newest = now + CLOCK_DIFFERENCE
        if oldest <= last.when <= newest:
            return last
        return None

    def find_refusal(self, version: str) -> Entry | None:
        """The refusal of a version, where it was not asked for again since and no other
        became champion.
        """
        last = self._find_last_of_approval(version)
        if last is not None and last.kind == "refused":
            return last
        return None

    def _find_last_of_approval(self, version: str) -> Entry | None:
        """The last request for a version's approval, or refusal of it, since the
        champion became champion.
        """
        last: Entry | None = None
        for entry in self.valid:
            if entry.kind in MOVES:
                last = None
            elif entry.version == version and entry.kind in ("requested", "refused"):
                last = entry
        return last

    def champion_at(self, when: datetime) -> str:
        """The version that was champion at a time; empty where none was."""
        champion = ""
        for entry in self.valid:
            if entry.kind in MOVES and entry.when <= when:
                champion = entry.version
        return champion


def read_history(entries: Iterable[Entry]) -> History:
    """What the entries come to, in their order."""
    champion = ""
    valid: list[Entry] = []
    verdicts: list[Entry] = []
    looks: list[Entry] = []
    withdrawn: set[str] = set()
    for entry in entries:
        if entry.kind == "verdict":
            verdicts.append(entry)
            if entry.test_split:
                looks.append(entry)
        if entry.champion != champion:
            continue
        valid.append(entry)
        if entry.kind not in MOVES:
            continue
        if entry.kind == "rolled-back":
            withdrawn.add(champion)
        withdrawn.discard(entry.version)
        champion = entry.version
    return History(
        champion, tuple(valid), tuple(verdicts), tuple(looks), frozenset(withdrawn)
    )


def earlier_champions(history: History) -> Iterator[str]:
    """Versions that were champion before, the latest first, without those that were
    rolled back.
    """
    told = {history.champion, ""}
    for entry in reversed(history.valid):
        if (
            entry.kind in MOVES
            and entry.version not in told
            and entry.version not in history.withdrawn
        ):
            told.add(entry.version)
            yield entry.version


def now() -> str:
    """The time as entries hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def to_reason(reason: str, most: int = MOST_CHARACTERS) -> str:
    """A reason, or a name, as an entry may hold it for ever: on one line, not too long,
    without secrets, and without control characters, which JSON writes six times as
    long.
    """
    printable = "".join(
        character if character.isprintable() else " " for character in reason
    )
    return shorten(" ".join(redact(printable).split()), most)


class TestSplit(FrozenModel):
    """The examples that judged a challenger: what tells how much of a later test split
    is new.

    Args:
        digest: of ids and targets.
        examples: their ids.
        units: of each, the unit it belongs to.
    """

    __test__ = False  # no test class

    digest: str
    examples: tuple[str, ...]
    units: tuple[str, ...]


def count_looks(
    looks: Sequence[Entry], splits: dict[str, TestSplit], current: TestSplit, key: str
) -> int:
    """How many looks a test split has had, with the one that is to come for the
    challenger with this key.

    Looks at one challenger on one test split count once. They are counted from the last
    test split on that was new: half of its units no look before had seen (Renggli et
    al. 2019, "Continuous integration of machine learning models"; Blum and Hardt 2015,
    "The Ladder", on how reuse wears a test set out).

    Args:
        looks: verdicts in order, of any challenger.
        splits: the test splits by their digests, those that are known.
    """
    seen: set[str] = set()
    counted: set[tuple[str, str]] = set()
    pairs = [(entry.key, splits.get(entry.test_split)) for entry in looks]
    pairs.append((key, current))
    for look_key, split in pairs:
        if split is None:
            counted.add((look_key, ""))
            continue
        if _is_new(split, seen):
            counted.clear()
        seen.update(split.examples)
        counted.add((look_key, split.digest))
    return len(counted)


def _is_new(split: TestSplit, seen: set[str]) -> bool:
    """Whether no example of half of the units was seen."""
    units = set(split.units)
    known = set()
    for example, unit in zip(split.examples, split.units, strict=True):
        if example in seen:
            known.add(unit)
    return 2 * (len(units) - len(known)) >= len(units)
