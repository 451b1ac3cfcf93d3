"""What the journal says of one version, in sentences and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC

from pipeline.promotion_journal import MOVES, Entry, read_history
from pipeline.report.markdown import escape, join, name
from pipeline.text import shorten

# Characters that MLflow's database holds of a version's description.
LONGEST_DESCRIPTION = 5000
LONGEST_REASON = 600
# Characters of its first paragraph, for which room is kept.
LONGEST_STANDING = 1000
LONGEST_BOLD = LONGEST_STANDING + len("****: .")
CARD_HEADING = "## Decisions"
CARD_ENDING = (
    "Which version is champion now says the registry's alias `champion`; "
    "`thaw models` lists every decision."
)

VERDICTS = {
    "promote": "Deserves to be champion",
    "reject": "Not promoted",
    "cannot-tell": "Not promoted, as the test split cannot tell",
}
STANDINGS = {
    "adopted": "Champion",
    "promoted": "Promoted to champion",
    "approved": "Approved and promoted to champion",
    "requested": "Waits for approval",
    "refused": "Refused",
    "rolled-back": "Made champion again",
}
NOTHING_DECIDED = "Nothing was decided about it yet."
BEGINNINGS = (
    *VERDICTS.values(),
    *STANDINGS.values(),
    "Withdrawn for",
    "Succeeded by",
    NOTHING_DECIDED,
)


def describe_standing(entries: Sequence[Entry], version: str) -> str:
    """What was decided last about a version, in a sentence that stays true: with its
    day.
    """
    own = list(_own_entries(entries, version))
    if not own:
        return NOTHING_DECIDED
    last = own[-1]
    beginning = f"{_describe_kind(last, version)} ({_day(last)})"
    reason = _escape_within(last.reason, LONGEST_STANDING - len(beginning))
    return f"{beginning}: {reason}."


def state(entries: Sequence[Entry], version: str) -> str:
    """What stands, as the paragraph that a description begins with."""
    return f"**{describe_standing(entries, version)}**"


def restate(description: str, entries: Sequence[Entry], version: str) -> str:
    """A version's description with what stands now in the place of its first paragraph;
    one that was written by hand is left as it is.
    """
    first, *others = description.split("\n\n")
    if not _is_standing(first):
        return description
    return fit([state(entries, version), *others])


def restate_card(card: str, entries: Sequence[Entry], version: str) -> str:
    """A version's card with what stands now below its title, and all that was decided
    at its end; a text of another form is left as it is.
    """
    title, *blocks = card.rstrip("\n").split("\n\n")
    is_card = (
        bool(blocks)
        and _is_standing(blocks[0])
        and CARD_HEADING in blocks
        and blocks[-1] == CARD_ENDING
    )
    if not is_card:
        return card
    kept = blocks[1:-1]
    if kept[-1].startswith("- "):
        kept.pop()
    history = list_history(entries, version)
    return join([title, state(entries, version), *kept, history, CARD_ENDING]) + "\n"


def list_history(entries: Sequence[Entry], version: str) -> str:
    """A line for each decision about a version."""
    lines = []
    for entry in _own_entries(entries, version):
        what = _describe_kind(entry, version)
        reason = escape(shorten(entry.reason, LONGEST_REASON))
        lines.append(f"- {_day(entry)}, {name(entry.by)}: {what}: {reason}.")
    return "\n".join(lines)


def fit(blocks: Sequence[str]) -> str:
    """As many of the blocks, from the first on, as a description may hold: however long
    its first is, the same others.
    """
    first, *others = blocks
    kept = [first]
    room = LONGEST_DESCRIPTION - max(len(first), LONGEST_BOLD)
    for block in others:
        length = len("\n\n") + len(block)
        if length <= room:
            kept.append(block)
            room -= length
    return "\n\n".join(kept)


def _is_standing(paragraph: str) -> bool:
    marked = tuple(f"**{beginning}" for beginning in BEGINNINGS)
    return paragraph.startswith(marked)


def _escape_within(text: str, longest: int) -> str:
    """Text, escaped, of at most so many characters: what escaping adds counts."""
    length = min(len(text), LONGEST_REASON)
    escaped = escape(shorten(text, length))
    while len(escaped) > longest:
        length = length * longest // len(escaped)
        escaped = escape(shorten(text, length))
    return escaped


def _own_entries(entries: Sequence[Entry], version: str) -> Iterator[Entry]:
    """The valid entries about a version, and those by which another took its place."""
    for entry in read_history(entries).valid:
        is_succeeded = entry.kind in MOVES and entry.champion == version
        if entry.version == version or is_succeeded:
            yield entry


def _describe_kind(entry: Entry, version: str) -> str:
    if entry.version != version:
        successor = f"version {name(entry.version)}" if entry.version else "no version"
        if entry.kind == "rolled-back":
            return f"Withdrawn for {successor}"
        return f"Succeeded by {successor}"
    if entry.kind == "verdict":
        return VERDICTS.get(entry.decision, name(entry.decision))
    standing = STANDINGS[entry.kind]
    if entry.is_override:
        return f"{standing}, overriding the verdict"
    return standing


def _day(entry: Entry) -> str:
    return entry.when.astimezone(UTC).strftime("%Y-%m-%d")
