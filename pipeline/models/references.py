"""What a weights reference leads to on this machine, and whether that is still what backbone.lock says.

Nothing here imports torch: `thaw run` asks it before it knows whether there is anything to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.config import BackboneConfig, expand_variables
from pipeline.errors import BackboneError, ConfigError
from pipeline.files import expanded
from pipeline.models import backbone_lock, fetch
from pipeline.models.backbone_lock import LOCK
from pipeline.models.digests import DigestCache, FileStat

SHIPPED = Path(str(resources.files("pipeline.models") / "shipped"))
SETTING = "backbone.sha256"


class WeightsFile(NamedTuple):
    """A weights file that is what it should be."""

    path: Path
    source: str  # "shipped", "file" or the URL
    sha256: str
    stat: FileStat  # when it was hashed


def locate(config: BackboneConfig, root: Path, published: str | None) -> Path | str | None:
    """The file or the URL that the settings refer to; None where that cannot be told.

    Args:
        published: where the provider publishes the weights; None where it was not asked, which imports torch.

    Raises:
        ConfigError: the settings name an environment variable that is not set.
    """
    text = expand_variables(config.weights, "backbone.weights")
    if text == "shipped":
        return SHIPPED / f"{config.name.partition('/')[2]}.safetensors"
    if text == "default":
        if published is None:
            return None
        mirror = expand_variables(config.mirror or "", "backbone.mirror").rstrip("/")
        text = f"{mirror}/{PurePosixPath(published).name}" if mirror else published
    text = text.removeprefix("file://")
    return text if "://" in text else root / expanded(text)


def digest_cache(scratch: Path) -> DigestCache:
    """What is known of weights files on this machine, by the names of backbone.lock."""
    return DigestCache(scratch / "weights-digests.json")


def refuse_changed(config: BackboneConfig, root: Path, scratch: Path) -> None:
    """Compares the weights file, where it lies on this machine, with what backbone.lock says of it.

    A file that is not here is what its lock says, and so is one that a URL leads to and no cache holds.

    Raises:
        BackboneError: it is another file. A fetched copy is deleted, a file of the user's never.
    """
    name = backbone_lock.entry_name(config)
    entry = backbone_lock.read(root).get(name, {})
    known = digest_cache(scratch)
    try:
        place = locate(config, root, None)
    except ConfigError:  # without the environment variable that the settings name, nothing can be fetched anew either
        place = None
    if "files" in entry:
        for file_name, locked in entry["files"].items():
            folder = place if isinstance(place, Path) and place.is_dir() else None
            key = folder_key(name, file_name)
            _refuse_other(config, known, key, folder / file_name if folder else known.file_of(key), locked)
        return
    place = place or known.file_of(name)
    file = fetch.place(place) if isinstance(place, str) else place
    _refuse_other(config, known, name, file, entry.get("sha256"))


def folder_key(name: str, file_name: str) -> str:
    """What a file of a folder is called in the cache of digests.

    Args:
        name: of the folder's entry in backbone.lock.
    """
    return f"{name} {file_name}"


def _refuse_other(config: BackboneConfig, known: DigestCache, key: str, file: Path | None, locked: str | None) -> None:
    """Refuses a file that is here and has another sha256 than the lock says."""
    if locked is None or file is None or not file.is_file():
        return
    found = known.sha256(key, file)
    if not _matches(found, locked):
        raise refusal(config, file, found, LOCK, locked, fetched=is_fetched(file))


def is_fetched(file: Path) -> bool:
    """Whether a file is a copy of our own, which may be deleted."""
    return file.is_relative_to(fetch.cache_folder())


def verify(config: BackboneConfig, root: Path, file: Path, found: str, published: str | None, *, fetched: bool) -> None:
    """Compares a weights file's sha256 with everything that says what it should be.

    Args:
        published: the beginning of the sha256, where the provider puts it into the file's name.

    Raises:
        BackboneError: one of them says otherwise; a fetched copy is deleted then.
    """
    entry = backbone_lock.read(root).get(backbone_lock.entry_name(config), {})
    pins: Mapping[str, str | None] = {SETTING: config.sha256, LOCK: entry.get("sha256"), "its name": published}
    for pin, expected in pins.items():
        if expected and not _matches(found, expected):
            raise refusal(config, file, found, pin, expected, fetched=fetched)


def refusal(config: BackboneConfig, file: Path, found: str, pin: str, expected: str, *, fetched: bool) -> BackboneError:
    """Another file than the one pinned; deletes it where it is a copy that was fetched.

    Args:
        pin: what says so.
    """
    if fetched:
        file.resolve().unlink(missing_ok=True)  # the hub's cache keeps contents apart from names
        file.unlink(missing_ok=True)
    return BackboneError(
        str(file),
        found=f"sha256 {found}" + (" (this copy was deleted)" if fetched else ""),
        expected=f"{expected}, by {pin}",
        hint=_mend(config, pin, fetched=fetched),
    )


def _matches(found: str, expected: str) -> bool:
    return found.startswith(expected.lower())


def _mend(config: BackboneConfig, pin: str, *, fetched: bool) -> str:
    if fetched:
        back = "run again to fetch it anew"
    elif config.weights == "shipped":
        back = "install the version of Thaw that this workspace was trained with"
    else:
        back = "bring the right file back"
    if pin == LOCK:
        return f"{back}; to train from this one, remove {backbone_lock.entry_name(config)!r} from {LOCK}"
    return f"{back}; if other weights are meant, change {SETTING}" if pin == SETTING else back
