"""The steps without Prefect: `python -P -m pipeline STEP` in a workspace runs one, for
dvc.yaml and for debugging.

`-P` keeps a workspace's own files (a queue.py, a folder named pipeline) from being
imported instead of ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import redaction
from pipeline.errors import ThawError
from pipeline.signals import ending
from pipeline.step_table import STEPS
from pipeline.steps.run import run_alone
from pipeline.text import printable, use_utf8_names, write_anything
from pipeline.workspace import Workspace


class PlainConsole:
    """A console of plain lines: words to stdout; progress, once a tenth, to stderr."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}

    def info(self, text: str) -> None:
        sys.stdout.write(printable(text) + "\n")
        sys.stdout.flush()

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        tenth = 10 * done // max(total, 1)
        if self._tenths.get(what) != tenth:
            self._tenths[what] = tenth
            sys.stderr.write(
                printable(f"{what}: {done} of {total} {note}".rstrip()) + "\n"
            )


def main(arguments: list[str]) -> int:
    """Runs the step named; returns the exit code."""
    use_utf8_names()
    write_anything((sys.stdout, sys.stderr))
    if len(arguments) != 1 or arguments[0] not in STEPS:
        sys.stderr.write(f"usage: python -P -m pipeline {{{','.join(STEPS)}}}\n")
        return 2
    redaction.install_streams()
    try:
        with ending():
            run_alone(Workspace.find(Path.cwd()), arguments[0], console=PlainConsole())
    except ThawError as fault:
        sys.stderr.write(f"{fault}\n")
        return fault.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
