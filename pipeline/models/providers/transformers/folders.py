"""Published folders of the transformers library: found on this machine or on the hub,
verified and rewritten.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import files
from pipeline.config import BackboneConfig, expand_variables
from pipeline.context import Context
from pipeline.errors import BackboneError, ConfigError
from pipeline.files import FileStat, expanded
from pipeline.models import backbone_lock, references
from pipeline.models.backbone_lock import LOCK
from pipeline.records import BackboneRecord, TextInputSpec
from pipeline.storage import save_tensors

WEIGHTS = "model.safetensors"
NEEDED = ("config.json", WEIGHTS, "tokenizer.json")
OPTIONAL = ("tokenizer_config.json", "special_tokens_map.json")
MOST_TOKENS = 512
USUAL_PARAMETERS = 120_000_000
# RoBERTa's kin count positions from behind the padding's index.
COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")


class PublishedFolder(NamedTuple):
    """A folder with a network's files.

    Args:
        path: where it lies on this machine.
        source: what the record calls it: "shipped", "folder", "mirror", or the URL.
        revision: the hub's commit, where it comes from there.
    """

    path: Path
    source: str
    revision: str | None = None


def rewrite(config: BackboneConfig, out: Path, context: Context) -> BackboneRecord:
    """Writes weights.safetensors, config.json and the tokenizer's files into `out`; see
    `BackboneProvider.fetch`.
    """
    from pipeline.models.providers.transformers import (
        architectures,
        builder,
        published_weights,
    )

    published = find_folder(config, context)
    folder = published.path
    digests = _verified_digests(config, folder, context)
    settings = builder.read_config(folder)
    subject = str(folder / builder.CONFIG)
    stock = builder.build_backbone(settings, seed=0, subject=subject)
    state = published_weights.read_published(folder, stock)
    max_tokens = _token_limit(folder, settings)
    _refuse_other_tokenizer(folder, int(settings.get("vocab_size", 0)) or None)
    target = out / builder.WEIGHTS
    save_tensors(state, target)
    copied = _copy_files(folder, digests, out)
    pooling = architectures.find(settings["model_type"], config.name).pooling
    network = builder.with_head(stock, settings, 2, pooling, 0, config.name)
    _pin(config, context.root, digests, published.revision)
    record = BackboneRecord(
        name=config.name,
        architecture=settings["model_type"],
        source=published.source,
        sha256=digests[WEIGHTS],
        weights_sha256=files.sha256(target),
        parameters=sum(parameter.numel() for parameter in stock.parameters()),
        classes=0,
        blocks=tuple(network.names),
        input=TextInputSpec(max_tokens=max_tokens, pooling=pooling, columns=("text",)),
        files=copied,
    )
    return record.save(out)


def _copy_files(folder: Path, digests: Mapping[str, str], out: Path) -> tuple[str, ...]:
    """Copies what lies beside the weights; the names of it."""
    copied = []
    for name in (*NEEDED, *OPTIONAL):
        if name in digests and name != WEIGHTS:
            shutil.copyfile(folder / name, out / name)
            copied.append(name)
    return tuple(copied)


def find_folder(config: BackboneConfig, context: Context) -> PublishedFolder:
    """The folder that the settings refer to, fetched if need be.

    Raises:
        BackboneError: it is not to be had, or a file is missing in it.
    """
    local = local_folder(config, context.root)
    if local is None:
        from pipeline.models.providers.transformers import hub

        published = hub.fetch_folder(config, context)
    else:
        published = local
    _refuse_incomplete(published.path)
    return published


def local_folder(config: BackboneConfig, root: Path) -> PublishedFolder | None:
    """The folder on this machine that the settings name; None where they mean a server.

    Raises:
        ConfigError: they name a URL, or an environment variable that is not set.
    """
    if config.weights == "default":
        mirror = expand_variables(config.mirror or "", "backbone.mirror").removeprefix(
            "file://"
        )
        if not mirror or "://" in mirror:
            return None
        return PublishedFolder(root / expanded(mirror) / _repository(config), "mirror")
    if config.weights == "shipped":
        return PublishedFolder(references.SHIPPED / _repository(config), "shipped")
    reference = expand_variables(config.weights, "backbone.weights").removeprefix(
        "file://"
    )
    if "://" in reference:
        raise ConfigError(
            "backbone.weights",
            found="a URL",
            expected="default (the hub), shipped, or a folder on this machine",
            hint="for a mirror of the hub, set backbone.mirror",
        )
    return PublishedFolder(root / expanded(reference), "folder")


def _repository(config: BackboneConfig) -> str:
    """The network's name on the hub, such as sentence-transformers/all-MiniLM-L6-v2."""
    return config.name.partition("/")[2]


def check_reachable(config: BackboneConfig, root: Path) -> str:
    """Where the network is to be had, in words.

    Raises:
        BackboneError: it is not to be had.
    """
    local = local_folder(config, root)
    if local is None:
        from pipeline.models.providers.transformers import hub

        return hub.check_reachable(config, root)
    _refuse_unshipped(config, local)
    _refuse_incomplete(local.path)
    return f"{config.name}, {local.path}"


def count_parameters(config: BackboneConfig) -> int:
    """How many parameters the network has, where its files are here; else as many as a
    network of the usual size.
    """
    from safetensors import SafetensorError, safe_open

    local = local_folder(config, Path())
    try:
        if local is None:
            return USUAL_PARAMETERS
        parameters = 0
        with safe_open(local.path / WEIGHTS, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (it is no mapping)
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                parameters += size
        return parameters
    except (OSError, SafetensorError):
        return USUAL_PARAMETERS


def _refuse_unshipped(config: BackboneConfig, local: PublishedFolder) -> None:
    if local.source != "shipped" or local.path.is_dir():
        return
    names = sorted(
        f"transformers/{path.parent.name}"
        for path in references.SHIPPED.glob(f"*/{WEIGHTS}")
    )
    raise BackboneError(
        f"backbone.weights: shipped, for {config.name}",
        found="Thaw ships none of this name",
        expected="one of " + ", ".join(names),
        hint="take one of these, or weights: default, or a folder",
    )


def _refuse_incomplete(folder: Path) -> None:
    """Refuses a folder that is none, or that lacks a file; model.safetensors is looked
    at by `published_weights`.
    """
    from pipeline.models.providers.transformers import published_weights

    if not folder.is_dir():
        raise BackboneError(
            str(folder),
            found="a file" if folder.exists() else "no such folder",
            expected="a folder with " + ", ".join(NEEDED),
            hint="correct backbone.weights or backbone.mirror in params.yaml",
        )
    missing = []
    for name in NEEDED:
        if name != WEIGHTS and not (folder / name).is_file():
            missing.append(name)
    if not missing:
        published_weights.weights_file(folder)
        return
    if missing == ["tokenizer.json"]:
        hint = "bring it; where the hub has a slow tokenizer alone, save a fast one: AutoTokenizer.from_pretrained(…).save_pretrained(folder)"
    else:
        hint = "bring the whole folder, as the hub has it"
    raise BackboneError(
        str(folder),
        found="no " + ", ".join(missing),
        expected="a folder with " + ", ".join(NEEDED),
        hint=hint,
    )


def _verified_digests(
    config: BackboneConfig, folder: Path, context: Context
) -> dict[str, str]:
    """The sha256 of each file that is read.

    Raises:
        BackboneError: a file is not what backbone.sha256 or backbone.lock says; a
            fetched copy is deleted then.
    """
    name = backbone_lock.entry_name(config)
    known = references.open_digest_cache(context.scratch)
    digests = {}
    for file_name in (*NEEDED, *OPTIONAL):
        file = folder / file_name
        if file.is_file():
            stat = FileStat.of(file)
            digests[file_name] = files.sha256(file)
            known.remember(
                references.folder_key(name, file_name), file, stat, digests[file_name]
            )
    pins = [(references.SETTING, WEIGHTS, config.sha256)] if config.sha256 else []
    entry = backbone_lock.read_lock(context.root).get(name, {})
    if "files" in entry:
        for file_name in sorted({*entry["files"], *digests}):
            pins.append((LOCK, file_name, entry["files"].get(file_name, NO_FILE)))
    for pin, file_name, expected in pins:
        file_digest = digests.get(file_name, NO_FILE)
        if not file_digest.startswith(expected.lower()):
            file = folder / file_name
            raise references.mismatch_error(
                config,
                file,
                file_digest,
                pin,
                expected,
                fetched=references.is_fetched(file),
            )
    return digests


NO_FILE = "of no file"


def _pin(
    config: BackboneConfig, root: Path, digests: dict[str, str], revision: str | None
) -> None:
    facts: dict[str, Any] = {"files": digests}
    if revision is not None:
        facts["revision"] = revision
    backbone_lock.pin_folder(config, root, digests[WEIGHTS], facts)


def _token_limit(folder: Path, settings: dict[str, Any]) -> int:
    """Most tokens the network takes, as its files say, and at most 512.

    Args:
        settings: the content of config.json.
    """
    from pipeline.models.providers.transformers import builder

    limits = [MOST_TOKENS]
    for key in ("max_position_embeddings", "n_positions"):
        positions = settings.get(key)
        if isinstance(positions, int) and positions > 0:
            offset = 0
            if settings["model_type"] in COUNT_FROM_PADDING:
                offset = 2
            limits.append(positions - offset)
    path = folder / "tokenizer_config.json"
    if path.is_file():
        longest = builder.read_json(path).get("model_max_length")
        if isinstance(longest, int) and longest > 0:
            limits.append(longest)
    return min(limits)


def _refuse_other_tokenizer(folder: Path, vocabulary: int | None) -> None:
    """Refuses a tokenizer that cannot be read, or whose tokens the network has no
    vectors for.

    Args:
        vocabulary: how many tokens the network knows.
    """
    from pipeline.serving import text_tokens

    path = folder / text_tokens.TOKENIZER_FILE
    try:
        tokenizer = text_tokens.load_tokenizer(folder)
    except Exception as fault:  # the library raises bare exceptions
        raise BackboneError(
            str(path),
            found=str(fault),
            expected="a tokenizer of the tokenizers library",
            hint="fetch it again",
        ) from fault
    last = max(tokenizer.get_vocab().values(), default=0)
    if vocabulary is not None and last >= vocabulary:
        raise BackboneError(
            str(path),
            found=f"a tokenizer with token {last}",
            expected=f"tokens below {vocabulary}, as config.json says",
            hint="keep config.json, model.safetensors and tokenizer.json of one network together",
        )
