"""What is fresh, what can be restored and what to commit: DVC, asked in process. Nothing else imports it.

Around a step: `snapshot` (what it depends on), `clear`, run it, `commit`. Then `dvc status` is clean and `dvc repro`
does nothing; and what `dvc repro` ran is fresh here. DVC's words, bars and warnings are kept from the user; its
errors become MemoryFault.
"""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path

from pipeline.memory import entries, pins, stages
from pipeline.memory.session import Session, initialise
from pipeline.memory.stages import Snapshot, State
from pipeline.records import DataVersion
from pipeline.workspace import Workspace

__all__ = ["Memory", "Snapshot", "State", "initialise"]


class Memory:
    """DVC's memory of one workspace. Every method may raise MemoryFault: DVC is locked for too long, or refuses; and
    DataError where it looks at the data: they hold what DVC cannot hash.

    Args:
        root: the workspace.
        patience: seconds to wait for another DVC process before giving up.
    """

    def __init__(self, root: Path, patience: float = 30.0) -> None:
        self.root = root.resolve()
        self._session = Session(self.root, patience)

    # --- stages ------------------------------------------------------------------------------------------
    def states(self) -> dict[str, State]:
        """The state of every stage, in order, in one pass."""
        return self._on_data.run(stages.states)

    def state(self, stage: str) -> State:
        """The state of one stage, its inputs taken as they are."""
        return self._on_data.run(lambda repo: stages.state(stages.load(repo, stage)))

    def snapshot(self, stage: str) -> Snapshot:
        """What `stage` depends on right now; to be taken before it runs."""
        return self._on_data.run(lambda repo: stages.snapshot(stages.load(repo, stage)))

    def clear(self, stage: str) -> None:
        """Removes the stage's outputs; read-only links into the cache are unlinked, the cache is untouched."""
        for path in self._session.run(lambda repo: [Path(out.fs_path) for out in stages.load(repo, stage).outs]):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def restore(self, stage: str) -> bool:
        """Brings back outputs that these inputs once had; False where the cache does not hold them, whole."""
        return self._session.run(lambda repo: stages.restore(stages.load(repo, stage)))

    def commit(self, stage: str, snapshot: Snapshot) -> None:
        """Remembers the outputs a run of the stage has just made.

        Raises:
            MemoryFault: an input changed while it ran, or an output is missing, empty or left over from before;
                nothing is committed then.
        """
        self._session.run(lambda repo: stages.commit(stages.load(repo, stage), snapshot))

    # --- data and ledger ---------------------------------------------------------------------------------
    def add_data(self) -> None:
        """Pins the data folder as it is in `<data>.dvc`."""
        self._on_data.run(lambda repo: pins.pin(repo, self._data))

    def add_ledger(self) -> None:
        """Pins ledger.parquet as it is in ledger.dvc."""
        self._session.run(lambda repo: pins.pin(repo, self._ledger))

    def ensure_data(self) -> None:
        """Brings the data folder back, from the cache or the remote, where it is missing or was brought in part.

        Raises:
            MemoryFault: neither has it (path, hash and remote are named), what they have is damaged, or nothing
                pins it.
        """
        pins.ensure(self._session, self._data)

    def ensure_ledger(self) -> None:
        """The same for ledger.parquet, which ledger.dvc pins."""
        pins.ensure(self._session, self._ledger)

    def pinned_ledger(self) -> Path | None:
        """The ledger that ledger.dvc pins, in the cache, where ledger.parquet differs from it; else None.

        Raises:
            MemoryFault: neither the cache nor the remote has it.
        """
        return self._session.run(lambda repo: pins.other(repo, self._ledger))

    def data_version(self) -> DataVersion:
        """Which data there is now, and whether data.dvc and Git would lead back to it."""
        return self._on_data.run(lambda repo: pins.version(repo, self._data, stages.load(repo, "validate")))

    @cached_property
    def _on_data(self) -> Session:
        """The session, once the data were looked at."""
        if self._data.path.is_dir():
            entries.check(self._data.path)
        return self._session

    @cached_property
    def _data(self) -> pins.Pinned:
        path = self.root / Workspace(self.root).config().data.path
        return pins.Pinned(path, path.with_name(path.name + ".dvc"))

    @property
    def _ledger(self) -> pins.Pinned:
        return pins.Pinned(self.root / "ledger.parquet", self.root / "ledger.dvc")
