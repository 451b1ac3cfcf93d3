"""Makes a workspace on a small part of the sample: `python
tests/support/small_workspace.py FOLDER`. Seconds to retrain.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline import setup
from pipeline.config import parse
from pipeline.data.sample import generate

PARTS = 60  # about 170 photographs
SETTINGS = {
    "data": {"table": "metadata.csv"},
    "split": {"near_duplicates": -1},
    "backbone": {"weights": "shipped"},
    "finetune": {
        "recipes": ["head", "gradual"],
        "epochs": 4,
        "views": 2,
        "patience": 0,
        "plan": {"precision": "fp32", "memory_format": "contiguous", "threads": 2},
    },
    "evaluate": {"bootstrap": 200, "worst": 4},
    "register": {"thresholds": {"accuracy": 0.1}},
}


def make(folder: Path) -> None:
    """Makes the workspace in `folder`, which must not exist."""
    with TemporaryDirectory() as temporary:
        source = Path(temporary) / "photographs"
        generate(source, parts=PARTS)
        setup.init(
            folder,
            source=source,
            config=parse(dict(SETTINGS), "tests/support/small_workspace.py"),
        )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
