"""The split step: manifest in, manifest with splits and a longer ledger out."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline import manifest
from pipeline.config import Config as Settings
from pipeline.config import SplitConfig, to_yaml
from pipeline.context import Context
from pipeline.data.ledger import load
from pipeline.errors import LedgerError, SplitError
from pipeline.evaluation.bootstrap import (
    BootstrapSettings,
    estimate_share,
    number_units,
)
from pipeline.records import SplitRecord, ValidateRecord
from pipeline.steps.split import split
from pipeline.upgrade import upgrade
from pipeline.versioning import Versioning, initialise
from pipeline.versioning.stale_reasons import ledger_reasons
from pipeline.workspace import Workspace, empty_folder

CONFIG = SplitConfig()


@dataclass
class Place:
    """A workspace whose validate step is done by hand."""

    root: Path
    rows: list[dict[str, object]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def info(self, text: str) -> None:
        self.said.append(text)

    def progress(self, what: str, done: int, total: int, note: str = "") -> None: ...

    def add(
        self,
        name: str,
        target: str,
        group: str | None = None,
        given: str | None = None,
        phash: str | None = None,
    ) -> None:
        row = {
            "id": hashlib.md5(name.encode()).hexdigest(),
            "path": name,
            "aliases": [],
            "target": target,
        }
        self.rows.append(
            row
            | {
                "group": group,
                "given_split": given,
                "split": None,
                "unit": None,
                "scan.phash": phash,
            }
        )

    def grow(self, prefix: str, count: int) -> None:
        for target in ("ok", "crack"):
            for number in range(count):
                self.add(
                    f"{target}/{prefix}{number}",
                    target,
                    group=f"{target}{prefix}{number // 3}",
                )

    def split(self, config: SplitConfig = CONFIG) -> SplitRecord:
        labels = tuple(sorted({str(row["target"]) for row in self.rows}))
        before = empty_folder(self.root / "artifacts/validate")
        schema = pa.schema([*manifest.COLUMNS, pa.field("scan.phash", pa.string())])
        sha256 = manifest.write(
            pa.Table.from_pylist(self.rows, schema=schema), before / "manifest.parquet"
        )
        validated = ValidateRecord(
            manifest_sha256=sha256,
            labels=labels,
            examples=len(self.rows),
            files=len(self.rows),
            aliases=0,
            quarantined=0,
            per_class={},
            converted={},
            findings=(),
            checks=1,
        ).save(before)
        context = Context(
            self.root,
            self.root / "data",
            self.root / ".thaw",
            self.root / ".thaw/runs/x",
            self,
        )
        return split(
            config, validated, empty_folder(self.root / "artifacts/split"), context
        )

    def splits(self) -> dict[str, str | None]:
        return self._column("split")

    def units(self) -> dict[str, str | None]:
        return self._column("unit")

    def _column(self, name: str) -> dict[str, str | None]:
        table = manifest.read(self.root / "artifacts/split/manifest.parquet")
        return dict(
            zip(table["path"].to_pylist(), table[name].to_pylist(), strict=True)
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def pinned(place: Place) -> Place:
    """The same, where DVC remembers."""
    initialise(place.root, "remote")
    (place.root / "params.yaml").write_text(to_yaml(Settings()))
    upgrade(Workspace(place.root))
    place.grow("a", 12)
    place.split()
    return place


def test_growing_three_times_moves_nothing_and_keeps_the_fractions(
    place: Place,
) -> None:
    before: dict[str, str | None] = {}
    for growth, count in enumerate((30, 9, 60, 21)):
        place.grow(f"{growth}-", count)
        record = place.split()
        now = place.splits()
        assert {path: now[path] for path in before} == before
        assert record.new == 2 * count
        for target in record.labels:
            total = sum(record.counts[name][target] for name in manifest.SPLITS)
            for name in manifest.SPLITS:
                assert record.counts[name][target] == pytest.approx(
                    getattr(CONFIG.fractions, name) * total, abs=4
                )
        before = now


def test_relabelling_reordering_and_removing_move_nothing(place: Place) -> None:
    place.grow("a", 30)
    place.split()
    before = place.splits()
    sha256 = manifest.sha256(place.root / "artifacts/split/manifest.parquet")
    random.Random(0).shuffle(place.rows)
    place.split()
    assert manifest.sha256(place.root / "artifacts/split/manifest.parquet") == sha256
    for row in place.rows[:10]:
        row["target"] = "ok" if row["target"] == "crack" else "crack"
    gone = place.rows.pop()
    place.split()
    assert place.splits() == {
        path: name for path, name in before.items() if path != gone["path"]
    }
    place.rows.append(gone)
    place.split()
    assert place.splits() == before


def test_running_again_gives_the_same_record(place: Place) -> None:
    place.grow("a", 30)
    assert place.split() == place.split()


def test_a_given_validation_set_as_the_test_set(place: Place) -> None:
    for name, count in (("train", 60), ("val", 20)):
        for number in range(count):
            place.add(f"{name}{number}", "ok", given=name)
    record = place.split(SplitConfig(given_val_as="test"))
    assert {path for path, name in place.splits().items() if name == "test"} == {
        f"val{n}" for n in range(20)
    }
    assert record.counts["val"]["ok"] == pytest.approx(60 * 0.15 / 0.85, abs=1)


def test_without_a_given_test_set_it_is_dealt_from_train(place: Place) -> None:
    for name, count in (("train", 60), ("val", 20)):
        for number in range(count):
            place.add(f"{name}{number}", "ok", given=name)
    record = place.split()
    assert record.counts["val"]["ok"] == 20
    assert record.counts["test"]["ok"] == pytest.approx(60 * 0.15 / 0.85, abs=1)


def test_given_splits_can_be_ignored(place: Place) -> None:
    for number in range(40):
        place.add(f"{number}", "ok", given="test")
    with pytest.raises(SplitError, match="given for test") as caught:
        place.split()
    assert "split.given: ignore" in caught.value.hint
    assert place.split(SplitConfig(given="ignore")).counts["train"]["ok"] == 28


def test_where_the_training_data_went_away_no_given_split_is_blamed(
    place: Place,
) -> None:
    for number in range(40):
        place.add(f"{number}", "ok")
    place.split()
    splits = place.splits()
    place.rows[:] = [row for row in place.rows if splits[row["path"]] != "train"]
    with pytest.raises(SplitError, match="they keep") as caught:
        place.split()
    assert "split.given" not in caught.value.hint


def test_a_given_split_that_moved_is_a_warning_and_the_ledger_wins(
    place: Place,
) -> None:
    for name in manifest.SPLITS:
        for number in range(5):
            place.add(f"{name}{number}", "ok", given=name)
    place.split()
    place.rows[0]["given_split"] = "test"
    record = place.split()
    assert [(w.code, w.items) for w in record.warnings] == [
        ("given-split-moved", ("train0: train",))
    ]
    assert place.splits()["train0"] == "train"


def test_a_bridging_example_is_left_out_by_name(place: Place) -> None:
    place.grow("a", 30)
    place.split()
    sides = {
        name: next(path for path, s in place.splits().items() if s == name)
        for name in ("train", "test")
    }
    rows = {str(row["path"]): row for row in place.rows}
    rows[sides["test"]]["scan.phash"] = "0123456789abcdef"
    place.add(
        "ok/bridge",
        "ok",
        group=str(rows[sides["train"]]["group"]),
        phash="0123456789abcdee",
    )
    record = place.split()
    assert [finding.items for finding in record.left_out] == [("ok/bridge",)]
    assert (
        "left out ok/bridge: belong together with examples of train and test"
        in place.said
    )
    assert place.splits()["ok/bridge"] is None
    assert sum(sum(classes.values()) for classes in record.counts.values()) == 60
    assert record.near_duplicate_groups == 0


def test_near_duplicates_are_counted_and_kept_together(place: Place) -> None:
    for number in range(30):
        place.add(
            f"{number}",
            "ok",
            phash=f"{0x0123456789ABCDEF ^ (0x1111 * (number // 2)) << (number // 2):016x}",
        )
    record = place.split()
    assert record.near_duplicate_groups > 0
    assert all(
        place.splits()[f"{n}"] == place.splits()[f"{n + 1}"] for n in range(0, 30, 2)
    )


def test_an_edited_example_is_not_new(place: Place) -> None:
    place.grow("a", 12)
    place.add("ok/photo", "ok", phash="0123456789abcdef")
    assert place.split().new == 25
    place.rows.pop()
    place.add("ok/photo, retouched", "ok", phash="0123456789abcdee")
    place.add("ok/other", "ok", phash="fedcba9876543210")
    assert place.split().new == 1
    assert place.split().new == 1


def test_units_are_groups_and_near_duplicates_joined_in_any_chain(place: Place) -> None:
    place.grow("a", 12)
    near = ("0123456789abcdef", "0123456789abcdee", "0123456789abcdec")
    place.add("ok/1", "ok", group="left", phash=near[0])
    place.add("ok/2", "ok", phash=near[1])
    place.add("ok/3", "ok", group="right", phash=near[2])
    place.add("ok/4", "ok", group="right")
    place.add("ok/5", "ok", phash="fedcba9876543210")
    place.split()
    units = place.units()
    assert len({units[f"ok/{number}"] for number in range(1, 5)}) == 1
    assert units["ok/5"] == hashlib.md5(b"ok/5").hexdigest()
    assert len(set(units.values())) == 8 + 2
    members = [
        hashlib.md5(f"ok/{number}".encode()).hexdigest() for number in range(1, 5)
    ]
    assert units["ok/1"] == min(members)


def test_without_near_duplicates_only_groups_are_units(place: Place) -> None:
    place.grow("a", 12)
    for number in range(3):
        place.add(f"ok/{number}", "ok", phash="0123456789abcdef")
    place.split(SplitConfig(near_duplicates=-1))
    assert len(set(place.units().values())) == 8 + 3


def test_an_example_that_was_left_out_has_no_unit(place: Place) -> None:
    place.grow("a", 30)
    place.split()
    sides = {
        name: next(path for path, s in place.splits().items() if s == name)
        for name in ("train", "test")
    }
    groups = {str(row["path"]): row for row in place.rows}
    groups[sides["test"]]["scan.phash"] = "0123456789abcdef"
    place.add(
        "ok/bridge",
        "ok",
        group=str(groups[sides["train"]]["group"]),
        phash="0123456789abcdee",
    )
    place.split()
    assert place.units()["ok/bridge"] is None


def test_copies_of_photographs_widen_the_interval_as_groups_do(place: Place) -> None:
    """Twenty photographs, five near copies of each, twelve of them right: the evidence
    of twenty examples.
    """
    dice = random.Random(0)
    for number in range(20):
        phash = dice.getrandbits(64)
        for copy in range(5):
            place.add(
                f"test/{number:02d}-{copy}",
                "ok",
                given="test",
                phash=f"{phash ^ copy:016x}",
            )
            place.add(
                f"train/{number:02d}-{copy}",
                "ok",
                given="train",
                phash=f"{dice.getrandbits(64):016x}",
            )
    place.split()
    table = manifest.read(place.root / "artifacts/split/manifest.parquet")
    rows = table.filter(pc.equal(table["split"], "test"))
    right = np.array([int(path[5:7]) < 12 for path in rows["path"].to_pylist()])
    found = estimate_share(
        right, number_units(rows["unit"]), BootstrapSettings(2000, 0.95, 0)
    )
    assert (len(right), found.value) == (100, 0.6)
    assert (found.low, found.high) == pytest.approx((0.4, 0.8), abs=0.05)


def test_a_class_without_training_examples_stops(place: Place) -> None:
    place.grow("a", 10)
    for number in range(5):
        place.add(f"rare{number}", "rare", given="test")
    with pytest.raises(SplitError, match="rare"):
        place.split()
    assert not (place.root / "ledger.parquet").exists()


def test_a_class_of_one_group_is_warned_of(place: Place) -> None:
    place.grow("a", 10)
    for number in range(12):
        place.add(f"lone{number}", "lone", group="only")
    assert [
        warning.code
        for warning in place.split().warnings
        if warning.subject == "class lone"
    ] == [
        "no-val",
        "no-test",
    ]


# --- with DVC -------------------------------------------------------------------------


def test_the_ledger_is_pinned(pinned: Place) -> None:
    assert Versioning(pinned.root).update_ledger() == []
    pin = (pinned.root / "ledger.dvc").read_text()
    pinned.grow("b", 6)
    pinned.split()
    assert (pinned.root / "ledger.dvc").read_text() != pin
    assert Versioning(pinned.root).update_ledger() == []


def test_a_missing_ledger_comes_back_from_the_cache(pinned: Place) -> None:
    before = pinned.splits()
    (pinned.root / "ledger.parquet").unlink()
    pinned.split(SplitConfig(seed=1))  # which would deal otherwise
    assert pinned.splits() == before


def test_a_ledger_that_cannot_be_had_stops_and_no_new_one_is_started(
    pinned: Place,
) -> None:
    (pinned.root / "ledger.parquet").unlink()
    for kept in (pinned.root / ".dvc/cache/files").rglob("*"):
        if kept.is_file():
            kept.unlink()
    with pytest.raises(LedgerError, match=r"dvc pull ledger\.dvc"):
        pinned.split()
    assert not (pinned.root / "ledger.parquet").exists()
    assert not list((pinned.root / "artifacts/split").iterdir())


def test_a_kill_between_ledger_and_pin_loses_nothing(
    pinned: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned.grow("b", 6)
    fired = []

    def killed(_memory: Versioning) -> None:
        fired.append(True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Versioning, "add_ledger", killed)
        with pytest.raises(KeyboardInterrupt):
            pinned.split()
    assert fired
    before = load(pinned.root / "ledger.parquet")
    pinned.split()
    assert load(pinned.root / "ledger.parquet") == before


def test_a_colleagues_ledger_is_taken_in(pinned: Place) -> None:
    """ledger.dvc came by `git pull`, and the file on the disk is still the old one."""
    old = (pinned.root / "ledger.parquet").read_bytes()
    pinned.grow("b", 6)
    pinned.split()
    both = load(pinned.root / "ledger.parquet")
    (pinned.root / "ledger.parquet").unlink()
    (pinned.root / "ledger.parquet").write_bytes(old)
    pinned.split(SplitConfig(seed=5))
    assert load(pinned.root / "ledger.parquet") == both


def test_a_split_that_the_ledger_contradicts_is_not_fresh(pinned: Place) -> None:
    assert not ledger_reasons(pinned.root)
    (pinned.root / "ledger.parquet").unlink()
    assert ledger_reasons(pinned.root) == ("ledger.parquet is missing",)
    (pinned.root / "ledger.dvc").unlink()
    fresh = Place(pinned.root, [{**row} for row in pinned.rows])
    kept = (pinned.root / "artifacts/split/manifest.parquet").read_bytes()
    fresh.split(SplitConfig(seed=7))
    (pinned.root / "artifacts/split/manifest.parquet").write_bytes(kept)
    assert ledger_reasons(pinned.root) == (
        "ledger.parquet says otherwise than the split",
    )
