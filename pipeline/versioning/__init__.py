"""What is fresh, what can be restored and what to commit: DVC, asked in process.
Nothing else imports it.

Around a step: `snapshot` (what it depends on), `clear`, run it, `commit`. Then `dvc
status` is clean and `dvc repro` does nothing; and what `dvc repro` ran is fresh here.
DVC's words, bars and warnings are kept from the user; its errors become
VersioningError.
"""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import step_table
from pipeline.records import DataVersion, GitState
from pipeline.versioning import (
    data_folder,
    dvc_stages,
    ledger_sync,
    merge_conflicts,
    tracked_files,
    unshared_files,
)
from pipeline.versioning.checkout import TrackedPath
from pipeline.versioning.dvc_session import DvcSession, initialise
from pipeline.versioning.dvc_stages import StageSnapshot, StageState
from pipeline.versioning.git_state import read_git_state
from pipeline.versioning.unshared_files import UnsharedFiles
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from dvc.repo import Repo

__all__ = ["StageSnapshot", "StageState", "Versioning", "initialise"]


class Versioning:
    """What DVC knows of one workspace. Every method may raise VersioningError: DVC is
    locked for too long, or refuses; and DataError where it looks at the data: they hold
    what DVC cannot hash.

    Args:
        root: the workspace.
        patience: seconds to wait for another DVC process before giving up.
    """

    def __init__(self, root: Path, patience: float = 30.0) -> None:
        self.root = root.resolve()
        self._session = DvcSession(self.root, patience)

    # --- stages ------------------------------------------------------------------------------------------
    def states(self) -> dict[str, StageState]:
        """The state of every stage, in order, in one pass."""
        return self._data_session.run(dvc_stages.stage_states)

    def state(self, stage: str) -> StageState:
        """The state of one stage, its inputs taken as they are."""
        return self._data_session.run(
            lambda repo: dvc_stages.stage_state(dvc_stages.load_stage(repo, stage))
        )

    def snapshot(self, stage: str) -> StageSnapshot:
        """What `stage` depends on right now; to be taken before it runs."""
        return self._data_session.run(
            lambda repo: dvc_stages.take_snapshot(dvc_stages.load_stage(repo, stage))
        )

    def clear(self, stage: str) -> None:
        """Removes the stage's outputs; read-only links into the cache are unlinked, the
        cache is untouched.
        """
        for path in self._session.run(
            lambda repo: dvc_stages.output_paths(dvc_stages.load_stage(repo, stage))
        ):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def restore(self, stage: str) -> bool:
        """Brings back outputs that these inputs once had; False where the cache does
        not hold them, whole.
        """
        return self._session.run(
            lambda repo: dvc_stages.restore_outputs(dvc_stages.load_stage(repo, stage))
        )

    def commit(self, stage: str, snapshot: StageSnapshot) -> None:
        """Commits the outputs that a run of the stage has just made.

        Raises:
            VersioningError: an input changed while it ran, or an output is missing,
                empty or left over from before; nothing is committed then.
        """
        self._session.run(
            lambda repo: dvc_stages.commit_outputs(
                dvc_stages.load_stage(repo, stage), snapshot
            )
        )

    # --- data, ledger and baseline -----------------------------------------------------------------------
    def add_data(self) -> None:
        """Tracks the data folder as it is in `<data>.dvc`."""
        self._data_session.run(lambda repo: tracked_files.add(repo, self._data))

    def add_ledger(self) -> None:
        """Tracks ledger.parquet as it is in ledger.dvc."""
        self._session.run(lambda repo: tracked_files.add(repo, self._ledger))

    def add_baseline(self) -> None:
        """Tracks the folder `baseline` as it is in baseline.dvc."""
        self._session.run(lambda repo: tracked_files.add(repo, self._baseline))

    def update_baseline(self) -> None:
        """Brings the folder `baseline` to the version that baseline.dvc tracks, from
        the cache or the remote.

        Raises:
            VersioningError: neither has it, what they have is damaged, or files in the
                folder were edited.
        """
        self._session.run(lambda repo: tracked_files.update(repo, self._baseline))

    def tracked_files_are_current(self) -> bool:
        """Whether data.dvc and ledger.dvc are as this machine last wrote or followed
        them, and nothing is missing: then `update_data` and `update_ledger` have
        nothing to do. Asks neither DVC nor the content.
        """
        if not tracked_files.is_current(self.root, self._data):
            return False
        has_ledger = self._ledger.dvc_file.is_file() or tracked_files.is_known(
            self.root, self._ledger
        )
        return not has_ledger or tracked_files.is_current(self.root, self._ledger)

    def update_data(self) -> list[str]:
        """Brings the data folder to the version that data.dvc tracks, from the cache or
        the remote, and says what changed. What was edited here since data.dvc was last
        followed stays as it is. A Git merge conflict in data.dvc is resolved by joining
        what both sides changed.

        Raises:
            VersioningError: data.dvc tracks another version and edited files are in the
                way (they are named), that version cannot be restored whole (path, hash
                and remote are named), or there are no data and nothing tracks any.
        """
        return self._data_session.run(self._update_data)

    def update_ledger(self) -> list[str]:
        """Joins ledger.parquet with the ledger that ledger.dvc tracks, and says so
        where that changed it.

        Raises:
            LedgerError: the tracked one cannot be restored, or gives an example another
                split.
        """
        return self._session.run(lambda repo: ledger_sync.update(repo, self._ledger))

    def refuse_conflicts(self) -> None:
        """Refuses a workspace in which a Git merge was left unresolved; in data.dvc and
        ledger.dvc Thaw resolves it.

        Raises:
            WorkspaceError: it names the files, with what to do about each.
        """
        hints = {}
        for name in ("dvc.lock", "baseline.dvc"):
            hints[name] = f"either side will do: git checkout --ours {name}"
        for lock in step_table.LOCK_FILES:
            hints[lock.file] = f"git checkout --ours {lock.file}"
        files = [self.root / name for name in ("params.yaml", "dvc.yaml", *hints)]
        merge_conflicts.refuse(files, hints)

    def data_version(self) -> DataVersion:
        """Which data there is now, and whether data.dvc and Git would lead back to it."""
        return self._data_session.run(self._data_version)

    def git_state(self, data: DataVersion) -> GitState | None:
        """The commit that is checked out and what differs from it; None where there is
        no Git or no commit.
        """
        if data.git_revision is None:
            return None
        return read_git_state(self.root, data.git_revision)

    def unshared(self) -> UnsharedFiles:
        """Whether data.dvc leads back to the data, which of the files that belong into
        Git it does not hold as they are, and which of the data, the ledger and the
        baseline the DVC remote lacks, where that is known at once.
        """
        tracked = (self._data, self._ledger, self._baseline)
        names = ["params.yaml", "dvc.yaml"]
        for item in tracked:
            names.append(str(item.dvc_file.relative_to(self.root)))
        names.append("dvc.lock")
        for lock in step_table.LOCK_FILES:
            names.append(lock.file)

        def ask(repo: Repo) -> tuple[str, tuple[str, ...]]:
            data = dvc_stages.data_dependency(repo, self._data.path)
            not_added = tracked_files.why_not_added(repo, self._data, data)
            present = [item for item in tracked if item.dvc_file.is_file()]
            return not_added, unshared_files.list_unpushed(repo, present)

        not_added, unpushed = self._data_session.run(ask)
        return UnsharedFiles(
            not_added, unshared_files.list_uncommitted(self.root, names), unpushed
        )

    def _update_data(self, repo: Repo) -> list[str]:
        if merge_conflicts.split_sides(self._data.dvc_file):
            data = dvc_stages.data_dependency(repo, self._data.path)
            return tracked_files.join_sides(repo, self._data, data)
        return tracked_files.update(repo, self._data)

    def _data_version(self, repo: Repo) -> DataVersion:
        data = dvc_stages.data_dependency(repo, self._data.path)
        return tracked_files.data_version(repo, self._data, data)

    @cached_property
    def _data_session(self) -> DvcSession:
        """The session, once the data were looked at."""
        if self._data.path.is_dir():
            data_folder.refuse_unusable(self._data.path)
        return self._session

    @cached_property
    def _data(self) -> TrackedPath:
        path = self.root / Workspace(self.root).config().data.path
        return TrackedPath(path, path.with_name(f"{path.name}.dvc"))

    @property
    def _baseline(self) -> TrackedPath:
        return TrackedPath(self.root / "baseline", self.root / "baseline.dvc")

    @property
    def _ledger(self) -> TrackedPath:
        return TrackedPath(self.root / "ledger.parquet", self.root / "ledger.dvc")
