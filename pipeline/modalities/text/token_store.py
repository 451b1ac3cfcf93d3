"""The token store: texts encoded once, kept ragged in memory-mapped files.

`<scratch>/tokens/<key>/` holds `ids.npy` (the token ids of all texts, one after
another), `offsets.npy` (where each text begins), for pairs `types.npy` (which of the
two texts a token belongs to), and `info.json`, which is written last. The key is made
of the tokenizer's digest, the most tokens a text may have, and the examples' ids; a
folder comes and goes whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import files, storage
from pipeline.errors import DataError
from pipeline.modalities.text.content import from_content
from pipeline.records import TextInputSpec, TruncatedTexts, digest
from pipeline.serving import text_tokens

if TYPE_CHECKING:
    from pipeline.context import Console
    from pipeline.tensors import TensorGroup

VERSION = 2  # raised where the same texts give other files
CHUNK = 4096  # texts between two words of progress
CONFIG = "config.json"

Rows = NDArray[np.int64]


class EncodedExamples(NamedTuple):
    """The tokens of some examples, one after the other.

    Args:
        ids: of all tokens (T,), int32.
        offsets: where each example begins, and the end (N + 1,), int64.
        types: 0 or 1 for each token (T,), int8; None where no example is a pair.
        truncated: how many examples had more tokens than are kept, and by how many.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    types: NDArray[np.int8] | None
    truncated: TruncatedTexts


class TokenStore:
    """Encoded examples by row.

    Args:
        ids: of the examples; their positions are the row numbers.
        encoded: the tokens of the distinct examples.
        places: where each row lies among them (N,).
        spec: to how many tokens texts are padded.
        padding: the token id that texts are filled up with.
        has_types: whether the network is told which text of a pair a token belongs to.
    """

    def __init__(
        self,
        ids: tuple[str, ...],
        encoded: EncodedExamples,
        places: Rows,
        spec: TextInputSpec,
        padding: int,
        *,
        has_types: bool,
    ) -> None:
        self.ids = ids
        self._encoded = encoded
        self._places = places
        self._padding = padding
        self._has_types = has_types
        counts = np.diff(encoded.offsets)[places]
        lengths = [
            text_tokens.padded_length(count, spec.bucket, spec.max_tokens)
            for count in counts.tolist()
        ]
        self._lengths: Rows = np.array(lengths, np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def truncated_texts(self) -> TruncatedTexts:
        """How many of the distinct examples are longer than the network reads."""
        return self._encoded.truncated

    def shapes(self, rows: Rows) -> Rows:
        """The number of tokens (n,) that each row is padded to."""
        lengths: Rows = self._lengths[rows]
        return lengths

    def batch(self, rows: Rows) -> TensorGroup:
        """`input_ids` and `attention_mask` (n, L) of int64 for rows of one padded
        length L; for pairs, where the network asks for it, `token_type_ids` too.
        """
        import torch

        from pipeline.tensors import TensorGroup

        length = int(self._lengths[rows[0]])
        encoded = self._encoded
        spans = self._spans(rows)
        ids = [encoded.ids[span] for span in spans]
        ones = [np.ones(len(row), np.int64) for row in ids]
        tensors = {
            "input_ids": torch.from_numpy(text_tokens.pad(ids, length, self._padding)),
            "attention_mask": torch.from_numpy(text_tokens.pad(ones, length, 0)),
        }
        if self._has_types and encoded.types is not None:
            types = [encoded.types[span] for span in spans]
            tensors["token_type_ids"] = torch.from_numpy(
                text_tokens.pad(types, length, 0)
            )
        return TensorGroup(tensors)

    def _spans(self, rows: Rows) -> list[slice]:
        """Where the tokens of each row lie."""
        places = self._places[rows]
        starts = self._encoded.offsets[places].tolist()
        stops = self._encoded.offsets[places + 1].tolist()
        spans = []
        for start, stop in zip(starts, stops, strict=True):
            spans.append(slice(start, stop))
        return spans


def open_token_store(
    spec: TextInputSpec,
    ids: Sequence[str],
    contents: Sequence[str],
    network_files: Path,
    scratch: Path,
    limit_gb: float,
    console: Console,
) -> TokenStore:
    """The store of these examples; what is not kept yet is encoded now, and how much of
    it is cut off is said.

    Where the disk does not take the tokens, they are held in memory; that is said.

    Args:
        ids: of the examples (N,).
        contents: their contents (N,).
        network_files: the folder with the backbone's tokenizer.json and config.json.
        scratch: the workspace's `.thaw`.
        limit_gb: most disk that the kept tokens may take, in 10⁹ bytes; what was used
            longest ago goes first.

    Raises:
        DataError: the tokenizer cannot be read.
    """
    tokenizer_file = network_files / text_tokens.TOKENIZER_FILE
    if not tokenizer_file.is_file():
        raise DataError(
            str(tokenizer_file),
            found="no such file",
            expected="the backbone's tokenizer",
            hint="thaw run",
        )
    content_of = dict(zip(ids, contents, strict=True))
    ordered = sorted(content_of)
    tokenizer_digest = files.sha256(tokenizer_file)
    columns = list(spec.columns)
    key = digest(VERSION, tokenizer_digest, spec.max_tokens, columns, ordered)
    folder = scratch / "tokens" / key[:16]
    encoded = _load(folder, len(ordered))
    if encoded is None:
        ordered_contents = [content_of[identity] for identity in ordered]
        fresh = _encode(ordered_contents, spec, network_files, console)
        encoded = _keep(fresh, folder, limit_gb, console)
    if encoded.truncated.truncated:
        console.info(f"{encoded.truncated.describe()} (task.input.max_tokens)")
    position = {identity: number for number, identity in enumerate(ordered)}
    places = np.array([position[identity] for identity in ids], np.int64)
    settings = _network_settings(network_files)
    token_types = getattr(settings, "type_vocab_size", None) or 0
    return TokenStore(
        tuple(ids),
        encoded,
        places,
        spec,
        padding=getattr(settings, "pad_token_id", None) or 0,
        has_types=token_types > 1,
    )


def _network_settings(network_files: Path) -> Any:
    """What config.json says, and for what it does not say the defaults of its kind of
    network.
    """
    from transformers import AutoConfig

    values: dict[str, Any] = json.loads(
        (network_files / CONFIG).read_text(encoding="utf-8")
    )
    return AutoConfig.for_model(values.pop("model_type"), **values)


# --- encoding -------------------------------------------------------------------------


def _encode(
    contents: Sequence[str], spec: TextInputSpec, network_files: Path, console: Console
) -> EncodedExamples:
    tokenizer = _tokenizer(network_files)
    has_pairs = len(spec.columns) > 1
    ids: list[NDArray[np.int32]] = []
    types: list[NDArray[np.int8]] = []
    counts: list[int] = [0]
    lengths: list[Rows] = []
    for start in range(0, len(contents), CHUNK):
        examples = [
            from_content(content) for content in contents[start : start + CHUNK]
        ]
        texts = [example.text for example in examples]
        pairs = [example.pair or "" for example in examples] if has_pairs else None
        encoded = text_tokens.encode(tokenizer, texts, pairs, spec.max_tokens)
        ids.extend(encoded.ids)
        types.extend(encoded.type_ids)
        counts.extend(len(row) for row in encoded.ids)
        lengths.append(encoded.full_lengths)
        console.progress("encoding", start + len(examples), len(contents))
    return EncodedExamples(
        ids=np.concatenate(ids),
        offsets=np.cumsum(counts, dtype=np.int64),
        types=np.concatenate(types) if has_pairs else None,
        truncated=summarise_truncation(np.concatenate(lengths), spec.max_tokens),
    )


def summarise_truncation(lengths: Rows, max_tokens: int) -> TruncatedTexts:
    """How many texts of these lengths (N,) in tokens are longer than `max_tokens`, and
    by how much.
    """
    excess = np.sort(lengths[lengths > max_tokens] - max_tokens)
    median_excess = 0
    max_excess = 0
    if len(excess):
        median_excess = int(excess[len(excess) // 2])
        max_excess = int(excess[-1])
    return TruncatedTexts(
        max_tokens=max_tokens,
        examples=len(lengths),
        truncated=len(excess),
        median_excess=median_excess,
        max_excess=max_excess,
    )


def _tokenizer(network_files: Path) -> Any:
    try:
        return text_tokens.load_tokenizer(network_files)
    except Exception as fault:  # the library raises Exception itself
        raise DataError(
            str(network_files / text_tokens.TOKENIZER_FILE),
            found=str(fault),
            expected="a tokenizer of the tokenizers library",
            hint="fetch the backbone again: thaw run --force backbone",
        ) from fault


# --- what is kept on disk -------------------------------------------------------------


def _load(folder: Path, examples: int) -> EncodedExamples | None:
    """What is kept in a folder; None where there is nothing, or it is damaged."""
    try:
        stored = json.loads((folder / "info.json").read_text(encoding="utf-8"))
        ids = np.load(folder / "ids.npy", mmap_mode="r")
        offsets = np.load(folder / "offsets.npy")
        types = None
        if stored["pairs"]:
            types = np.load(folder / "types.npy", mmap_mode="r")
        is_whole = (
            len(offsets) == examples + 1 and offsets[-1] == len(ids) == stored["tokens"]
        )
        if not is_whole or (types is not None and len(types) != len(ids)):
            return None
        files.mark_used(folder)
        truncated = TruncatedTexts.model_validate(stored["truncated"])
        return EncodedExamples(ids, offsets, types, truncated)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _keep(
    encoded: EncodedExamples, folder: Path, limit_gb: float, console: Console
) -> EncodedExamples:
    """Writes what was made and maps it from there; where the disk does not take it, it
    stays in memory.
    """
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    size = encoded.ids.nbytes + encoded.offsets.nbytes
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _make_room(folder.parent, limit_gb * 1e9 - size)
        part.mkdir()
        _write(encoded, part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as fault:
        console.info(
            f"token store: {storage.describe(fault, folder)}; tokens are held in memory"
        )
        return encoded
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _load(folder, len(encoded.offsets) - 1) or encoded


def _write(encoded: EncodedExamples, folder: Path) -> None:
    np.save(folder / "ids.npy", encoded.ids)
    np.save(folder / "offsets.npy", encoded.offsets)
    if encoded.types is not None:
        np.save(folder / "types.npy", encoded.types)
    values = {
        "tokens": len(encoded.ids),
        "pairs": encoded.types is not None,
        "truncated": encoded.truncated.model_dump(),
    }
    (folder / "info.json").write_text(json.dumps(values), encoding="utf-8")


def _make_room(stores: Path, limit: float) -> None:
    """Removes what was used longest ago until the rest takes at most `limit` bytes."""
    entries = []
    for folder in stores.iterdir():
        if folder.is_dir():
            entries.append(
                files.CacheEntry(
                    (folder,), files.used_ns(folder), files.folder_size(folder)
                )
            )
    files.evict_least_recently_used(entries, lambda held: held <= limit)
