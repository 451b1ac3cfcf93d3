"""How the words of texts moved between two versions of the data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from pipeline.examples import DriftMeasure
from pipeline.manifest import CONTENT
from pipeline.modalities.text.content import from_content

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.modalities.text.settings import TextIntakeConfig

FEWEST_TEXTS = 30  # new ones, and earlier ones: of fewer no share can be told
# Of each version that are read: every so many where there are more.
MOST_TEXTS = 100_000
SHOWN = 10  # words

_WORD = re.compile(r"\w+")


class UnseenWords(NamedTuple):
    """Words of the new texts that no earlier text has.

    Args:
        share: of the words of the new texts, each counted once a text.
        expected: the share that new texts of the same kind would have.
        commonest: the unseen words that most texts have, with the number of these
            texts.
    """

    share: float
    expected: float
    commonest: tuple[tuple[str, int], ...]

    @property
    def excess(self) -> float:
        return max(0.0, self.share - self.expected)


def measure_vocabulary_drift(
    rows: pa.Table, before: pa.Table, intake: TextIntakeConfig
) -> list[DriftMeasure]:
    """The share of words never seen before, beyond what is to be expected; nothing
    where there are too few texts.
    """
    unseen = find_unseen_words(rows, before)
    if unseen is None:
        return []
    shares = f"{unseen.share:.1%} of the new texts' words, where {unseen.expected:.1%} were to be expected"
    words = [f"{word}: in {count} new texts" for word, count in unseen.commonest]
    measure = DriftMeasure(
        name="words",
        subject="words never seen before",
        value=unseen.excess,
        limit=intake.max_new_words,
        expected=f"at most {intake.max_new_words:.0%} more than texts of the same kind have (task.intake.max_new_words)",
        items=(shares, *words),
    )
    return [measure]


def find_unseen_words(rows: pa.Table, before: pa.Table) -> UnseenWords | None:
    """Compares the texts that came since another version of the data with that version.

    Any new text has words that were never seen before. How many is estimated from the
    earlier texts: by the share of their words that only one of them has (Good 1953,
    section 2).

    Args:
        rows, before: manifests, with the column of contents.

    Returns:
        None where there are too few texts to tell.
    """
    import pyarrow.compute as pc

    if CONTENT not in rows.column_names or CONTENT not in before.column_names:
        return None
    is_known = pc.is_in(rows["id"], value_set=before["id"].combine_chunks())
    added = rows.filter(pc.invert(is_known))
    if added.num_rows < FEWEST_TEXTS or before.num_rows < FEWEST_TEXTS:
        return None
    earlier = _count_texts(_sample(before))
    new = _count_texts(_sample(added))
    unseen = Counter(
        {word: count for word, count in new.items() if word not in earlier}
    )
    in_one_text = sum(1 for count in earlier.values() if count == 1)
    return UnseenWords(
        share=_share(unseen.total(), new.total()),
        expected=_share(in_one_text, earlier.total()),
        commonest=tuple(unseen.most_common(SHOWN)),
    )


def _sample(table: pa.Table) -> Iterable[str]:
    step = -(-table.num_rows // MOST_TEXTS)
    contents: list[str] = table[CONTENT].to_pylist()
    return contents[::step]


def _count_texts(contents: Iterable[str]) -> Counter[str]:
    """Word → number of the texts that have it."""
    counts: Counter[str] = Counter()
    for content in contents:
        texts = from_content(content)
        words = _WORD.findall(texts.text.lower())
        if texts.pair is not None:
            words += _WORD.findall(texts.pair.lower())
        counts.update(set(words))
    return counts


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
