"""What is fresh, what can be restored and what to commit: DVC, asked in process. Nothing else imports it.

Around a step: `snapshot` (what it depends on), `clear`, run it, `commit`. Then `dvc status` is clean and `dvc repro`
does nothing; and what `dvc repro` ran is fresh here. DVC's words, bars and warnings are kept from the user; its
errors become VersioningError.
"""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.dvc_yaml import PLACEHOLDERS
from pipeline.records import DataVersion
from pipeline.versioning import dvc_stages, ledger_sync, merge_conflicts, pointer_files, tracked_files, unshared_files
from pipeline.versioning.checkout import PinnedFiles
from pipeline.versioning.dvc_session import Session, initialise
from pipeline.versioning.dvc_stages import StageSnapshot, StageState
from pipeline.versioning.unshared_files import UnsharedFiles
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from dvc.repo import Repo

__all__ = ["StageSnapshot", "StageState", "Versioning", "initialise"]


class Versioning:
    """DVC's memory of one workspace. Every method may raise VersioningError: DVC is locked for too long, or refuses; and
    DataError where it looks at the data: they hold what DVC cannot hash.

    Args:
        root: the workspace.
        patience: seconds to wait for another DVC process before giving up.
    """

    def __init__(self, root: Path, patience: float = 30.0) -> None:
        self.root = root.resolve()
        self._session = Session(self.root, patience)

    # --- stages ------------------------------------------------------------------------------------------
    def states(self) -> dict[str, StageState]:
        """The state of every stage, in order, in one pass."""
        return self._on_data.run(dvc_stages.states)

    def state(self, stage: str) -> StageState:
        """The state of one stage, its inputs taken as they are."""
        return self._on_data.run(lambda repo: dvc_stages.state(dvc_stages.load(repo, stage)))

    def snapshot(self, stage: str) -> StageSnapshot:
        """What `stage` depends on right now; to be taken before it runs."""
        return self._on_data.run(lambda repo: dvc_stages.snapshot(dvc_stages.load(repo, stage)))

    def clear(self, stage: str) -> None:
        """Removes the stage's outputs; read-only links into the cache are unlinked, the cache is untouched."""
        for path in self._session.run(lambda repo: [Path(out.fs_path) for out in dvc_stages.load(repo, stage).outs]):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def restore(self, stage: str) -> bool:
        """Brings back outputs that these inputs once had; False where the cache does not hold them, whole."""
        return self._session.run(lambda repo: dvc_stages.restore(dvc_stages.load(repo, stage)))

    def commit(self, stage: str, snapshot: StageSnapshot) -> None:
        """Remembers the outputs a run of the stage has just made.

        Raises:
            VersioningError: an input changed while it ran, or an output is missing, empty or left over from before;
                nothing is committed then.
        """
        self._session.run(lambda repo: dvc_stages.commit(dvc_stages.load(repo, stage), snapshot))

    # --- data and ledger ---------------------------------------------------------------------------------
    def add_data(self) -> None:
        """Pins the data folder as it is in `<data>.dvc`."""
        self._on_data.run(lambda repo: tracked_files.pin(repo, self._data))

    def add_ledger(self) -> None:
        """Pins ledger.parquet as it is in ledger.dvc."""
        self._session.run(lambda repo: tracked_files.pin(repo, self._ledger))

    def add_baseline(self) -> None:
        """Pins the folder `baseline` as it is in baseline.dvc."""
        self._session.run(lambda repo: tracked_files.pin(repo, self._baseline))

    def update_baseline(self) -> None:
        """Brings the folder `baseline` to the version that baseline.dvc pins, from the cache or the remote.

        Raises:
            VersioningError: neither has it, what they have is damaged, or files in the folder were edited.
        """
        self._session.run(lambda repo: tracked_files.update(repo, self._baseline))

    def pins_are_current(self) -> bool:
        """Whether data.dvc and ledger.dvc are as this machine last wrote or followed them, and nothing is missing: then
        `update_data` and `update_ledger` have nothing to do. Asks neither DVC nor the content."""
        return all(
            tracked_files.is_current(self.root, what) for what in (self._data, self._ledger) if self._concerns(what)
        )

    def update_data(self) -> list[str]:
        """Brings the data folder to the version that data.dvc pins, from the cache or the remote, and says what
        changed. What was edited here since data.dvc was last followed stays as it is. A Git merge conflict in data.dvc
        is resolved by joining what both sides changed.

        Raises:
            VersioningError: data.dvc pins another version and edited files are in the way (they are named), what it pins
                cannot be had whole (path, hash and remote are named), or there are no data and nothing pins any.
        """
        return self._on_data.run(self._update_data)

    def update_ledger(self) -> list[str]:
        """Joins ledger.parquet with the ledger that ledger.dvc pins, and says so where that changed it.

        Raises:
            LedgerError: what is pinned cannot be had, or gives an example another split.
        """
        return self._session.run(lambda repo: ledger_sync.update(repo, self._ledger))

    def refuse_conflicts(self) -> None:
        """Refuses a workspace in which a Git merge was left unresolved; in data.dvc and ledger.dvc Thaw resolves it.

        Raises:
            WorkspaceError: it names the files, with what to do about each.
        """
        either = "either side will do: git checkout --ours"
        locks = [entry.file for entry in PLACEHOLDERS]
        names = ["params.yaml", "dvc.yaml", "dvc.lock", "baseline.dvc", *locks]
        fixes = {name: f"{either} {name}" for name in ("dvc.lock", "baseline.dvc")}
        fixes |= {name: f"git checkout --ours {name}" for name in locks}
        merge_conflicts.refuse([self.root / name for name in names], fixes)

    def data_version(self) -> DataVersion:
        """Which data there is now, and whether data.dvc and Git would lead back to it."""
        return self._on_data.run(
            lambda repo: tracked_files.version(repo, self._data, dvc_stages.data_of(repo, self._data.path))
        )

    def unshared(self) -> UnsharedFiles:
        """Whether data.dvc leads back to the data, which of the files that belong into Git it does not hold as they
        are, and which of the data, the ledger and the baseline the DVC remote lacks, where that is known at once."""
        tracked = (self._data, self._ledger, self._baseline)
        pinned = [what for what in tracked if what.pin.is_file()]
        pin_names = [str(what.pin.relative_to(self.root)) for what in tracked]
        lock_names = [entry.file for entry in PLACEHOLDERS]
        names = ["params.yaml", "dvc.yaml", *pin_names, "dvc.lock", *lock_names]

        def ask(repo: Repo) -> tuple[str, tuple[str, ...]]:
            read = dvc_stages.data_of(repo, self._data.path)
            return tracked_files.unpinned(repo, self._data, read), unshared_files.unpushed(repo, pinned)

        unpinned, unpushed = self._on_data.run(ask)
        return UnsharedFiles(unpinned, unshared_files.uncommitted(self.root, names), unpushed)

    def _update_data(self, repo: Repo) -> list[str]:
        if merge_conflicts.sides(self._data.pin):
            return tracked_files.join(repo, self._data, dvc_stages.data_of(repo, self._data.path))
        return tracked_files.update(repo, self._data)

    def _concerns(self, what: PinnedFiles) -> bool:
        return what == self._data or what.pin.is_file() or tracked_files.is_known(self.root, what)

    @cached_property
    def _on_data(self) -> Session:
        """The session, once the data were looked at."""
        if self._data.path.is_dir():
            pointer_files.check(self._data.path)
        return self._session

    @cached_property
    def _data(self) -> PinnedFiles:
        path = self.root / Workspace(self.root).config().data.path
        return PinnedFiles(path, path.with_name(path.name + ".dvc"))

    @property
    def _baseline(self) -> PinnedFiles:
        return PinnedFiles(self.root / "baseline", self.root / "baseline.dvc")

    @property
    def _ledger(self) -> PinnedFiles:
        return PinnedFiles(self.root / "ledger.parquet", self.root / "ledger.dvc")
