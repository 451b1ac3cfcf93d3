"""The decoded store of a manifest's image files: shared by the codecs of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.context import Console
    from pipeline.data.decoded_store import DecodedStore, Decoder
    from pipeline.records import ImageInputSpec


def open_pixels(
    decoder: Decoder,
    spec: ImageInputSpec,
    examples: pa.Table,
    data: Path,
    scratch: Path,
    gigabytes: float,
    console: Console,
) -> DecodedStore:
    """The decoded pixels of a manifest's rows; see
    `pipeline.data.decoded_store.open_store`.
    """
    from pipeline.data.decoded_store import open_store
    from pipeline.manifest import real_path

    ids = examples.column("id").to_pylist()
    paths = examples.column("path").to_pylist()
    rows = []
    for identity, path in zip(ids, paths, strict=True):
        rows.append((identity, real_path(data, path)))
    return open_store(decoder, spec, rows, scratch, limit_gb=gigabytes, console=console)
