"""How a registered text classifier answers, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tasks.base import ServedColumn
from pipeline.tasks.class_serving import (
    HELPERS,
    OUTPUTS,
    class_difference,
    class_settings,
)
from pipeline.tasks.text_classification.settings import text_settings

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import Config
    from pipeline.records import CandidateRecord


class TextServing:
    """The Serving of texts: one text, or a pair of texts, a row."""

    module = "pipeline.serving.text_classification"
    helpers: tuple[str, ...] = (
        *HELPERS,
        "pipeline.serving.text_tokens",
        "pipeline.serving.stock_networks",
    )
    packages: tuple[str, ...] = (
        "mlflow",
        "numpy",
        "pandas",
        "safetensors",
        "tokenizers",
        "torch",
        "transformers",
    )
    outputs = (
        *OUTPUTS,
        ServedColumn("truncated_tokens", "long"),  # 0 of a text that was read whole
    )

    def settings(self, config: Config, candidate: CandidateRecord) -> dict[str, Any]:
        intake = text_settings(config.task).intake
        limits = {
            "min_characters": intake.min_characters,
            "max_characters": intake.max_characters,
            "control_characters": intake.control_characters == "keep",
        }
        return class_settings(candidate, limits)

    def inputs(self, config: Config) -> tuple[ServedColumn, ...]:
        """One text, or two where the model judges pairs.

        A model of single texts is told of a second one all the same: MLflow would drop
        a column that it does not know of, and the model could not refuse it.
        """
        is_pair = text_settings(config.task).intake.pair
        return (
            ServedColumn("text", "string"),
            ServedColumn("pair", "string", required=is_pair),
        )

    def input_example(self, config: Config) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(
            {
                column.name: ["So it goes."]
                for column in self.inputs(config)
                if column.required
            }
        )

    def requests(
        self, examples: Sequence[Mapping[str, Any]], data: Path
    ) -> pd.DataFrame:
        import pandas as pd

        from pipeline.modalities.text.content import from_content

        contents = [from_content(example["content"]) for example in examples]
        columns = {"text": pd.Series([texts.text for texts in contents], dtype=object)}
        if any(texts.pair is not None for texts in contents):
            columns["pair"] = pd.Series(
                [texts.pair for texts in contents], dtype=object
            )
        return pd.DataFrame(columns)

    def difference(
        self,
        answer: Mapping[str, Any],
        judged: Mapping[str, Any],
        candidate: CandidateRecord,
    ) -> str:
        return class_difference(answer, judged, candidate)
