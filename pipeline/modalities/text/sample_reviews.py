"""The sample: reviews of kitchen appliances, generated, the same bytes on every
machine.

A review is positive, negative or neutral. Which it is does not follow from its words
alone; see `review_grammar`. `reviews.csv` names the customer (`group`: some wrote
several), the appliance's department and how the review came in.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from pipeline.data.sample import write_sample
from pipeline.data.sample_surfaces import Dice
from pipeline.examples import SampleFacts
from pipeline.modalities.text.review_grammar import (
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    write_review,
)

TABLE = "reviews.csv"
SAMPLE_DOMAIN = "kitchen"
CUSTOMERS = 1000
LABELS = (POSITIVE, NEGATIVE, POSITIVE, NEGATIVE, NEUTRAL)
COLUMNS = ("text", "label", "group", "channel")
MOST_WORDY = 3  # opinions in the letters


def generate(folder: Path, seed: int = 0) -> SampleFacts:
    """Writes the sample into a folder that is new or empty; leaves an identical one as
    it is.

    Raises:
        WorkspaceError: the folder holds anything else.
    """
    rows = make_rows(seed)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    written = write_sample(folder, {TABLE: table.getvalue().encode()})
    counts = Counter(label for _, label, _, _ in rows)
    return SampleFacts(
        f"{len(rows)} reviews by {CUSTOMERS} customers, {len(counts)} classes", written
    )


def make_rows(seed: int) -> list[tuple[str, str, str, str]]:
    """Text, label, customer and channel of each review."""
    rows = []
    for customer in range(CUSTOMERS):
        dice = Dice(seed, 7, customer)
        for _ in range(dice.between(1, 2)):
            label = dice.pick(LABELS)
            channel = dice.pick(("web", "web", "phone", "letter"))
            opinions = dice.between(2, MOST_WORDY) if channel == "letter" else 1
            text = write_review(
                dice, label, SAMPLE_DOMAIN, opinions, facts=dice.between(0, 2)
            )
            rows.append((text, label, f"customer-{customer:04d}", channel))
    return rows
