"""Named places at which a test, or an operator proving a machine, can have the process
killed.

`THAW_CRASH_AT=name` kills at the first passing of that point, `name:3` at the third.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

POINTS = (
    "before-save",  # a checkpoint is due
    "within-save",  # written, not yet renamed
    "after-save",  # the new checkpoint is in place, older ones not yet removed
    "solving",  # a head, by its optimisation
    "last-batch",  # of an epoch: trained, not yet validated
    "between-stages",  # the stage's best is restored and saved, the next has not begun
    "after-resume",  # a checkpoint was loaded, nothing was done since
    "after-candidate",  # a candidate is complete in the cache
    "before-baseline",  # the comparison was trained, and is about to be remembered
    "before-pinning",  # it lies in its place, not yet pinned
    "after-baseline",  # it is pinned, and not yet in baseline.lock
)
_passed: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Ends the process by SIGKILL if the environment asks for it here."""
    wanted, _, count = os.environ.get("THAW_CRASH_AT", "").partition(":")
    if wanted != name:
        return
    _passed[name] += 1
    if _passed[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
