"""Networks from the Hugging Face hub, by name and pinned revision."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline.config import BackboneConfig, expand_variables
from pipeline.context import Context
from pipeline.errors import BackboneError
from pipeline.models import backbone_lock, fetch
from pipeline.models.providers.transformers.folders import NEEDED, OPTIONAL
from pipeline.redaction import redact

HUB = "https://huggingface.co"
SECONDS = 10  # that the hub is waited for


def fetch_folder(config: BackboneConfig, context: Context) -> tuple[Path, str, str | None]:
    """A network's files, fetched into the cache if they are not there: the folder, where from, and the revision.

    What was fetched in part is gone on with. The revision is that of backbone.lock where it has one, else the newest.

    Raises:
        BackboneError: the hub has no such network, does not answer, or the network is switched off and the cache has
            no copy.
    """
    from huggingface_hub import snapshot_download

    repository = config.name.partition("/")[2]
    endpoint = _endpoint(config)
    mirror_folder = Path(endpoint) / repository
    if "://" not in endpoint:
        return mirror_folder, "mirror", None
    locked = backbone_lock.read(context.root).get(backbone_lock.entry_name(config), {})
    offline = config.offline or fetch.offline()
    try:
        place = snapshot_download(
            repository,
            revision=locked.get("revision"),
            cache_dir=fetch.cache_folder() / "hub",
            allow_patterns=[*NEEDED, *OPTIONAL],
            endpoint=endpoint,
            local_files_only=offline,
            etag_timeout=SECONDS,
            tqdm_class=None,
        )
    except Exception as fault:  # the library's own errors, those of its HTTP client, and OSError
        raise _not_to_be_had(config, endpoint, fault, offline=offline) from fault
    folder = Path(place)
    return folder, f"{endpoint}/{repository}", folder.name


def check_reachable(config: BackboneConfig) -> str:
    """Where the network is to be had, in words; the hub is asked for its names alone.

    Raises:
        BackboneError: it is not to be had.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    repository = config.name.partition("/")[2]
    endpoint = _endpoint(config)
    if "://" not in endpoint:
        return f"{config.name}, {Path(endpoint) / repository}"
    cached: Any = try_to_load_from_cache(repository, "model.safetensors", cache_dir=fetch.cache_folder() / "hub")
    if isinstance(cached, str):
        return f"{config.name}, from the cache"
    if config.offline or fetch.offline():
        raise _not_to_be_had(config, endpoint, None, offline=True)
    try:
        HfApi(endpoint=endpoint).model_info(repository, timeout=SECONDS)
    except Exception as fault:
        raise _not_to_be_had(config, endpoint, fault, offline=False) from fault
    return f"{config.name}, {endpoint}"


def _endpoint(config: BackboneConfig) -> str:
    if config.mirror:
        return expand_variables(config.mirror, "backbone.mirror").rstrip("/")
    return os.environ.get("HF_ENDPOINT", HUB)


def _not_to_be_had(config: BackboneConfig, endpoint: str, fault: Exception | None, *, offline: bool) -> BackboneError:
    repository = config.name.partition("/")[2]
    found = "the network is switched off, and the cache has no copy" if offline else _first_line(fault)
    return BackboneError(
        f"backbone.name: {config.name}",
        found=found,
        expected=f"{', '.join(NEEDED)} of {repository} from {redact(endpoint)}",
        hint="see that the name is right and the hub reachable; or bring the files as a folder and set "
        "backbone.weights to it",
    )


def _first_line(fault: Exception | None) -> str:
    lines = redact(str(fault)).splitlines()
    return f"{type(fault).__name__}: {lines[0] if lines else ''}"
