"""Every task goes through one contract on its own generated sample, from the data
folder to the served model.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from contract_cases import CASES
from flows.service.bodies import parse_body
from flows.service.model_process import start_model
from mlflow_server import mlflow_serving, post
from pipeline import manifest, setup, task_catalog
from pipeline.config import Config, parse
from pipeline.context import SilentConsole
from pipeline.evaluation.bootstrap import BootstrapSettings
from pipeline.evaluation.judge import AnsweredExamples, find_judge
from pipeline.promotion.decide import Policy, decide
from pipeline.promotion.evidence import ChampionComparison, Evidence
from pipeline.promotion.measure import (
    JudgedPair,
    measure_classes,
    measure_constant_gain,
    measure_gain,
)
from pipeline.records import (
    CandidateRecord,
    DataVersion,
    EvaluateRecord,
    FinetuneRecord,
    RunRecords,
    SplitRecord,
    ValidateRecord,
)
from pipeline.steps.run import load_record, make_context, run_alone
from pipeline.tasks import catalog
from pipeline.tensors import single_tensor
from pipeline.tracking import packaging
from pipeline.tracking.registry import ModelVersion
from pipeline.workspace import Workspace
from threads import threads

pytestmark = pytest.mark.slow

STEPS = ("validate", "split", "backbone", "finetune", "evaluate")
QUICK = {
    "finetune": {
        "recipes": ["gradual"],
        "baseline": "never",
        "epochs": 2,
        "views": 2,
        "patience": 0,
        "plan": {
            "precision": "fp32",
            "memory_format": "contiguous",
            "threads": 1,
            "compile": "off",
        },
    },
    "evaluate": {"bootstrap": 50, "worst": 3},
    "tracking": {"enabled": False},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


def settings(task: str) -> Config:
    values: dict[str, Any] = {"task": {"name": task}}
    for section, own in (*catalog.find(task).sample().settings.items(), *QUICK.items()):
        values[section] = {**values.get(section, {}), **own}
    return parse(values, "the contract")


def make_workspace(task: str, folder: Path) -> Workspace:
    catalog.find(task).sample().generate(folder / "sample")
    setup.init(folder / "workspace", source=folder / "sample", config=settings(task))
    return Workspace(folder / "workspace")


@dataclass
class Finished:
    """A workspace in which every step has run."""

    task: str
    workspace: Workspace

    def record(self, step: str) -> Any:
        return load_record(self.workspace, step)

    @property
    def candidate(self) -> CandidateRecord:
        finetuned: FinetuneRecord = self.record("finetune")
        return finetuned.candidate()


@pytest.fixture(scope="module", params=list(task_catalog.TASKS))
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    task: str = request.param
    workspace = make_workspace(task, tmp_path_factory.mktemp(task))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for step in STEPS:
        run_alone(workspace, step, console=SilentConsole())
    torch.set_num_threads(before)
    return Finished(task, workspace)


def test_every_task_has_a_case() -> None:
    assert set(task_catalog.TASKS) <= set(CASES)


def test_a_spoilt_example_is_quarantined_by_name_and_the_others_are_used(
    finished: Finished, tmp_path: Path
) -> None:
    whole: ValidateRecord = finished.record("validate")
    workspace = make_workspace(finished.task, tmp_path)
    CASES[finished.task].spoil(workspace.root / "data")
    record = run_alone(workspace, "validate", console=SilentConsole())
    assert isinstance(record, ValidateRecord)
    assert record.quarantined == 1
    assert pq.read_table(record.quarantine)["code"].to_pylist() == [
        CASES[finished.task].fault
    ]
    assert record.examples == whole.examples - 1


def test_the_same_data_give_the_same_manifest_and_split(
    finished: Finished, tmp_path: Path
) -> None:
    workspace = make_workspace(finished.task, tmp_path)
    for step in ("validate", "split"):
        run_alone(workspace, step, console=SilentConsole())
        first: Any = finished.record(step)
        again: Any = load_record(workspace, step)
        assert again.manifest_sha256 == first.manifest_sha256


def test_the_blocks_own_every_parameter_once(finished: Finished) -> None:
    network = catalog.find(finished.task).network.load(finished.candidate)
    owned = [name for block in network.blocks for name, _ in block.named_parameters()]
    assert sorted(owned) == sorted(name for name, _ in network.stock.named_parameters())
    assert network.names[-1] == "head"


def test_what_was_frozen_is_the_backbones_to_the_bit(finished: Finished) -> None:
    """The stages' own proofs stopped nothing; and what no stage trained is what was
    published.
    """
    candidate = finished.candidate
    network = catalog.find(finished.task).network
    trained = {name for stage in candidate.stages for name in stage.trained}
    backbone = finished.record("backbone")
    before = network.build(backbone, candidate.labels, design=candidate.design)
    after = network.load(candidate)
    frozen = 0
    for old, new in zip(before.blocks, after.blocks, strict=True):
        if old.name not in trained:
            for (name, one), (_, other) in zip(
                old.named_parameters(), new.named_parameters(), strict=True
            ):
                assert torch.equal(one, other), name
                frozen += 1
    assert frozen


def answers(finished: Finished, rows: slice) -> np.ndarray[Any, Any]:
    from pipeline.evaluation.predict import LoadedCandidate

    config = finished.workspace.config()
    split: SplitRecord = finished.record("split")
    table = pq.read_table(split.manifest)
    tests = table.filter(np.array(table["split"].to_pylist()) == "test")[rows]
    surroundings = make_context(
        finished.workspace,
        config,
        SilentConsole(),
        tracker(),
        finished.workspace.scratch / "contract",
    )
    task = catalog.find(finished.task)
    loaded = LoadedCandidate(task, config.task, finished.candidate, tests, surroundings)
    by_row = {}
    for places, output in loaded.outputs():
        by_row.update(zip(places.tolist(), single_tensor(output).numpy(), strict=True))
    return np.stack([by_row[row] for row in range(tests.num_rows)])


def tracker() -> Any:
    from pipeline.context import NoTracker

    return NoTracker()


def test_an_answer_does_not_depend_on_who_else_is_asked_about(
    finished: Finished,
) -> None:
    together = answers(finished, slice(0, 12))
    for row in range(6):
        alone = answers(finished, slice(row, row + 1))
        assert np.abs(alone[0] - together[row]).max() < CASES[finished.task].tolerance


def test_the_served_model_answers_as_it_was_judged_without_thaw(
    finished: Finished, tmp_path: Path
) -> None:
    from pipeline.steps.register import package_candidate

    config = finished.workspace.config()
    finetuned: FinetuneRecord = finished.record("finetune")
    package_candidate(
        tmp_path / "model", config, finished.candidate, finetuned.members, {}
    )
    evaluated: EvaluateRecord = finished.record("evaluate")
    rows = pq.read_table(evaluated.predictions).slice(0, 8).to_pylist()
    serving = catalog.find(finished.task).serving()
    requests = serving.requests(rows, finished.workspace.root / "data")
    requests.to_pickle(tmp_path / "requests.pkl")
    code = (
        "import sys, json, pandas, mlflow.pyfunc\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "found = model.predict(pandas.read_pickle(sys.argv[2]))\n"
        "assert not any(name.split('.')[0] in ('pipeline', 'flows') for name in sys.modules)\n"
        "print('ANSWERS' + json.dumps(found.to_dict(orient='records')))\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-W",
            "ignore",
            "-c",
            code,
            str(tmp_path / "model"),
            str(tmp_path / "requests.pkl"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.partition("ANSWERS")[2])
    for row, answer in zip(rows, found, strict=True):
        assert serving.difference(answer, row, finished.candidate) == ""


def package(finished: Finished, folder: Path) -> Path:
    """The folder of the finished candidate as it is registered."""
    from pipeline.steps.register import package_candidate

    finetuned: FinetuneRecord = finished.record("finetune")
    package_candidate(
        folder, finished.workspace.config(), finished.candidate, finetuned.members, {}
    )
    return folder


def records_of(finished: Finished, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a client sends about rows of the evaluation's predictions."""
    serving = catalog.find(finished.task).serving()
    records: list[dict[str, Any]] = serving.requests(
        rows, finished.workspace.root / "data"
    ).to_dict(orient="records")
    for record in records:
        for name, value in record.items():
            record[name] = (
                base64.b64encode(value).decode() if isinstance(value, bytes) else value
            )
    return records


def predictions(finished: Finished, count: int) -> list[dict[str, Any]]:
    evaluated: EvaluateRecord = finished.record("evaluate")
    rows: list[dict[str, Any]] = (
        pq.read_table(evaluated.predictions).slice(0, count).to_pylist()
    )
    return rows


def test_a_serving_process_answers_as_it_was_judged(
    finished: Finished, tmp_path: Path
) -> None:
    folder = package(finished, tmp_path / "model")
    rows = predictions(finished, 4)
    serving = catalog.find(finished.task).serving()
    body = json.dumps({"dataframe_records": records_of(finished, rows)}).encode()
    for row, answer in zip(rows, asyncio.run(_ask_process(folder, body)), strict=True):
        assert serving.difference(answer, row, finished.candidate) == ""


@pytest.mark.full
def test_mlflow_serves_it_over_http(finished: Finished, tmp_path: Path) -> None:
    folder = package(finished, tmp_path / "model")
    rows = predictions(finished, 4)
    records = records_of(finished, rows)
    serving = catalog.find(finished.task).serving()
    with mlflow_serving(str(folder), tmp_path) as url:
        status, text = post(url, {"dataframe_records": records})
        assert status == 200, text
        for row, answer in zip(rows, json.loads(text)["predictions"], strict=True):
            assert serving.difference(answer, row, finished.candidate) == ""
        for body in malformed_bodies(records[0]):
            status, text = post(url, body)
            assert 400 <= status < 500, (str(body)[:200], status, text)
        status, text = post(url, {"dataframe_records": records})
        assert status == 200, text


def malformed_bodies(record: dict[str, Any]) -> list[Any]:
    """Bodies that no task can use; with files in base64, more of them."""
    bodies: list[Any] = [{}, b"{", {"dataframe_records": [{"elsewhere": "aGVsbG8="}]}]
    bodies += [{"dataframe_records": [{**record, name: None}]} for name in record]
    if "image" in record:
        header = base64.b64decode(record["image"])[:40]
        images = [b"", b"no image", header, bytes(50_000_001), bomb()]
        sent = [base64.b64encode(image).decode() for image in images]
        for image in ("!!not base64!!", "aGVsbG8", 7, *sent):
            bodies.append({"dataframe_records": [record, {**record, "image": image}]})
    return bodies


def bomb() -> bytes:
    """A PNG file of some hundred bytes that states 9,000 × 9,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    side = (9000).to_bytes(4, "big")
    header = chunk(b"IHDR", side + side + bytes((8, 0, 0, 0, 0)))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(bytes(9001)))
        + chunk(b"IEND", b"")
    )


async def _ask_process(folder: Path, body: bytes) -> list[dict[str, Any]]:
    """The answers of the process that `thaw serve` would have for a packaged model."""
    version = ModelVersion("any", "1", (), {}, "", "")
    model = await start_model(version, folder, folder.parent / "log", 300)
    try:
        question = parse_body("application/json", body, model.columns, 4)
        assert len(question.ids) == 4
        reply = await model.ask(question.frame)
    finally:
        await model.close()
    answers: list[dict[str, Any]] = reply["answers"]
    return answers


def test_a_verdict_rests_on_served_answers_as_on_evaluated_ones(
    finished: Finished, tmp_path: Path
) -> None:
    """What promotion compares: the served model's answers and the evaluation's are
    equally good, so none is promoted.
    """
    from pipeline.steps.register import package_candidate

    config, candidate = finished.workspace.config(), finished.candidate
    finetuned: FinetuneRecord = finished.record("finetune")
    evaluated: EvaluateRecord = finished.record("evaluate")
    task = catalog.find(finished.task)
    judge = find_judge(task.scorer.kind, config.evaluate)
    folder = tmp_path / "model"
    package_candidate(folder, config, candidate, finetuned.members, {})
    table = manifest.read(finished.record("split").manifest)
    rows = table.filter(pc.equal(table["split"], "test"))
    data = finished.workspace.root / "data"
    labels = candidate.labels
    examples = AnsweredExamples(
        rows, labels, labels, frozenset(labels), task, config.task, data
    )
    served = packaging.answers(folder, task.serving().requests(rows.to_pylist(), data))
    kept = judge.served_answers(pq.read_table(evaluated.predictions), candidate)
    champion, challenger = (
        judge.judge_answers(answers, examples) for answers in (served, kept)
    )
    assert np.asarray(challenger.goodness, np.float64) == pytest.approx(
        champion.goodness.astype(np.float64), abs=0.02
    )
    primary = challenger.estimate_metrics(BootstrapSettings(20, 0.95, 0))[
        judge.goodness_metric
    ]
    judged = evaluated.metrics[judge.goodness_metric]
    assert primary.value == pytest.approx(judged.value, abs=0.02)

    pair = JudgedPair(
        challenger, champion, judge.goodness_metric, judge.goodness_metric, 0.0025
    )
    comparison = ChampionComparison(
        "1",
        measure_gain(pair),
        rows.num_rows,
        parts=tuple(measure_classes(pair, labels, frozenset(labels))),
    )
    facts = {name: estimate.value for name, estimate in evaluated.metrics.items()}
    evidence = Evidence(
        "2", facts, judge.goodness_metric, champion="1", comparison=comparison
    )
    assert decide(evidence, Policy(config.promotion, {})).decision == "cannot-tell"
    constant = measure_constant_gain(challenger, 0.0025)
    assert constant.value == pytest.approx(
        challenger.goodness.mean() - challenger.constant_goodness.mean()
    )
    present = [challenger.class_goodness(code) for code in range(len(labels))]
    assert any(one.rows.any() for one in present)
    assert all(
        ((one.goodness[one.rows] >= 0) & (one.goodness[one.rows] <= 1)).all()
        for one in present
    )


def test_the_report_renders(finished: Finished) -> None:
    from pipeline.report import page, report_context

    data = DataVersion(md5="0" * 32, size=1, files=1, git_revision=None, dirty=False)
    context = report_context.gather_context(finished.workspace, data)
    records = RunRecords(*(finished.record(step) for step in STEPS))
    html = page.build_page(records, context)
    assert finished.candidate.name in html
    assert "<!doctype html>" in html.lower()


def test_every_task_has_a_model_card(finished: Finished) -> None:
    from pipeline import served
    from pipeline.report.model_card import CardFacts, describe_version, write_card

    config = finished.workspace.config()
    run = RunRecords(*(finished.record(step) for step in STEPS))
    facts = CardFacts("trial", "1", served=served.settings(config, run.candidate))
    card = write_card(run, config, facts)
    assert finished.task in card
    assert all(label in card for label in finished.candidate.labels)
    assert "refuses, with an error that names the row" in card
    assert "### The weakest classes" in card
    assert "on the test split" in card.lower()
    assert describe_version(run, config, facts).startswith(
        "**Nothing was decided about it yet.**"
    )


def weights(workspace: Workspace) -> str:
    record: Any = load_record(workspace, "finetune")
    return hashlib.sha256(record.candidate().model.read_bytes()).hexdigest()


def finetune_again(workspace: Workspace, environment: dict[str, str]) -> int:
    """The finetune step in a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "pipeline", "finetune"],
        cwd=workspace.root,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=600,
        check=False,
    ).returncode


@pytest.mark.full
def test_killed_in_the_middle_it_ends_with_the_same_weights(
    finished: Finished, tmp_path: Path
) -> None:
    workspace = make_workspace(finished.task, tmp_path)
    for step in ("validate", "split", "backbone"):
        run_alone(workspace, step, console=SilentConsole())
    assert finetune_again(workspace, {"THAW_CRASH_AT": "last-batch"}) == -9
    assert finetune_again(workspace, {}) == 0
    assert weights(workspace) == weights(finished.workspace)
