"""The registered text classifier: answers from texts, with nothing of Thaw installed.

MLflow runs this file when it loads the model. Beside the weights
(`weights.safetensors`: the stock network's and the head's) lie `config.json`, by which
the transformers library builds the network (`stock_networks.py`), `tokenizer.json`,
`text_tokens.py` (how texts become tokens) and `model.json` (labels, how a text becomes
the network's input, limits), so that neither a pickle nor the network is needed. A text
is presented exactly as it was when the model was judged.

Input: a table with the column `text`, and `pair` where the model judges pairs of texts.
Output: a table with `label`, `score` (its probability), `probabilities` (of every
label) and `truncated_tokens` (how many tokens of the text were cut off, since the model
reads no more; 0 of a text that was read whole).
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel
from safetensors.torch import load_file
from torch import nn

BATCH = 32

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Network(nn.Module):
    """The stock network and the linear layer behind it, by the names that their weights
    have.

    Args:
        backbone: the stock network, with its settings as `config`.
        pooling: how a text's vectors become one: `mean`, `cls` or `last`.
    """

    def __init__(self, backbone: Any, classes: int, pooling: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.config.hidden_size), classes)
        self.pooling = pooling
        self.caches = hasattr(backbone.config, "use_cache")

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The logits (N, classes) of `input_ids`, `attention_mask` and perhaps
        `token_type_ids`, all (N, L).
        """
        arguments: dict[str, Any] = {"use_cache": False} if self.caches else {}
        hidden = self.backbone(**inputs, **arguments).last_hidden_state
        logits: torch.Tensor = self.head(self._pooled(hidden, inputs["attention_mask"]))
        return logits

    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "last":
            last = mask.sum(dim=1) - 1
            rows = torch.arange(len(hidden), device=hidden.device)
            return hidden[rows, last]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        total = (hidden * weights).sum(dim=1)
        count = weights.sum(dim=1).clamp_min(1)
        return total / count


class Classifier(PythonModel):
    """Loads once, then answers; safe to call from several threads."""

    def load_context(self, context: Any) -> None:
        """Builds the network on `device` of the model's configuration, the processor by
        default.
        """
        folder = Path(context.artifacts["model"])
        self.settings: dict[str, Any] = json.loads(
            (folder / "model.json").read_text(encoding="utf-8")
        )
        self.labels: list[str] = self.settings["labels"]
        self.device = torch.device((context.model_config or {}).get("device", "cpu"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        stock_networks = _load_module(folder / "stock_networks.py")
        with torch.random.fork_rng(devices=[]):
            backbone = stock_networks.build(config)
            network = Network(
                backbone, len(self.labels), self.settings["input"]["pooling"]
            )
        network.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
        self.network = network.eval().to(self.device)
        self.answers = _load_module(folder / "class_answers.py")
        self.tokens = _load_module(folder / "text_tokens.py")
        self.tokenizer = self.tokens.load_tokenizer(folder)
        stock = self.network.backbone.config
        self.padding = getattr(stock, "pad_token_id", None) or 0
        self.is_pair = len(self.settings["input"]["columns"]) > 1
        self.has_types = (
            self.is_pair and (getattr(stock, "type_vocab_size", None) or 0) > 1
        )

    def predict(
        self,
        context: Any,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """One answer a row.

        Raises:
            MlflowException: a row is no text that can be used; names the row. A server
                answers 400.
        """
        texts, pairs = self._columns(model_input)
        spec = self.settings["input"]
        encoded = self.tokens.encode(self.tokenizer, texts, pairs, spec["max_tokens"])
        probabilities = np.empty((len(texts), len(self.labels)))
        with torch.inference_mode():
            for rows, length in self._batches(encoded.ids):
                inputs = self._inputs(encoded, rows, length)
                probabilities[rows] = (
                    self.network(inputs).float().softmax(dim=1).double().cpu().numpy()
                )
        table: pd.DataFrame = self.answers.to_table(self.labels, probabilities)
        excess = encoded.full_lengths - spec["max_tokens"]
        table["truncated_tokens"] = np.maximum(excess, 0)
        return table

    def _batches(self, ids: list[Any]) -> Iterator[tuple[np.ndarray[Any, Any], int]]:
        """Rows that are padded to one length, and the length: so no answer depends on
        the texts beside.
        """
        spec = self.settings["input"]
        lengths = np.array(
            [
                self.tokens.padded_length(len(row), spec["bucket"], spec["max_tokens"])
                for row in ids
            ]
        )
        for length in np.unique(lengths):
            alike = np.flatnonzero(lengths == length)
            for start in range(0, len(alike), BATCH):
                yield alike[start : start + BATCH], int(length)

    def _inputs(
        self, encoded: Any, rows: np.ndarray[Any, Any], length: int
    ) -> dict[str, torch.Tensor]:
        ids = [encoded.ids[row] for row in rows]
        ones = [np.ones(len(row), np.int64) for row in ids]
        padded = {
            "input_ids": self.tokens.pad(ids, length, self.padding),
            "attention_mask": self.tokens.pad(ones, length, 0),
        }
        if self.has_types:
            padded["token_type_ids"] = self.tokens.pad(
                [encoded.type_ids[row] for row in rows], length, 0
            )
        return {
            name: torch.from_numpy(array).to(self.device)
            for name, array in padded.items()
        }

    def _columns(self, table: Any) -> tuple[list[str], list[str] | None]:
        """The texts of each row, and their pairs where the model judges pairs."""
        expected = ["text", "pair"] if self.is_pair else ["text"]
        columns = list(table.columns) if isinstance(table, pd.DataFrame) else []
        # A client's table may have an empty column for what the signature calls
        # optional.
        used = []
        for column in columns:
            if column in expected or not table[column].isna().all():
                used.append(column)
        if sorted(used) != sorted(expected):
            found = columns if isinstance(table, pd.DataFrame) else type(table).__name__
            raise _bad(
                f"the input must be a table with {' and '.join(expected)}; found {found}"
            )
        limits = self.settings["limits"]
        texts = []
        for row, value in enumerate(table["text"]):
            texts.append(_checked(value, row, "text", limits))
        if not self.is_pair:
            return texts, None
        return texts, [
            _checked(value, row, "pair", limits)
            for row, value in enumerate(table["pair"])
        ]


def _load_module(path: Path) -> Any:
    """A module that lies beside the weights."""
    spec = importlib.util.spec_from_file_location(f"thaw_served_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _checked(value: Any, row: int, column: str, limits: dict[str, Any]) -> str:
    """A text that was accepted for training too."""
    if not isinstance(value, str):
        raise _bad(f"row {row}: {column} must be a string, not {type(value).__name__}")
    filled = len(value.strip())
    if not filled:
        raise _bad(f"row {row}: {column} is empty")
    if filled < limits["min_characters"]:
        raise _bad(
            f"row {row}: {column} has {filled} characters; at least {limits['min_characters']} are accepted"
        )
    if len(value) > limits["max_characters"]:
        raise _bad(
            f"row {row}: {column} has {len(value)} characters; at most {limits['max_characters']} are accepted"
        )
    control = _CONTROL.search(value)
    if control is not None and not limits["control_characters"]:
        raise _bad(
            f"row {row}: {column} holds the control character U+{ord(control[0]):04X}"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _bad(
            f"row {row}: {column} holds half a character (a lone surrogate)"
        ) from None
    return value


def _bad(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


set_model(Classifier())
