"""Texts as the network's input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config_section import TaskConfig
from pipeline.errors import ConfigError
from pipeline.examples import RandomDraw
from pipeline.records import TextInputSpec, text_spec
from pipeline.tasks.base import StoreLimits
from pipeline.tasks.text_classification.settings import text_settings

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.context import Console
    from pipeline.modalities.text.token_store import TokenStore
    from pipeline.records import BackboneRecord, InputSpec
    from pipeline.tensors import Batch

AUTO_TOKENS = 256  # at most, where the settings leave it open
USUAL_TOKENS = 64
BYTES_PER_TOKEN = 4


class TextCodec:
    """The Codec of texts: encoded once as tokens, padded to a length that follows from
    each text alone.
    """

    def input_spec(self, task: TaskConfig, backbone: BackboneRecord) -> TextInputSpec:
        """The backbone's own presentation, with the length and the pooling that the
        settings ask for.

        Raises:
            ConfigError: the backbone reads no text, or fewer tokens than the settings
                ask for.
        """
        settings = text_settings(task)
        own = text_spec(backbone.input)
        max_tokens = min(own.max_tokens, AUTO_TOKENS)
        if settings.input.max_tokens != "auto":
            max_tokens = settings.input.max_tokens
        if max_tokens > own.max_tokens:
            raise ConfigError(
                "task.input.max_tokens",
                found=str(max_tokens),
                expected=f"at most {own.max_tokens}, which {backbone.name} takes",
            )
        pooling = (
            own.pooling if settings.input.pooling == "auto" else settings.input.pooling
        )
        columns = ("text", "pair") if settings.intake.pair else ("text",)
        return TextInputSpec(
            max_tokens=max_tokens, bucket=own.bucket, pooling=pooling, columns=columns
        )

    def bytes_per_example(self, task: TaskConfig) -> int:
        most = text_settings(task).input.max_tokens
        tokens = USUAL_TOKENS if most == "auto" else min(most, USUAL_TOKENS)
        return BYTES_PER_TOKEN * tokens

    def open_store(
        self,
        spec: InputSpec,
        examples: pa.Table,
        data: Path,
        network_files: Path,
        limits: StoreLimits,
        console: Console,
    ) -> TokenStore:
        """The examples' tokens; see `pipeline.modalities.text.token_store`."""
        from pipeline.modalities.text.token_store import open_token_store

        return open_token_store(
            text_spec(spec),
            examples.column("id").to_pylist(),
            examples.column("content").to_pylist(),
            network_files,
            limits.scratch,
            limits.gigabytes,
            console,
        )

    def prepare(
        self,
        decoded: Batch,
        spec: InputSpec,
        task: TaskConfig,
        draws: Sequence[RandomDraw] | None,
    ) -> Batch:
        """The tokens as they are: texts are not augmented."""
        return decoded
