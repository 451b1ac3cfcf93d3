"""Promoting: by evidence, in the journal first, and undone by nobody but a person."""

from __future__ import annotations

import errno
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consoles import RecordingConsole
from flows import temporary
from flows.promotion import answer_request, promote_version, read_model, roll_back
from pipeline import receipts
from pipeline.config import PromotionConfig, to_yaml
from pipeline.errors import ConfigError, ServingError, TrackingError
from pipeline.files import sha256
from pipeline.promotion_journal import Entry, JournalMovedError, now, read_history
from pipeline.receipts import current_promotion
from pipeline.steps import version_card
from pipeline.steps.promote import promote
from pipeline.steps.promotion_evidence import Challenger
from pipeline.tracking import registered, registry, serve_check
from pipeline.tracking.journal_run import JournalRun
from pipeline.tracking.store import find
from pipeline.training import members
from pipeline.workspace import Workspace
from registry_helpers import LABELS, Finished, lay_finished

pytestmark = pytest.mark.slow


@pytest.fixture
def done(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A workspace with finished steps, and thresholds that are reached."""
    finished = lay_finished(tmp_path / "insects", tmp_path_factory)
    finished.with_thresholds(accuracy=0.8)
    return finished


def journal(done: Finished) -> JournalRun:
    return JournalRun(find(done.config.tracking, Workspace(done.root)), "insects")


def place(done: Finished) -> Workspace:
    """The workspace, whose settings commands read."""
    (done.root / "params.yaml").write_text(to_yaml(done.config))
    (done.root / "dvc.yaml").write_text("")
    return Workspace(done.root)


def read_cards(done: Finished, number: str) -> list[str]:
    """A version's card as it lies beside its files, and among its run's artifacts."""
    store = find(done.config.tracking, Workspace(done.root))
    version = store.client.get_model_version("insects", number)
    run = store.client.get_run(version.run_id)
    folders = (version.source, run.info.artifact_uri)
    paths = (Path(url2pathname(urlsplit(folder).path)) for folder in folders)
    return [(path / "model_card.md").read_text() for path in paths]


def aliases(done: Finished) -> list[tuple[str, ...]]:
    return [
        version.aliases
        for version in registered(done.config, Workspace(done.root), "insects")
    ]


def set_policy(done: Finished, **settings: Any) -> None:
    done.config = done.config.model_copy(
        update={"promotion": PromotionConfig(**settings)}
    )


def test_the_first_to_reach_the_thresholds_is_champion_once_it_was_served(
    done: Finished,
) -> None:
    console = RecordingConsole()
    record = done.promote(served=False, console=console)
    assert (record.decision, record.champion, record.is_champion) == (
        "promote",
        "1",
        True,
    )
    assert any("serving insects v1 once" in line for line in console.lines)
    assert aliases(done) == [("challenger", "champion")]
    assert [entry.kind for entry in journal(done).read()] == ["verdict", "promoted"]
    store = find(done.config.tracking, Workspace(done.root))
    description = store.client.get_model_version("insects", "1").description
    assert description.startswith("**Promoted to champion (")
    assert done.register().version == "1"
    assert store.client.get_model_version("insects", "1").description == description, (
        "registering again forgets nothing"
    )
    again = done.promote()
    assert again.decision == "nothing-to-decide"
    assert len(journal(done).read()) == 2


def test_a_threshold_not_reached_is_named_and_nothing_is_champion(
    done: Finished,
) -> None:
    done.with_thresholds(accuracy=0.95, log_loss=0.1)
    record = done.promote()
    assert record.decision == "reject"
    assert "accuracy 0.9 is below 0.95; log_loss 0.3 is above 0.1" in record.reason
    assert record.next_command.startswith("thaw promote 1 ")
    assert aliases(done) == [("challenger",)]


def test_without_thresholds_a_first_model_must_beat_a_constant_answer(
    done: Finished,
) -> None:
    done.with_thresholds()
    record = done.promote()
    assert record.decision in ("cannot-tell", "reject")
    assert "constant answer" in record.reason


def test_a_second_model_is_compared_by_the_champions_own_answers_which_are_kept(
    done: Finished,
) -> None:
    done.promote()
    second = done.retrained(seed=4)
    record = second.promote()
    assert (record.version, record.champion, record.compared_with) == ("2", "1", "1")
    assert record.decision in ("cannot-tell", "reject")
    assert (record.examples, record.looks) == (len(done.files), 2)
    shown = json.loads((done.root / ".thaw" / record.flips / "flips.json").read_text())
    assert len(shown["better"]) == min(record.better, 6)
    assert record.worse == round(record.negative_flips * record.examples)
    (kept,) = (done.root / ".thaw" / "promotion" / "answers").iterdir()
    assert pq.read_table(kept).num_rows == len(done.files)
    assert aliases(done) == [("challenger",), ("champion",)]
    assert (
        current_promotion(second.config, Workspace(done.root), second.register())
        == record
    )
    assert second.promote().looks == 2, "a repeat is no look"


def test_what_the_champion_learnt_from_is_left_out_of_the_comparison(
    done: Finished,
) -> None:
    names = [file.name for file in done.files]
    rows = [
        {
            "id": name,
            "group": None,
            "split": "train" if at < 3 else "test",
            "target": LABELS[0],
        }
        for at, name in enumerate(names)
    ]
    members.write_members(
        pa.Table.from_pylist(rows, schema=members.SCHEMA), done.finetuned.members
    )
    done.promote()
    second = done.retrained(seed=4)
    record = second.promote()
    assert (record.examples, record.seen) == (len(names) - 3, 3)


def test_data_that_cannot_be_found_again_promote_nothing_and_are_asked_about_each_time(
    done: Finished,
) -> None:
    done.data = done.data.model_copy(
        update={"dirty": True, "dirty_reason": "data.dvc is not committed to Git"}
    )
    record = done.promote()
    assert (record.decision, record.champion, record.provisional) == (
        "cannot-tell",
        "",
        True,
    )
    assert current_promotion(done.config, Workspace(done.root), done.register()) is None
    done.data = done.data.model_copy(update={"dirty": False, "dirty_reason": ""})
    assert done.promote().champion == "1"


def test_a_champion_that_is_lost_or_broken_stays_and_the_verdict_says_so(
    done: Finished,
) -> None:
    first = done.register()
    done.promote()
    store = find(done.config.tracking, Workspace(done.root))
    source = Path(
        store.client.get_model_version("insects", first.version).source.removeprefix(
            "file://"
        )
    )
    (source / "artifacts" / "model" / "weights.safetensors").write_bytes(b"broken")
    record = done.retrained(seed=4).promote()
    assert (record.decision, record.champion) == ("cannot-tell", "1")
    assert "cannot answer" in record.reason
    assert record.provisional, "what was amiss may be gone at the next run"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("members.parquet", "does not say which examples it learnt from"),
        ("artifacts/model/model.json", "does not say its classes"),
    ],
)
def test_a_champion_that_does_not_say_what_it_knows_is_compared_with_nobody(
    done: Finished, broken: str, reason: str
) -> None:
    done.promote()
    store = find(done.config.tracking, Workspace(done.root))
    source = store.client.get_model_version("insects", "1").source
    file = Path(source.removeprefix("file://")) / broken
    if file.suffix == ".json":
        file.write_text('{"labels": null}')
    else:
        pq.write_table(pa.table({"of another table": ["a"]}), file)
    record = done.retrained(seed=4).promote()
    assert (record.decision, record.champion) == ("cannot-tell", "1")
    assert reason in record.reason


def test_the_same_weights_served_otherwise_follow_the_champion(done: Finished) -> None:
    done.promote()
    done.with_intake(max_pixels=700_000)
    record = done.promote()
    assert (record.version, record.champion, record.decision) == (
        "2",
        "2",
        "nothing-to-decide",
    )


def test_a_kill_between_journal_and_alias_is_made_good_by_whoever_asks(
    done: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.steps import promote

    def die(point: str) -> None:
        if point == "before-champion":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(promote, "crash_point", die)
        with pytest.raises(KeyboardInterrupt):
            done.promote()
    store = find(done.config.tracking, Workspace(done.root))
    assert "champion" not in store.client.get_registered_model("insects").aliases, (
        "the fault did not fire"
    )
    assert aliases(done) == [("challenger", "champion")]


def test_an_alias_from_before_the_journal_is_its_first_entry(done: Finished) -> None:
    done.register()
    find(done.config.tracking, Workspace(done.root)).client.set_registered_model_alias(
        "insects", "champion", "1"
    )
    record = done.retrained(seed=4).promote()
    assert (record.version, record.compared_with, record.champion) == ("2", "1", "1")
    assert journal(done).read()[0].kind == "adopted"


def test_an_alias_moved_by_hand_is_set_back(done: Finished) -> None:
    done.promote()
    done.retrained(seed=4).promote()
    find(done.config.tracking, Workspace(done.root)).client.set_registered_model_alias(
        "insects", "champion", "2"
    )
    assert aliases(done) == [("challenger",), ("champion",)]


def test_who_decided_on_another_champion_changes_nothing(done: Finished) -> None:
    done.promote()
    late = Entry(
        kind="promoted", champion="", version="1", by="zombie", reason="", time=now()
    )
    before = journal(done).read()
    with pytest.raises(JournalMovedError, match="version 1"):
        journal(done).append(late)
    assert journal(done).read() == before


def test_a_person_promotes_and_rolls_back_and_no_run_undoes_it(done: Finished) -> None:
    done.promote()
    second = done.retrained(seed=4)
    verdict = second.promote().decision
    console = RecordingConsole()
    said = promote_version(place(second), "v2", "Ines", "try it", console)
    assert said == "insects v2 is champion"
    last = journal(done).read()[-1]
    assert (last.kind, last.by, last.decision, last.reason) == (
        "promoted",
        "Ines",
        verdict,
        "try it",
    )
    client = find(done.config.tracking, Workspace(done.root)).client
    told = [
        client.get_model_version("insects", number).description.splitlines()[0]
        for number in ("1", "2")
    ]
    assert told[0].startswith("**Succeeded by version 2 (")
    assert told[1].startswith("**Promoted to champion, overriding the verdict (")
    for number, sentence in (("1", told[0]), ("2", told[1])):
        for card in read_cards(second, number):
            assert card.split("\n\n")[1] == sentence
            assert sentence.strip("*").split(" (")[0] in card.split("## Decisions")[1]
    assert second.promote().is_champion
    said = roll_back(place(second), "", "Ines", "worse", console)
    assert "v2 is withdrawn" in said
    record = second.promote()
    assert (record.decision, record.champion) == ("reject", "1")
    assert "rolled back" in record.reason
    assert aliases(done) == [("challenger",), ("champion",)]
    lines = read_model(place(second)).describe()
    assert any("rolled back" in line for line in lines)
    assert any(f"overriding the verdict {verdict}" in line for line in lines)
    with pytest.raises(ConfigError, match="no such version"):
        promote_version(place(second), "7", "", "", console)
    with pytest.raises(ConfigError, match="first champion"):
        roll_back(place(second), "", "", "", console)


def test_a_version_that_cannot_be_served_is_promoted_by_nobody(done: Finished) -> None:
    done.promote()
    second = done.retrained(seed=4)
    second.promote()
    store = find(done.config.tracking, Workspace(done.root))
    source = Path(
        store.client.get_model_version("insects", "2").source.removeprefix("file://")
    )
    (source / "artifacts" / "model" / "weights.safetensors").write_bytes(b"broken")
    with pytest.raises(ServingError, match="insects v2"):
        promote_version(place(second), "2", "Ines", "", RecordingConsole())
    assert read_history(journal(done).read()).champion == "1"


def test_a_version_that_could_not_be_served_is_tried_again_by_the_next_run(
    done: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_slow(*_: Any) -> Any:
        raise ServingError("insects v1", found="its server was not up after 60 s")

    monkeypatch.setattr(serve_check, "ask_served", is_slow)
    record = done.promote(served=False)
    assert (record.decision, record.champion) == ("reject", "")
    assert "not up after 60 s" in record.reason
    assert record.details == ("the next run asks again",)
    assert current_promotion(done.config, Workspace(done.root), done.register()) is None
    again = done.promote()
    assert (again.decision, again.champion, again.looks) == ("promote", "1", 1)


def test_a_decision_stands_where_what_follows_from_it_cannot_be_written(
    done: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    done.promote()
    second = done.retrained(seed=4)
    second.promote()

    def is_full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "model_card.md")

    monkeypatch.setattr(serve_check, "ask_served", lambda *_: [])
    monkeypatch.setattr(version_card, "restate_decisions", is_full)
    console = RecordingConsole()
    said = promote_version(place(second), "2", "Ines", "", console)
    assert said == "insects v2 is champion"
    assert "this is decided" in console
    assert "No space left on device" in console


def test_a_version_waits_for_approval_which_lapses_and_is_overtaken(
    done: Finished,
) -> None:
    from flows.approval import approval  # Prefect, which takes a second

    set_policy(done, mode="human")
    record = done.promote()
    assert (record.champion, record.waits) == ("", True)
    assert record.next_command.startswith("thaw approve 1")
    done.promote()
    entries = journal(done).read()
    assert [entry.kind for entry in entries] == ["verdict", "requested"], (
        "it is asked once"
    )
    registered_now = done.register()
    assert current_promotion(done.config, place(done), registered_now) == record
    old = [
        entry.model_copy(update={"time": "2020-01-01T00:00:00+00:00"})
        for entry in entries
    ]
    receipts.write_journal(place(done), "insects", old)
    assert current_promotion(done.config, place(done), registered_now) is None, (
        "it lapsed, and is to be asked again"
    )
    with temporary.server(place(done).scratch, lambda: None):
        assert (
            approval(str(done.root), "1", "approve", "Ines", "yes")
            == "insects v1 is champion"
        )
        with pytest.raises(ConfigError, match="approval: it is the champion"):
            approval(str(done.root), "1", "approve", "Ines", "again")
    assert journal(done).read()[-1].kind == "approved"
    assert aliases(done) == [("challenger", "champion")]
    history = read_history(journal(done).read())
    assert history.find_request("1", 7, datetime.now(UTC)) is None


def test_a_refused_version_is_not_asked_for_again(done: Finished) -> None:
    set_policy(done, mode="human")
    done.promote()
    said = answer_request(
        place(done), "1", "Ines", "no", RecordingConsole(), approve=False
    )
    assert said.startswith("insects v1 is refused")
    with pytest.raises(ConfigError, match="refused by Ines"):
        answer_request(
            place(done), "1", "Ines", "yes", RecordingConsole(), approve=True
        )
    with pytest.raises(ConfigError, match="refused by Ines") as caught:
        answer_request(
            place(done), "1", "Ines", "no", RecordingConsole(), approve=False
        )
    assert "thaw promote" not in str(caught.value), "it would make it champion"
    record = done.promote()
    assert (record.decision, record.waits) == ("reject", False)
    assert "refused by Ines: no" in record.reason
    assert [entry.kind for entry in journal(done).read()] == [
        "verdict",
        "requested",
        "refused",
    ]


def test_nothing_is_decided_about_a_version_that_was_deleted(done: Finished) -> None:
    done.promote()
    before = journal(done).read()
    records = (
        done.validated,
        done.split,
        done.backbone,
        done.finetuned,
        done.evaluated,
        done.register(),
    )
    store = find(done.config.tracking, Workspace(done.root))
    store.client.delete_model_version("insects", "1")
    with pytest.raises(TrackingError, match="thaw run --force register"):
        promote(Challenger(done.config, *records, done.data, done.context()))
    assert journal(done).read() == before


def test_what_is_known_of_the_journal_is_mirrored(done: Finished) -> None:
    done.promote()
    mirrored = receipts.read_journal(Workspace(done.root), "insects")
    assert [entry.kind for entry in mirrored] == ["verdict", "promoted"]
    assert receipts.read_journal(Workspace(done.root), "birds") == []


def test_what_another_machine_adds_to_the_champions_members_counts_here(
    done: Finished, tmp_path: Path
) -> None:
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    tracking = done.config.tracking.model_copy(update={"uri": elsewhere})
    done.config = done.config.model_copy(update={"tracking": tracking})
    done.promote()
    second = done.retrained(seed=4)
    assert second.promote().seen == 0
    rows = pq.read_table(second.finetuned.members).to_pylist()
    learnt = [{**row, "split": "train"} for row in rows[:3]]
    path = tmp_path / members.FILE
    members.write_members(pa.Table.from_pylist(learnt, schema=members.SCHEMA), path)
    store = find(done.config.tracking, Workspace(done.root))
    champion = registry.find(store, "models:/insects@champion")
    registry.upload(store, champion, tmp_path, [members.FILE])
    store.client.set_model_version_tag(
        "insects", champion.version, members.SHA256_TAG, sha256(path)
    )
    third = second.retrained(seed=5)
    assert third.promote().seen == 3


def test_a_version_is_served_once_more_with_other_libraries(
    done: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.steps import promote as step

    tried: list[str] = []
    monkeypatch.setattr(
        step._Promotion,
        "_try_serving",
        lambda _, version: tried.append(version.version),
    )
    second = enlarge(done)
    set_policy(second, mode="human")
    for _ in range(2):
        assert second.promote(served=False).waits
    assert tried == ["2"]
    monkeypatch.setattr(step, "describe_environment", lambda: ["torch==99"])
    assert second.promote(served=False).waits
    assert tried == ["2", "2"]


def test_a_better_model_takes_the_place_of_the_champion(done: Finished) -> None:
    """The champion answers by its own code; the challenger's answers are all right, the
    champion's mostly wrong.
    """
    second = enlarge(done)
    record = second.promote()
    assert record.gain is not None
    assert (record.decision, record.champion, record.compared_with) == (
        "promote",
        "2",
        "1",
    ), record.reason
    assert record.gain.low > 0
    assert record.positive_flips is not None
    assert record.positive_flips > 0.5
    assert aliases(done) == [("challenger", "champion"), ()]


def enlarge(done: Finished) -> Finished:
    """The champion is registered; then a second model is judged on forty pictures that
    the champion gets wrong.
    """
    from PIL import Image

    from pipeline.manifest import COLUMNS

    done.promote()
    second = done.retrained(seed=4)
    generator = np.random.default_rng(0)
    names = []
    for number in range(40):
        name = f"new {number}.png"
        pixels = generator.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(second.root / "data" / name)
        names.append(name)
    wrong = find_label_not_given(second, names)
    rows = []
    for name in names:
        rows.append(
            {
                "id": name,
                "path": name,
                "aliases": [],
                "target": wrong,
                "split": "test",
                "unit": name,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), second.split.manifest)
    columns: dict[str, Any] = {"id": names, "path": names}
    columns |= {
        f"p.{label}": [0.98 if label == wrong else 0.01] * len(names)
        for label in LABELS
    }
    second.register()  # judged by its own answers, as ever
    pq.write_table(pa.table(columns), second.evaluated.predictions)
    second.register = lambda **_: receipts.load(Workspace(second.root))  # type: ignore[method-assign]
    return second


def find_label_not_given(done: Finished, names: list[str]) -> str:
    """The label that the champion gives to the fewest of some pictures."""
    from pipeline.tracking import packaging, registry

    store = find(done.config.tracking, Workspace(done.root))
    folder = registry.fetch(store, registry.find(store, "models:/insects@champion"))
    contents = [(done.root / "data" / name).read_bytes() for name in names]
    answers = packaging.ask(packaging.load(folder), {"image": contents})[
        "label"
    ].tolist()
    return min(LABELS, key=answers.count)
