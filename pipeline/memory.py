"""What is fresh, what can be restored and what to commit: DVC, asked in process. The only file that imports it.

After a step: `snapshot` (what it depends on), run it, `commit`. Then `dvc status` is clean and `dvc repro` does
nothing; and what `dvc repro` ran is fresh here. DVC's words, bars and warnings are kept from the user; its errors
become MemoryFault.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import MemoryFault
from pipeline.records import DataVersion
from pipeline.workspace import STEPS, Workspace

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage, Stage

T = TypeVar("T")
REMOTE = "storage"  # what the default remote is called
NAMED_CHANGES = 8  # more changed settings than this are counted, not listed


@dataclass(frozen=True)
class State:
    """Whether a stage's outputs are what its inputs determine.

    Args:
        why: what makes it stale, in a user's words; empty where it is fresh.
        after: stale stages before it; while there are any, `fresh` speaks of their present outputs only.
    """

    fresh: bool
    why: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """What a stage depends on, and which output files there were, before it ran."""

    stage: str
    inputs: dict[str, Any]  # path → hash; parameter file → values
    leftovers: frozenset[tuple[str, int, int]]  # path, inode, mtime of output files


def initialise(root: Path, remote: str) -> bool:
    """Makes `root` a DVC repository of its own and returns whether Git is used: where `root` lies in a Git
    repository that does not ignore it.

    Args:
        remote: URL or path of the default remote; a relative path is below `root`, and moves with it.

    Raises:
        MemoryFault: DVC refuses.
    """
    from dvc.exceptions import DvcException, InitError
    from dvc.repo import Repo

    _quieten()
    with contextlib.chdir(root):
        try:
            try:
                repo = Repo.init(".", subdir=True)
            except InitError:
                repo = Repo.init(".", no_scm=True)
            with repo, repo.config.edit() as settings:
                settings["core"] |= {"analytics": False, "check_update": False, "remote": REMOTE}
                settings["cache"] |= {"type": "reflink,hardlink,copy"}
                settings["remote"][REMOTE] = {"url": remote}
                return not settings["core"].get("no_scm", False)
        except DvcException as fault:
            raise MemoryFault(str(root), found=_plain(fault), expected="a new DVC repository") from fault


class Memory:
    """DVC's memory of one workspace.

    Args:
        root: the workspace.
        patience: seconds to wait for another DVC process before giving up.
    """

    def __init__(self, root: Path, patience: float = 30.0) -> None:
        self.root, self.patience = root.resolve(), patience

    # --- stages ------------------------------------------------------------------------------------------
    def states(self) -> dict[str, State]:
        """The state of every stage, in order, in one pass."""

        def ask(repo: Repo) -> dict[str, State]:
            states: dict[str, State] = {}
            stages = {stage.name: stage for stage in repo.stage.load_all(str(self.root / "dvc.yaml"))}
            for name in [name for name in STEPS if name in stages]:
                why = self._why(stages[name])
                read = {self._name(dep) for dep in stages[name].deps}
                before = [earlier for earlier in states if f"artifacts/{earlier}" in read]
                stale = {a for e in before for a in (*states[e].after, *([] if states[e].fresh else [e]))}
                states[name] = State(not why, why, tuple(earlier for earlier in states if earlier in stale))
            return states

        return self._with_dvc(ask)

    def state(self, stage: str) -> State:
        """The state of one stage, its inputs taken as they are."""
        why = self._with_dvc(lambda repo: self._why(self._stage(repo, stage)))
        return State(not why, why)

    def snapshot(self, stage: str) -> Snapshot:
        """What `stage` depends on right now; to be taken before it runs."""

        def take(repo: Repo) -> Snapshot:
            found = self._stage(repo, stage)
            return Snapshot(stage, self._inputs(found), frozenset(self._files(found)))

        return self._with_dvc(take)

    def clear(self, stage: str) -> None:
        """Removes the stage's outputs; read-only links into the cache are unlinked, the cache is untouched."""
        for path in self._with_dvc(lambda repo: [Path(out.fs_path) for out in self._stage(repo, stage).outs]):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def restore(self, stage: str) -> bool:
        """Brings back outputs that these inputs once had; False where the cache does not hold them (whole)."""
        from dvc.stage.cache import RunCacheNotFoundError

        def bring_back(repo: Repo) -> bool:
            found = self._stage(repo, stage)
            if self._only_cache_lost(found):
                found.commit()
            else:
                # As `dvc repro` does, outputs go first: what was changed by hand must not stay among what comes back.
                found.remove_outs()
                try:
                    repo.stage_cache.restore(found)
                except RunCacheNotFoundError:
                    return False
                self._save(found)
            return not (stage == "split" and self._ledger_objects())

        return self._with_dvc(bring_back)

    def commit(self, stage: str, snapshot: Snapshot) -> None:
        """Remembers the outputs a run of the stage has just made.

        Raises:
            MemoryFault: an input changed while it ran, or an output is missing, empty or left over from before;
                nothing is committed then.
        """

        def remember(repo: Repo) -> None:
            found = self._stage(repo, stage)
            self._refuse_changed(found, snapshot)
            self._refuse_unmade(found, snapshot)
            self._save(found)

        self._with_dvc(remember)

    # --- data and ledger ---------------------------------------------------------------------------------
    def add_data(self) -> None:
        """Pins the data folder as it is in `<data>.dvc`."""
        self._pin(self._data, _pin_of(self._data))

    def add_ledger(self) -> None:
        """Pins ledger.parquet as it is in ledger.dvc."""
        self._pin(self.root / "ledger.parquet", self.root / "ledger.dvc")

    def ensure_data(self) -> None:
        """Brings the data folder back from the cache or the remote where it is missing.

        Raises:
            MemoryFault: neither has it, or nothing pins it.
        """
        self._ensure(self._data, _pin_of(self._data))

    def ensure_ledger(self) -> None:
        """The same for ledger.parquet, which ledger.dvc pins."""
        self._ensure(self.root / "ledger.parquet", self.root / "ledger.dvc")

    def pinned_ledger(self) -> Path | None:
        """The ledger that ledger.dvc pins, in the cache, where ledger.parquet differs from it; else None.

        Raises:
            MemoryFault: neither the cache nor the remote has it.
        """
        pin = self.root / "ledger.dvc"

        def find(repo: Repo) -> Path | None:
            out = repo.stage.load_one(str(pin)).outs[0]
            if not out.changed_checksum():
                return None
            kept = Path(out.cache.oid_to_path(out.hash_info.value))
            if not kept.is_file():
                repo.fetch([str(pin)])
            if not kept.is_file():
                raise self._nowhere(repo, self.root / "ledger.parquet", pin)
            return kept

        return self._with_dvc(find)

    def data_version(self) -> DataVersion:
        """Which data there is now, and whether data.dvc and Git would lead back to it."""

        data, pin = self._data, _pin_of(self._data)

        def ask(repo: Repo) -> DataVersion:
            deps = [dep for dep in self._stage(repo, "validate").deps if Path(dep.fs_path) == data]
            if not deps:
                raise MemoryFault(
                    f"{self.root / 'dvc.yaml'}", found="stage validate does not depend on the data",
                    expected=f"{data.name}, which params.yaml names as data.path", mend="correct it there",
                )  # fmt: skip
            meta, found = deps[0]._get_hash_meta()
            pinned = repo.stage.load_one(str(pin)).outs[0].hash_info if pin.is_file() else None
            revision, committed = _git(repo, pin)
            reason = ""
            if pinned is None:
                reason = f"{pin.name} is missing"
            elif pinned != found:
                reason = f"{data.name} differs from what {pin.name} pins"
            elif revision and not committed:
                reason = f"{pin.name} is not committed to Git"
            return DataVersion(
                md5=found.value, size=meta.size or 0, files=meta.nfiles or 0, git_revision=revision,
                dirty=bool(reason), dirty_reason=reason,
            )  # fmt: skip

        return self._with_dvc(ask)

    @property
    def _data(self) -> Path:
        return self.root / Workspace(self.root).config().data.path

    # --- how ---------------------------------------------------------------------------------------------
    def _with_dvc(self, work: Callable[[Repo], T]) -> T:
        """Runs `work` on the repository, locked; waits for other DVC processes, within bounds."""
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.repo import Repo, lock_repo

        _quieten()
        until = time.monotonic() + self.patience
        # DVC names things by their path from the current folder, and makes stages there.
        with contextlib.chdir(self.root):
            while True:
                try:
                    with Repo(str(self.root)) as repo, lock_repo(repo):
                        return work(repo)
                except LockError as fault:
                    if time.monotonic() > until:
                        raise self._busy(fault) from fault
                    time.sleep(0.2)
                except DvcException as fault:
                    raise self._fault(fault) from fault

    def _busy(self, fault: Exception) -> MemoryFault:
        holders = [line.strip() for line in str(fault).splitlines() if "(PID" in line] or _lock_holder(self.root)
        return MemoryFault(
            str(self.root / ".dvc"), found="locked by another DVC process" + "".join(f" {who}" for who in holders),
            expected=f"the lock within {self.patience:g} s", mend="wait for that process to end, or stop it",
        )  # fmt: skip

    def _fault(self, fault: Exception) -> MemoryFault:
        cause = f" ({fault.__cause__})" if fault.__cause__ else ""
        return MemoryFault(str(self.root), found=f"{_plain(fault)}{cause}", mend="thaw doctor")

    def _stage(self, repo: Repo, name: str) -> PipelineStage:
        return repo.stage.load_one(str(self.root / "dvc.yaml"), name)

    def _name(self, entry: Output) -> str:
        return os.path.relpath(entry.fs_path, self.root).replace(os.sep, "/")

    def _why(self, stage: PipelineStage) -> tuple[str, ...]:
        from dvc.dependency import ParamsDependency

        if not any(entry.hash_info for entry in (*stage.deps, *stage.outs)):
            return ("never run",)
        why = ["command changed"] if stage.changed_stage() else []
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                why += _setting_changes(dep.params, dep.hash_info.value or {}, dep.read_params(), self._name(dep))
            else:
                why += [f"{self._name(dep)} {_file_changes(dep, status)}" for status in dep.status().values()]
        for out in stage.outs:
            why += [f"output {self._name(out)} {_WORDS[status]}" for status in out.status().values()]
        return tuple(why) or (self._ledger_objects() if stage.name == "split" else ())

    def _ledger_objects(self) -> tuple[str, ...]:
        """What speaks against a split that DVC finds fresh: it knows nothing of the ledger, which the step writes."""
        ledger, split = self.root / "ledger.parquet", self.root / "artifacts" / "split" / "manifest.parquet"
        if not split.exists():
            return ()
        if not ledger.exists():
            return ("ledger.parquet is missing",)
        # Reading both takes pyarrow, which takes longer to import than everything else here: once for each version.
        seen = self.root / ".thaw" / "ledger-agrees"
        versions = repr([(facts.st_ino, facts.st_size, facts.st_mtime_ns) for facts in (ledger.stat(), split.stat())])
        if seen.is_file() and seen.read_text() == versions:
            return ()
        from pipeline.data.ledger import agrees

        if not agrees(ledger, split):
            return ("ledger.parquet says otherwise than the split",)
        seen.parent.mkdir(exist_ok=True)
        seen.write_text(versions)
        return ()

    def _inputs(self, stage: Stage) -> dict[str, Any]:
        stage.save_deps()
        return {self._name(dep): dep.hash_info.value for dep in stage.deps}

    def _files(self, stage: Stage) -> Iterator[tuple[str, int, int]]:
        for out in stage.outs:
            path = Path(out.fs_path)
            for file in [path] if path.is_file() else path.rglob("*"):
                if file.is_file():
                    facts = file.stat()
                    yield str(file.relative_to(self.root)), facts.st_ino, facts.st_mtime_ns

    def _refuse_changed(self, stage: Stage, snapshot: Snapshot) -> None:
        now = self._inputs(stage)
        changed: list[str] = []
        for name in sorted(now.keys() | snapshot.inputs.keys()):
            before, after = snapshot.inputs.get(name), now.get(name)
            if before == after:
                continue
            if isinstance(before, dict) and isinstance(after, dict):
                changed += _setting_changes(list(after), before, after, name)
            else:
                changed.append(f"{name} changed")
        if changed:
            raise MemoryFault(
                f"step {snapshot.stage}", found="what it depends on changed while it ran; nothing was committed",
                expected="the same inputs from its start to its end", mend="thaw run", details=changed,
            )  # fmt: skip

    def _refuse_unmade(self, stage: Stage, snapshot: Snapshot) -> None:
        made = list(self._files(stage))
        stale = [name for name, *_ in snapshot.leftovers.intersection(made)]
        unmade = [
            self._name(out) for out in stage.outs if not any(Path(n).is_relative_to(self._name(out)) for n, *_ in made)
        ]
        details = [f"{name} was there before the run" for name in sorted(stale)]
        details += [f"{name} is missing or empty" for name in unmade]
        if details:
            raise MemoryFault(
                f"step {snapshot.stage}", found="outputs that this run did not make; nothing was committed",
                expected="every declared output, made by this run", mend=f"thaw run --force {snapshot.stage}",
                details=details,
            )  # fmt: skip

    def _only_cache_lost(self, stage: PipelineStage) -> bool:
        """Whether inputs and outputs are as remembered and just the cache lacks the outputs."""
        entries = (*stage.deps, *stage.outs)
        return all(entry.hash_info for entry in entries) and not any(stage.changed_entries())

    def _save(self, stage: PipelineStage) -> None:
        stage.save()
        stage.commit()
        stage.dump(update_pipeline=False)

    def _pin(self, path: Path, pin: Path) -> None:
        """`dvc add`, into a file of any name and without looking for every stage there is."""

        def add(repo: Repo) -> None:
            with repo.scm_context:
                stage = repo.stage.create(
                    single_stage=True, validate=False, fname=str(pin), wdir=str(pin.parent), outs=[path.name]
                )
                stage.add_outs()
                stage.dump()

        self._with_dvc(add)

    def _ensure(self, path: Path, pin: Path) -> None:
        if path.exists():
            return
        if not pin.is_file():
            raise MemoryFault(
                str(path), found=f"no such path, and no {pin.name} to bring it back by",
                mend=f"put {path.name} there, then: dvc add {path.name}",
            )  # fmt: skip

        def bring(repo: Repo) -> None:
            from dvc.exceptions import CheckoutError, DvcException

            try:
                repo.checkout([str(pin)])
            except CheckoutError:
                try:
                    repo.pull([str(pin)])
                except DvcException as fault:
                    raise self._nowhere(repo, path, pin) from fault

        self._with_dvc(bring)

    def _nowhere(self, repo: Repo, path: Path, pin: Path) -> MemoryFault:
        remote = repo.config["core"].get("remote")
        where = f"remote {remote}: {repo.config['remote'][remote]['url']}" if remote else "no remote configured"
        value = repo.stage.load_one(str(pin)).outs[0].hash_info.value
        return MemoryFault(
            str(path), found=f"neither the cache nor the remote has {value}, which {pin.name} pins",
            expected=where, mend=f"bring {path.name} back, or run `dvc push` where it still is",
        )  # fmt: skip


_WORDS = {
    "modified": "changed",
    "deleted": "is missing",
    "new": "is new",
    "not in cache": "is not in DVC's cache",
}


def _file_changes(dep: Output, status: str) -> str:
    """How a dependency changed, with files counted where the cache still knows the old ones."""
    before = dep.get_obj() if status == "modified" and dep.hash_info.isdir else None
    if before is None:
        return _WORDS[status]
    dep.save()
    old, new = ({key: oid for key, _, oid in tree} for tree in (before, dep.obj))
    counts = {
        "added": len(new.keys() - old.keys()),
        "removed": len(old.keys() - new.keys()),
        "changed": sum(old[key] != new[key] for key in old.keys() & new.keys()),
    }
    return "changed: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _pin_of(path: Path) -> Path:
    return path.with_name(path.name + ".dvc")


def _setting_changes(keys: list[str], old: dict[str, Any], new: dict[str, Any], file: str) -> list[str]:
    changes = [change for key in keys for change in _differences(key, old.get(key), new.get(key))]
    if len(changes) > NAMED_CHANGES:
        return [f"{file}: {len(changes)} settings changed, {changes[0]} among them"]
    return ["engine changed" if change.startswith("engine ") else f"{file}: {change}" for change in changes]


def _differences(key: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _differences(f"{key}.{name}", old.get(name), new.get(name))
    elif old != new:
        yield f"{key} {json.dumps(old, default=str)} → {json.dumps(new, default=str)}"


def _git(repo: Repo, pin: Path) -> tuple[str | None, bool]:
    """The revision checked out (None without Git or a commit), and whether it holds `pin` as it is."""
    from dvc.scm import NoSCM
    from scmrepo.exceptions import SCMError

    if isinstance(repo.scm, NoSCM):
        return None, False
    try:
        revision: str = repo.scm.get_rev()
        path = pin.relative_to(Path(repo.scm.root_dir).resolve())
        return revision, bool(repo.scm.get_fs(revision).cat_file(str(path)) == pin.read_bytes())
    except SCMError:
        return None, False
    except FileNotFoundError:
        return revision, False


def _plain(fault: Exception) -> str:
    return " ".join(str(fault).split())


def _lock_holder(root: Path) -> list[str]:
    import psutil

    with contextlib.suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int((root / ".dvc" / "tmp" / "lock").read_text().split()[0]))
        return [f"(PID {process.pid}): {' '.join(process.cmdline())}"]
    return []


def _quieten() -> None:
    for name in ("dvc", "dvc_data", "dvc_objects", "scmrepo"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
