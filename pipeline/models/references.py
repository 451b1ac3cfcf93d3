"""What a weights reference leads to on this machine, and whether that is still what
backbone.lock says.

Nothing here imports torch: `thaw run` asks it before it knows whether there is anything
to do.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline import files
from pipeline.config import BackboneConfig, expand_variables
from pipeline.context import Context
from pipeline.errors import BackboneError, ConfigError
from pipeline.files import FileStat, expanded
from pipeline.models import backbone_lock, fetch, transfer
from pipeline.models.backbone_lock import LOCK
from pipeline.models.digests import DigestCache
from pipeline.models.fetch import RetryPolicy

SHIPPED = Path(str(resources.files("pipeline.models") / "shipped"))
SETTING = "backbone.sha256"


class PublishedWeights(NamedTuple):
    """The weights that a provider publishes for a network.

    Args:
        url: where they are.
        sha256: the beginning of their digest, where the provider says it; else None.
    """

    url: str
    sha256: str | None


class WeightsFile(NamedTuple):
    """A weights file that is what it should be."""

    path: Path
    source: str  # "shipped", "file" or the URL
    sha256: str
    stat: FileStat  # when it was hashed


def locate_weights(
    config: BackboneConfig, root: Path, published_url: str | None
) -> Path | str | None:
    """The file or the URL that the settings refer to; None where that cannot be told.

    Args:
        published_url: where the provider publishes the weights; None where it was not
            asked, which imports torch.

    Raises:
        ConfigError: the settings name an environment variable that is not set.
    """
    text = expand_variables(config.weights, "backbone.weights")
    if text == "shipped":
        _, _, architecture = config.name.partition("/")
        return SHIPPED / f"{architecture}.safetensors"
    if text == "default":
        if published_url is None:
            return None
        text = _mirror_url(config, published_url)
    text = text.removeprefix("file://")
    if "://" in text:
        return text
    return root / expanded(text)


def _mirror_url(config: BackboneConfig, published_url: str) -> str:
    mirror = expand_variables(config.mirror or "", "backbone.mirror").rstrip("/")
    if not mirror:
        return published_url
    return f"{mirror}/{PurePosixPath(published_url).name}"


def fetch_weights(
    config: BackboneConfig,
    context: Context,
    published: PublishedWeights,
    policy: RetryPolicy | None = None,
) -> WeightsFile:
    """The weights file that the settings refer to, fetched if need be and verified.

    Raises:
        BackboneError: the file cannot be had, or its sha256 is not the one pinned by
            `backbone.sha256`, by `backbone.lock` or by the provider. A fetched copy is
            deleted then, a file of the user's never.
    """
    reference = locate_weights(config, context.root, published.url)
    assert reference is not None  # there is a published URL
    fetched = isinstance(reference, str)
    if isinstance(reference, str):
        no_network = config.offline or fetch.is_offline()
        path = fetch.fetch_file(
            reference, context.console, no_network=no_network, policy=policy
        )
        source = transfer.redact_url(reference)
    else:
        path = require_file(config, reference)
        source = "shipped" if config.weights == "shipped" else "file"
    stat = FileStat.of(path)
    sha256 = files.sha256(path)
    published_sha256 = published.sha256 if config.weights == "default" else None
    verify_digest(config, context.root, path, sha256, published_sha256, fetched=fetched)
    cache = open_digest_cache(context.scratch)
    cache.remember(backbone_lock.entry_name(config), path, stat, sha256)
    return WeightsFile(path, source, sha256, stat)


def check_reachable(config: BackboneConfig, root: Path, published_url: str) -> str:
    """Where the weights are to be had, in words; a server is asked for the file's
    beginning and no more.

    Raises:
        BackboneError: there is no such file, the server refuses or does not answer, or
            the network is switched off and the cache has no copy; says how to bring the
            file.
    """
    reference = locate_weights(config, root, published_url)
    assert reference is not None  # there is a published URL
    if isinstance(reference, Path):
        require_file(config, reference)
        return f"{config.name}, {reference}"
    no_network = config.offline or fetch.is_offline()
    fetch.check_reachable(reference, no_network=no_network)
    return f"{config.name}, {transfer.redact_url(reference)}"


def require_file(config: BackboneConfig, path: Path) -> Path:
    """The path itself, if there is a file.

    Raises:
        BackboneError: there is none.
    """
    if path.is_file():
        return path
    if config.weights != "shipped":
        raise BackboneError(
            str(path),
            found="no such file",
            expected="a weights file",
            hint="correct backbone.weights: default, shipped, a file or a URL",
        )
    provider, _, _ = config.name.partition("/")
    names = [f"{provider}/{file.stem}" for file in path.parent.glob("*.safetensors")]
    raise BackboneError(
        f"backbone.weights: shipped, for {config.name}",
        found="Thaw ships none for this architecture",
        expected="one of " + ", ".join(sorted(names)),
        hint="take one of these, or weights: default",
    )


def refuse_rewritten_file(file: WeightsFile) -> None:
    """Makes sure that the file which was read is the one which was hashed before.

    Raises:
        BackboneError: it was written to meanwhile.
    """
    if FileStat.of(file.path) != file.stat:
        raise BackboneError(
            str(file.path),
            found="a file that was written to while it was read",
            expected="one that stays as it is",
            hint="thaw run, once it is whole",
        )


def open_digest_cache(scratch: Path) -> DigestCache:
    """What is known of weights files on this machine, by the names of backbone.lock."""
    return DigestCache(scratch / "weights-digests.json")


def refuse_changed_file(config: BackboneConfig, root: Path, scratch: Path) -> None:
    """Compares the weights file, where it lies on this machine, with what backbone.lock
    says of it.

    A file that is not here is what its lock says, and so is one that a URL leads to and
    no cache holds.

    Raises:
        BackboneError: it is another file. A fetched copy is deleted, a file of the
            user's never.
    """
    name = backbone_lock.entry_name(config)
    entry = backbone_lock.read_lock(root).get(name, {})
    cache = open_digest_cache(scratch)
    try:
        reference = locate_weights(config, root, None)
    except ConfigError:  # without the environment variable that the settings name, nothing can be fetched anew either
        reference = None
    if "files" in entry:
        for file_name, locked in entry["files"].items():
            key = folder_key(name, file_name)
            file = _find_file_of_folder(reference, file_name) or cache.file_of(key)
            _refuse_other_file(config, cache, key, file, locked)
        return
    file = _find_file(reference) or cache.file_of(name)
    _refuse_other_file(config, cache, name, file, entry.get("sha256"))


def folder_key(name: str, file_name: str) -> str:
    """What a file of a folder is called in the cache of digests.

    Args:
        name: of the folder's entry in backbone.lock.
    """
    return f"{name} {file_name}"


def is_fetched(file: Path) -> bool:
    """Whether a file is a copy of our own, which may be deleted."""
    return file.is_relative_to(fetch.cache_folder())


def _find_file(reference: Path | str | None) -> Path | None:
    if isinstance(reference, str):
        return fetch.cached_path(reference)
    return reference


def _find_file_of_folder(reference: Path | str | None, file_name: str) -> Path | None:
    if isinstance(reference, Path) and reference.is_dir():
        return reference / file_name
    return None


def _refuse_other_file(
    config: BackboneConfig,
    cache: DigestCache,
    key: str,
    file: Path | None,
    locked: str | None,
) -> None:
    """Refuses a file that is here and has another sha256 than the lock says."""
    if locked is None or file is None or not file.is_file():
        return
    sha256 = cache.sha256(key, file)
    if not _matches(sha256, locked):
        raise mismatch_error(
            config, file, sha256, LOCK, locked, fetched=is_fetched(file)
        )


def verify_digest(
    config: BackboneConfig,
    root: Path,
    file: Path,
    sha256: str,
    published: str | None,
    *,
    fetched: bool,
) -> None:
    """Compares a weights file's sha256 with everything that says what it should be.

    Args:
        published: the beginning of the sha256, where the provider says it.
        fetched: whether the file is a copy of the cache's.

    Raises:
        BackboneError: one of them says otherwise; a fetched copy is deleted then.
    """
    entry = backbone_lock.read_lock(root).get(backbone_lock.entry_name(config), {})
    pins: dict[str, str | None] = {
        SETTING: config.sha256,
        LOCK: entry.get("sha256"),
        "its name": published,
    }
    for pin, expected in pins.items():
        if expected and not _matches(sha256, expected):
            raise mismatch_error(config, file, sha256, pin, expected, fetched=fetched)


def mismatch_error(
    config: BackboneConfig,
    file: Path,
    sha256: str,
    pin: str,
    expected: str,
    *,
    fetched: bool,
) -> BackboneError:
    """Another file than the one pinned; deletes it where it is a copy that was fetched.

    Args:
        pin: what says so.
    """
    found = f"sha256 {sha256}"
    if fetched:
        # The hub's cache keeps contents apart from names.
        file.resolve().unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        found += " (this copy was deleted)"
    hint = _explain_pin(config, pin, fetched=fetched)
    return BackboneError(
        str(file), found=found, expected=f"{expected}, by {pin}", hint=hint
    )


def _matches(sha256: str, expected: str) -> bool:
    return sha256.startswith(expected.lower())


def _explain_pin(config: BackboneConfig, pin: str, *, fetched: bool) -> str:
    if fetched:
        remedy = "run again to fetch it anew"
    elif config.weights == "shipped":
        remedy = "install the version of Thaw that this workspace was trained with"
    else:
        remedy = "bring the right file back"
    if pin == LOCK:
        return f"{remedy}; to train from this one, remove {backbone_lock.entry_name(config)!r} from {LOCK}"
    if pin == SETTING:
        return f"{remedy}; if other weights are meant, change {SETTING}"
    return remedy
