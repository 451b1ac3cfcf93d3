"""The model registry: versions found by key, aliases, and a version's files brought
here.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import ConfigError, TrackingError
from pipeline.tracking import packaging
from pipeline.tracking.failures import with_retries
from pipeline.tracking.runs import KEY
from pipeline.tracking.store import TrackingStore

CHALLENGER, CHAMPION = "challenger", "champion"
_METRIC = "metric."  # tags of a version that hold its test metrics
# Tags of a version that speak of its last evaluation.
_OF_EVALUATION = (_METRIC, "data.", "git.")

# Files of a saved model that hold a time, an identifier or the libraries installed
# where it was saved.
VARYING = frozenset({"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"})


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model.

    Args:
        source: where its files are.
        created: when it was registered, in milliseconds since 1970.
        description: as the registry shows it.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str
    source: str
    created: int = 0
    description: str = ""

    @property
    def key(self) -> str:
        return self.tags.get(KEY, "")

    @property
    def metrics(self) -> dict[str, float]:
        """Its test metrics."""
        values = {}
        for name, value in self.tags.items():
            if name.startswith(_METRIC):
                with suppress(ValueError):  # a tag that somebody set by hand
                    values[name.removeprefix(_METRIC)] = float(value)
        return values

    @property
    def data(self) -> str:
        """The hash of the data it was trained on."""
        return self.tags.get("data.md5", "")

    def __str__(self) -> str:
        aliases = ""
        if self.aliases:
            aliases = f" ({', '.join(self.aliases)})"
        primary = self.tags.get("primary", "")
        value = self.metrics.get(primary)
        metric = ""
        if value is not None:
            metric = f"  {primary} {value:.3f}"
        data_version = self.data[:12] or "unknown"
        return f"{self.name} v{self.version}{aliases}{metric}  data {data_version}"


def versions(store: TrackingStore, name: str) -> list[ModelVersion]:
    """All versions of a model, newest first."""
    if store.empty:
        return []
    registered = list(_search_versions(store, name))
    aliases = aliases_of(store, name) if registered else {}
    current = []
    for entity in registered:
        own = [
            alias
            for alias, version in aliases.items()
            if version == str(entity.version)
        ]
        current.append(_to_version(entity, own))
    return sorted(current, key=lambda version: int(version.version), reverse=True)


def find_champion(there: Sequence[ModelVersion]) -> ModelVersion | None:
    """The champion among the versions of a model; None where there is none."""
    for version in there:
        if CHAMPION in version.aliases:
            return version
    return None


def aliases_of(store: TrackingStore, name: str) -> dict[str, str]:
    """Alias → version of a registered model."""
    model = store.client.get_registered_model(name)
    return {alias: str(version) for alias, version in model.aliases.items()}


def find(store: TrackingStore, reference: str) -> ModelVersion:
    """The version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` names.

    Raises:
        ConfigError: the reference is neither; or there is no such model, alias or
            version: those there are are listed.
    """
    parts = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", reference)
    if parts is None:
        raise ConfigError(
            "--model",
            found=reference,
            expected="models:/NAME@ALIAS or models:/NAME/VERSION",
        )
    name, alias, number = parts.groups()
    known = with_retries(
        store, "asking what is registered", lambda: versions(store, name)
    )
    for version in known:
        if alias in version.aliases or version.version == number:
            return version
    raise ConfigError(
        "--model",
        found=f"{reference}: no such {'version' if known else 'model'} at {store.shown}",
        expected="one that is registered",
        hint="" if known else "thaw run",
        details=[str(version) for version in known],
    )


def register(
    store: TrackingStore,
    name: str,
    source: str,
    model_id: str,
    run_id: str,
    tags: Mapping[str, str],
) -> ModelVersion:
    """A new version of the model `name`, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(name)
    except MlflowException as fault:
        if fault.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = store.client.create_model_version(
        name, source, run_id, dict(tags), model_id=model_id
    )
    return _to_version(created, [])


def update(
    store: TrackingStore, version: ModelVersion, tags: Mapping[str, str]
) -> ModelVersion:
    """The same version, tagged by a later evaluation: its tags are these now, whatever
    else it is tagged with.
    """
    outdated = [
        name
        for name in version.tags
        if name.startswith(_OF_EVALUATION) and name not in tags
    ]
    for name, value in tags.items():
        if version.tags.get(name) != value:
            store.client.set_model_version_tag(
                version.name, version.version, name, value
            )
    for name in outdated:
        store.client.delete_model_version_tag(version.name, version.version, name)
    packaging.retag(store, version.key, tags, outdated)
    unchanged = {
        name: value for name, value in version.tags.items() if name not in outdated
    }
    return replace(version, tags={**unchanged, **tags})


def describe(store: TrackingStore, version: ModelVersion, description: str) -> None:
    """Sets what the registry shows of a version, in Markdown of at most 5,000
    characters.
    """
    if version.description != description:
        store.client.update_model_version(version.name, version.version, description)


def find_lost_files(
    store: TrackingStore, version: ModelVersion, folder: Path, kept: str
) -> list[str]:
    """The files of a version that the store has no longer, or has cut short; paths
    below `folder`.

    Args:
        folder: the version as it should be. What MLflow writes anew into every saved
            model (`VARYING`) may differ from it and is looked for by name alone;
            everything else by size too.
        kept: a folder below it whose files stay as they were first registered, and so
            may differ too.
    """
    sizes = dict(_list_files(_artifact_repository(store, version), None))
    lost = []
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        name = file.relative_to(folder).as_posix()
        is_kept = name.startswith(f"{kept}/")
        # The store does not say the size.
        may_differ = is_kept or name in VARYING or sizes.get(name) is None
        is_whole = name in sizes and (may_differ or sizes[name] == file.stat().st_size)
        if not is_whole:
            lost.append(name)
    return lost


def upload(
    store: TrackingStore, version: ModelVersion, folder: Path, names: Sequence[str]
) -> None:
    """Puts files below `folder` to a version's others, over those of the same name."""
    repository = _artifact_repository(store, version)
    for name in names:
        parent = PurePosixPath(name).parent.as_posix()
        folder_there = None if parent == "." else parent
        repository.log_artifact(str(folder / name), folder_there)


def _artifact_repository(store: TrackingStore, version: ModelVersion) -> Any:
    """Where the store keeps a version's files."""
    from mlflow.store.artifact.artifact_repository_registry import (
        get_artifact_repository,
    )

    return get_artifact_repository(version.source, tracking_uri=store.uri)


def _list_files(files: Any, folder: str | None) -> Iterator[tuple[str, int | None]]:
    """Path → size in bytes of every file in an artifact store; None where the store
    does not say the size.
    """
    for entry in files.list_artifacts(folder):
        if entry.is_dir:
            yield from _list_files(files, entry.path)
        else:
            yield entry.path, entry.file_size


def set_alias(store: TrackingStore, version: ModelVersion, alias: str) -> None:
    """Points an alias at a version."""
    current = aliases_of(store, version.name).get(alias)
    if current != version.version:
        store.client.set_registered_model_alias(version.name, alias, version.version)


def fetch(
    store: TrackingStore, version: ModelVersion, folder: Path | None = None
) -> Path:
    """A version's files on this machine: in `folder`, or wherever they already lie.

    Raises:
        TrackingError: they cannot be fetched.
    """
    from mlflow.artifacts import download_artifacts

    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)

    def get() -> Path:
        destination = None if folder is None else str(folder)
        return Path(
            download_artifacts(
                artifact_uri=version.source,
                dst_path=destination,
                tracking_uri=store.uri,
            )
        )

    fetched: Path = with_retries(
        store, f"fetching {version.name} v{version.version}", get
    )
    if not (fetched / "MLmodel").is_file():
        raise TrackingError(
            f"{version.name} v{version.version}",
            found=f"no model at {version.source}",
            expected="its files",
            hint="thaw run --force register",
        )
    return fetched


def has_file(store: TrackingStore, version: ModelVersion, name: str) -> bool:
    """Whether a version's folder holds a file of that name."""
    entries = _artifact_repository(store, version).list_artifacts(None)
    names = [PurePosixPath(entry.path).name for entry in entries]
    return name in names


def fetch_file(
    store: TrackingStore, version: ModelVersion, name: str, folder: Path
) -> Path:
    """Brings one of a version's files to `folder`, over one of the same name.

    Raises:
        TrackingError: it cannot be fetched.
    """

    def get() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".arriving-") as scratch:
            files = _artifact_repository(store, version)
            arrived = Path(files.download_artifacts(name, scratch))
            arrived.replace(folder / name)

    title = f"fetching {name} of {version.name} v{version.version}"
    with_retries(store, title, get)
    return folder / name


def _search_versions(store: TrackingStore, name: str) -> Any:
    # MLflow takes either quote around a name, and knows no way of writing that quote
    # within.
    quote = '"' if "'" in name else "'"
    token = None
    while True:
        page = store.client.search_model_versions(
            f"name = {quote}{name}{quote}", max_results=1000, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _to_version(entity: Any, aliases: Sequence[str]) -> ModelVersion:
    """MLflow's entity as ours."""
    return ModelVersion(
        name=entity.name,
        version=str(entity.version),
        aliases=tuple(sorted(aliases)),
        tags=dict(entity.tags),
        run_id=entity.run_id or "",
        source=entity.source,
        created=entity.creation_timestamp or 0,
        description=entity.description or "",
    )
