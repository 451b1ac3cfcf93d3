"""What a registered version answers about examples, by its own served code; kept by
version and example.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ServingError
from pipeline.files import replacing, sha256
from pipeline.training import members

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.tasks.base import Serving
    from pipeline.tracking.registry import ModelVersion
    from pipeline.tracking.store import TrackingStore

ASKED_AT_ONCE = 32
# Of weights and settings, below a version's files.
MODEL_FOLDER = Path("artifacts") / "model"
KEY_LENGTH = 32  # characters of a key that name a file

Answer = dict[str, Any]  # the served model's output columns by name


class ServedVersion:
    """A registered version, fetched where it is needed.

    Args:
        scratch: the workspace's `.thaw`, where files and answers are kept.
    """

    def __init__(
        self, store: TrackingStore, version: ModelVersion, scratch: Path
    ) -> None:
        self._store = store
        self.version = version
        self._scratch = scratch / "promotion"

    def files(self) -> Path:
        """Its files on this machine.

        Raises:
            TrackingError: they cannot be fetched.
        """
        from pipeline.tracking import registry

        if self._store.embedded is not None:
            return registry.fetch(self._store, self.version)
        folder = self._scratch / "models" / self._name
        if not folder.is_dir():
            arriving = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(arriving, ignore_errors=True)
            fetched = registry.fetch(self._store, self.version, arriving)
            fetched.rename(folder)
            shutil.rmtree(arriving, ignore_errors=True)
        self._refresh_members(folder)
        return folder

    def _refresh_members(self, folder: Path) -> None:
        """Fetches the table of members anew, where the version was given another since
        its files came here.
        """
        from pipeline.tracking import registry

        expected = self.version.tags.get(members.SHA256_TAG, "")
        present = folder / members.FILE
        if not expected or (present.is_file() and sha256(present) == expected):
            return
        registry.fetch_file(self._store, self.version, members.FILE, folder)

    def labels(self) -> tuple[str, ...]:
        """Its label space.

        Raises:
            ServingError: it does not say.
        """
        path = self.files() / MODEL_FOLDER / "model.json"
        try:
            labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
            return tuple(str(label) for label in labels)
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise self._error(f"{path.name} does not say its classes") from fault

    def members(self) -> pa.Table:
        """What it learnt from.

        Raises:
            ServingError: it does not say.
        """
        path = self.files() / members.FILE
        try:
            return members.read_members(path)
        except (OSError, ValueError) as fault:
            raise self._error(
                "it does not say which examples it learnt from"
            ) from fault

    def answers(self, rows: pa.Table, serving: Serving, data: Path) -> list[Answer]:
        """Its answers to rows of a manifest, in order; what is known of earlier is not
        asked again.

        Raises:
            ServingError: it cannot be loaded, or answers with an error.
        """
        known = self._read_answers()
        ids = rows["id"].to_pylist()
        missing = [row for row in rows.to_pylist() if row["id"] not in known]
        if missing:
            known.update(self._ask(missing, serving, data))
            self._keep_answers(known)
        return [known[identity] for identity in ids]

    def _ask(
        self, rows: Sequence[Mapping[str, Any]], serving: Serving, data: Path
    ) -> Iterator[tuple[str, Answer]]:
        from pipeline.tracking import packaging
        from pipeline.tracking.failures import one_line

        try:
            model = packaging.load(self.files())
            for start in range(0, len(rows), ASKED_AT_ONCE):
                chunk = rows[start : start + ASKED_AT_ONCE]
                chunk_answers = model.predict(serving.requests(chunk, data)).to_dict(
                    orient="records"
                )
                for row, answer in zip(chunk, chunk_answers, strict=True):
                    yield row["id"], answer
        except Exception as fault:
            # The code of another version of Thaw may raise anything.
            raise self._error(
                f"it cannot answer ({type(fault).__name__}: {one_line(fault)[:300]})"
            ) from fault

    def _read_answers(self) -> dict[str, Answer]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self._answers_file)
            pairs = zip(
                table["id"].to_pylist(), table["answer"].to_pylist(), strict=True
            )
            return {identity: json.loads(answer) for identity, answer in pairs}
        except (OSError, KeyError, ValueError, pa.ArrowException):
            return {}

    def _keep_answers(self, answers: Mapping[str, Answer]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        texts = [json.dumps(answer, ensure_ascii=False) for answer in answers.values()]
        table = pa.table(
            {
                "id": pa.array(list(answers), pa.string()),
                "answer": pa.array(texts, pa.string()),
            }
        )
        self._answers_file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._answers_file) as part:
            pq.write_table(table, part)

    @property
    def _answers_file(self) -> Path:
        folder = self._scratch / "answers"
        return folder / f"{self._name}.parquet"

    @property
    def _name(self) -> str:
        return self.version.key[:KEY_LENGTH] or f"untagged-v{self.version.version}"

    def _error(self, found: str) -> ServingError:
        return ServingError(
            f"{self.version.name} v{self.version.version}",
            found=found,
            expected="a version that answers",
            hint="promote another: thaw models lists them",
        )
