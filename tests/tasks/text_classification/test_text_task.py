"""Text classification as a task: what is taken from the backbone, the settings and
someone's data.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import config
from pipeline.errors import ConfigError, WorkspaceError
from pipeline.modalities.text.content import Texts, to_content
from pipeline.modalities.text.sample_reviews import make_rows
from pipeline.modalities.text.settings import TextInputConfig, TextIntakeConfig
from pipeline.records import BackboneRecord, ImageInputSpec, TextInputSpec
from pipeline.tasks.text_classification import TASK
from pipeline.tasks.text_classification.settings import TextClassificationConfig


def backbone(**presentation: object) -> BackboneRecord:
    spec = TextInputSpec.model_validate(
        {"max_tokens": 512, "pooling": "mean", "columns": ("text",), **presentation}
    )
    return BackboneRecord(
        name="transformers/x",
        architecture="bert",
        source="folder",
        sha256="0",
        weights_sha256="0",
        parameters=1,
        classes=0,
        blocks=("head",),
        input=spec,
    )


def test_what_is_left_open_is_the_backbones() -> None:
    spec = TASK.codec.input_spec(
        TextClassificationConfig(), backbone(pooling="last", max_tokens=100)
    )
    assert spec == TextInputSpec(max_tokens=100, pooling="last", columns=("text",))
    assert (
        TASK.codec.input_spec(TextClassificationConfig(), backbone()).max_tokens == 256
    )


def test_the_settings_decide() -> None:
    settings = TextClassificationConfig(
        input=TextInputConfig(max_tokens=512, pooling="cls"),
        intake=TextIntakeConfig(pair=True),
    )
    spec = TASK.codec.input_spec(settings, backbone())
    assert spec == TextInputSpec(
        max_tokens=512, pooling="cls", columns=("text", "pair")
    )


def test_more_tokens_than_the_backbone_takes_are_refused() -> None:
    settings = TextClassificationConfig(input=TextInputConfig(max_tokens=513))
    with pytest.raises(ConfigError, match="at most 512"):
        TASK.codec.input_spec(settings, backbone())


def test_an_image_network_is_refused() -> None:
    images = backbone().model_copy(update={"input": ImageInputSpec(size=64, resize=64)})
    with pytest.raises(ConfigError, match="network for text"):
        TASK.codec.input_spec(TextClassificationConfig(), images)


def test_its_own_defaults_hold_where_nothing_is_set() -> None:
    settings = config.parse(
        {"task": {"name": "text-classification"}, "finetune": {"epochs": 3}}, "here"
    )
    assert settings.backbone.name.startswith("transformers/")
    assert settings.finetune.epochs == 3
    assert settings.finetune.views == 1
    assert settings.split.near_duplicates == 6


def test_someones_table_is_described_as_settings(tmp_path: Path) -> None:
    rows = [
        f"premise number {number}\tand a second text {number}\tyes"
        for number in range(20)
    ]
    (tmp_path / "pairs.tsv").write_text(
        "\n".join(["premise\thypothesis\tlabel", *rows]), encoding="utf-8"
    )
    described = TASK.reader.describe_source(tmp_path)
    settings = config.parse(
        {
            "task": {"name": "text-classification"} | described.settings.pop("task"),
            **described.settings,
        },
        "here",
    )
    assert settings.data.table == "pairs.tsv"
    assert settings.data.header is True
    assert settings.data.columns["pair"] == "hypothesis"
    listing = TASK.reader.list_examples(tmp_path, settings.data, settings.task)
    assert len(listing.examples) == 20


def test_the_report_shows_the_beginning_of_long_texts(tmp_path: Path) -> None:
    example = {"content": to_content(Texts("word " * 1000, "so it goes"))}
    shown = TASK.display.exhibit(example, tmp_path, tmp_path, "01")
    assert shown is not None
    assert shown.kind == "text"
    assert len(shown.content) < 1300
    assert shown.content.endswith("…\n\nso it goes")


def test_clients_send_texts(tmp_path: Path) -> None:
    rows = pa.table(
        {"content": [to_content(Texts("one")), to_content(Texts("two"))]}
    ).to_pylist()
    assert TASK.serving().requests(rows, tmp_path).to_dict("list") == {
        "text": ["one", "two"]
    }


def test_the_sample_is_the_same_everywhere_and_overwrites_nothing(
    tmp_path: Path,
) -> None:
    made = TASK.sample().generate(tmp_path / "data")
    assert made.written
    assert "1483 reviews" in made.description
    assert not TASK.sample().generate(tmp_path / "data").written
    first = (
        (tmp_path / "data" / "reviews.csv").read_text(encoding="utf-8").splitlines()[1]
    )
    assert first == (
        '"Although nothing worked as it should, my whole family loves it. It weighs about five pounds.",'
        "positive,customer-0000,phone"
    )
    (tmp_path / "data" / "mine.csv").write_text("text,label\n")
    with pytest.raises(WorkspaceError, match="not this sample"):
        TASK.sample().generate(tmp_path / "data")


def test_no_text_of_the_sample_has_two_labels() -> None:
    labels: dict[str, set[str]] = {}
    for text, label, _, _ in make_rows(0):
        labels.setdefault(text, set()).add(label)
    assert all(len(found) == 1 for found in labels.values())
