"""Networks from the Hugging Face hub, or from a mirror that speaks its protocol, by
name and pinned revision.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline.config import BackboneConfig, expand_variables
from pipeline.context import Context
from pipeline.errors import BackboneError, ThawError
from pipeline.models import backbone_lock, fetch
from pipeline.models.providers.transformers.folders import (
    NEEDED,
    OPTIONAL,
    PublishedFolder,
)
from pipeline.models.providers.transformers.library import quiet_hub
from pipeline.models.providers.transformers.published_weights import INDEX
from pipeline.redaction import redact

HUB = "https://huggingface.co"
SECONDS = 10  # that the hub is waited for


def fetch_folder(config: BackboneConfig, context: Context) -> PublishedFolder:
    """A network's files, fetched into the cache if they are not there.

    The revision is that of backbone.lock where it has one, else the newest. A transfer
    that breaks off is gone on with, a few times; what is in the cache is not asked for
    again.

    Raises:
        BackboneError: the hub has no such network, does not answer, or the network is
            switched off and the cache has no copy.
    """
    repository = config.name.partition("/")[2]
    endpoint = _endpoint(config)
    revision = _locked_revision(config, context.root)
    offline = config.offline or fetch.is_offline()
    if not _is_cached(repository, revision) and not offline:
        context.console.info(f"fetching {repository} from {redact(endpoint)}")
    with quiet_hub(offline=offline):
        from huggingface_hub import snapshot_download

        try:
            place = snapshot_download(
                repository,
                revision=revision,
                cache_dir=_cache(),
                allow_patterns=[*NEEDED, *OPTIONAL, INDEX],
                endpoint=endpoint,
                local_files_only=offline,
                etag_timeout=SECONDS,
            )
        except ThawError:
            raise
        except Exception as fault:
            # The library's own errors, those of its HTTP client, and OSError.
            raise _refusal(config, endpoint, _reason(fault, offline=offline)) from fault
    folder = Path(place)
    return PublishedFolder(
        folder, f"{redact(endpoint)}/{repository}", revision=folder.name
    )


def check_reachable(config: BackboneConfig, root: Path) -> str:
    """Where the network is to be had, in words; the hub is asked what it has, and for
    no file.

    Raises:
        BackboneError: it is not to be had.
    """
    repository = config.name.partition("/")[2]
    endpoint = _endpoint(config)
    revision = _locked_revision(config, root)
    if _is_cached(repository, revision):
        return f"{config.name}, from the cache"
    offline = config.offline or fetch.is_offline()
    with quiet_hub(offline=offline):
        from huggingface_hub import HfApi

        try:
            model_info = HfApi(endpoint=endpoint).model_info(
                repository, revision=revision, timeout=SECONDS
            )
        except ThawError:
            raise
        except Exception as fault:
            raise _refusal(config, endpoint, _reason(fault, offline=offline)) from fault
    published = {sibling.rfilename for sibling in model_info.siblings or ()}
    missing = [name for name in NEEDED if name not in published]
    if published and missing:
        raise _refusal(config, endpoint, f"no {', '.join(missing)} there")
    return f"{config.name}, {redact(endpoint)}"


def _cache() -> Path:
    return fetch.cache_folder() / "hub"


def _is_cached(repository: str, revision: str | None) -> bool:
    """Whether every needed file of a revision, of the newest one known by default, is
    in the cache.
    """
    from huggingface_hub import try_to_load_from_cache

    for name in NEEDED:
        place: Any = try_to_load_from_cache(
            repository, name, cache_dir=_cache(), revision=revision
        )
        if not isinstance(place, str):
            return False
    return True


def _locked_revision(config: BackboneConfig, root: Path) -> str | None:
    entry = backbone_lock.read_lock(root).get(backbone_lock.entry_name(config), {})
    revision: str | None = entry.get("revision")
    return revision


def _endpoint(config: BackboneConfig) -> str:
    """The server, without a slash behind."""
    address = (
        expand_variables(config.mirror or "", "backbone.mirror")
        or os.environ.get("HF_ENDPOINT")
        or HUB
    )
    return address.rstrip("/")


def _reason(fault: Exception, *, offline: bool) -> str:
    """Why the hub gave nothing, in words."""
    from huggingface_hub import errors

    if offline:
        return "the network is switched off, and the cache has no copy"
    if isinstance(fault, errors.GatedRepoError):
        return "its owner gives access on request: accept the terms on its page, and log in with `hf auth login`"
    if isinstance(fault, errors.RevisionNotFoundError):
        return "the revision that backbone.lock names is not there any more"
    if isinstance(fault, errors.RepositoryNotFoundError):
        return "no network of this name, or a private one"
    cause = fault.__cause__ or fault
    lines = redact(str(cause)).splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}"


def _refusal(config: BackboneConfig, endpoint: str, reason: str) -> BackboneError:
    repository = config.name.partition("/")[2]
    return BackboneError(
        f"backbone.name: {config.name}",
        found=reason,
        expected=f"{', '.join(NEEDED)} of {repository} from {redact(endpoint)}",
        hint="see that the name is right and the hub reachable; or bring the files as a folder and set "
        "backbone.weights to it",
    )
