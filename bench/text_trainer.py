"""The plain Hugging Face Trainer script of the text benchmark: fp32, batches of 16, 3
epochs, everything trained.

python bench/text_trainer.py trainer-128|trainer-longest WORKSPACE SCRATCH RESULT.json
--threads N [--quick]
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    logging,
)

BATCH, EPOCHS, LR, LONGEST = 16, 3, 1e-4, 128
QUICK_STEPS = 5


class Texts(torch.utils.data.Dataset):
    """The rows of a split, tokenized."""

    def __init__(
        self, table: Any, labels: list[str], tokenizer: Any, padding: Any
    ) -> None:
        texts = [
            json.loads(content)["text"] for content in table["content"].to_pylist()
        ]
        self.encoded = tokenizer(
            texts, truncation=True, max_length=LONGEST, padding=padding
        )
        self.targets = [labels.index(target) for target in table["target"].to_pylist()]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {
            **{name: values[row] for name, values in self.encoded.items()},
            "labels": self.targets[row],
        }


class Marks(TrainerCallback):
    """Seconds, processor's seconds and validation accuracy after each epoch."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.began_cpu = time.process_time()
        self.marks: list[tuple[float, float, float]] = []

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        if "eval_accuracy" in metrics:
            cpu_seconds = time.process_time() - self.began_cpu
            self.marks.append(
                (
                    time.perf_counter() - self.began,
                    cpu_seconds,
                    metrics["eval_accuracy"],
                )
            )


def accuracy(predictions: Any) -> dict[str, float]:
    return {
        "accuracy": float(
            (np.argmax(predictions.predictions, 1) == predictions.label_ids).mean()
        )
    }


def find_pretrained(workspace: Path) -> Path:
    """The folder that the workspace's backbone came from."""
    from pipeline.models.references import SHIPPED
    from pipeline.workspace import Workspace

    backbone = Workspace(workspace).config().backbone
    if backbone.weights == "shipped":
        return SHIPPED / backbone.name.partition("/")[2]
    return Path(backbone.weights)


def main() -> None:
    name, workspace, scratch, left = sys.argv[1:5]
    quick = "--quick" in sys.argv
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    torch.set_num_threads(int(sys.argv[sys.argv.index("--threads") + 1]))
    torch.manual_seed(0)
    folder = find_pretrained(Path(workspace))
    table = pq.read_table(Path(workspace) / "artifacts" / "split" / "manifest.parquet")
    marks = Marks()
    labels = sorted(set(table["target"].to_pylist()))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if name == "trainer-128" else False
    splits = {}
    for split in ("train", "val", "test"):
        rows = table.filter(np.array(table["split"].to_pylist()) == split)
        splits[split] = Texts(rows, labels, tokenizer, padding)
    network = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(labels), dtype=torch.float32
    )
    arguments = TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=64,
        num_train_epochs=EPOCHS,
        max_steps=QUICK_STEPS if quick else -1,
        learning_rate=LR,
        warmup_steps=0.1,
        eval_strategy="steps" if quick else "epoch",
        eval_steps=QUICK_STEPS,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        logging_strategy="no",
    )
    trainer = Trainer(
        model=network,
        args=arguments,
        train_dataset=splits["train"],
        eval_dataset=splits["val"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
        callbacks=[marks],
    )
    trainer.train()
    seconds, cpu_seconds = (
        time.perf_counter() - marks.began,
        time.process_time() - marks.began_cpu,
    )
    test = trainer.predict(splits["test"], metric_key_prefix="test").metrics[
        "test_accuracy"
    ]
    result = {
        "marks": marks.marks,
        "test": test,
        "examples": len(splits["val"]),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "steps": trainer.state.global_step,
    }
    Path(left).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
