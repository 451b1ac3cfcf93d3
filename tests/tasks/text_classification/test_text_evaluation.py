"""The evaluate step on texts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from consoles import RecordingConsole
from pipeline import manifest
from pipeline.config import EvaluateConfig
from pipeline.context import Context
from pipeline.modalities.text.content import Texts, to_content
from pipeline.records import FinetuneRecord, SplitRecord, TextInputSpec
from pipeline.steps.evaluate import evaluate
from pipeline.tasks.text_classification.settings import TextClassificationConfig
from text_candidates import LABELS, make_backbone, make_candidate, texts

CUT = 16  # tokens


def _split(folder: Path) -> SplitRecord:
    rows = [
        {
            "id": f"{number:032x}",
            "path": f"reviews.csv:{number}",
            "aliases": [],
            "target": LABELS[number % len(LABELS)],
            "split": "test",
            "unit": str(number),
            "content": to_content(Texts(text, None)),
        }
        for number, text in enumerate(texts(30))
    ]
    schema = pa.schema([*manifest.COLUMNS, pa.field("content", pa.string())])
    table = pa.Table.from_pylist(rows, schema=schema)
    manifest.write(table, folder / "manifest.parquet")
    return SplitRecord(
        manifest_sha256="0" * 64,
        labels=LABELS,
        counts={},
        new=0,
        left_out=(),
        warnings=(),
        near_duplicate_groups=0,
    ).save(folder)


def test_cut_texts_are_said_once_and_not_for_every_candidate(tmp_path: Path) -> None:
    backbone = make_backbone(tmp_path / "backbone")
    spec = TextInputSpec(max_tokens=CUT, pooling="mean", columns=("text",))
    names = ("full", "head")
    for name in names:
        make_candidate(backbone, tmp_path / "finetune" / name, spec)
    finetuned = FinetuneRecord(
        key="0" * 64,
        candidates=names,
        best="full",
        primary="accuracy",
        higher_is_better=True,
        val={},
    ).save(tmp_path / "finetune")
    console = RecordingConsole()
    context = Context(
        root=tmp_path,
        data=tmp_path,
        scratch=tmp_path / ".thaw",
        run_dir=tmp_path / "run",
        console=console,
    )
    config = EvaluateConfig(bootstrap=20, worst=2)
    (tmp_path / "evaluate").mkdir()
    evaluate(
        config,
        TextClassificationConfig(),
        _split(tmp_path / "split"),
        finetuned,
        tmp_path / "evaluate",
        context,
    )
    said = [line for line in console.lines if f"longer than {CUT} tokens" in line]
    assert len(said) == 1
