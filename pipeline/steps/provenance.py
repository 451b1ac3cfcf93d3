"""What a registered version was made from and with, as files that travel with it:

- `params.yaml`: every setting as the run had it, without secrets;
- `sources.json`: backbone, data and Git revision;
- `environment.txt`: Python, platform and every installed distribution.

They are no part of a version's key, since none of them changes what is served. A
version keeps those that it was first registered with.
"""

from __future__ import annotations

import json
import platform
import re
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pipeline import redaction
from pipeline.config import Config, to_yaml
from pipeline.records import BackboneRecord, DataVersion, GitState

FOLDER = "provenance"  # below a version's files, and among the artifacts of its run
SETTINGS, SOURCES, ENVIRONMENT = "params.yaml", "sources.json", "environment.txt"


def write_provenance(
    folder: Path,
    config: Config,
    backbone: BackboneRecord,
    data: DataVersion,
    git: GitState | None,
) -> None:
    """Writes the files into `folder`, which is made.

    Args:
        git: None where the workspace is in no Git repository, or has no commit.
    """
    folder.mkdir(parents=True)
    sources = redaction.redact_nested(describe_sources(backbone, data, git))
    texts = {
        SETTINGS: redaction.redact(to_yaml(config)),
        SOURCES: json.dumps(sources, indent=2, ensure_ascii=False) + "\n",
        ENVIRONMENT: "\n".join(describe_environment()) + "\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def describe_sources(
    backbone: BackboneRecord, data: DataVersion, git: GitState | None
) -> dict[str, Any]:
    """Backbone, data and Git revision, as JSON holds them."""
    described: dict[str, Any] = {
        "backbone": backbone.model_dump(
            mode="json",
            include={"name", "architecture", "source", "sha256", "weights_sha256"},
        ),
        "data": data.model_dump(mode="json", exclude={"git_revision"}),
        "git": None,
    }
    if git is not None:
        described["git"] = {
            "revision": git.revision,
            "dirty": git.dirty,
            "changed": git.changed,
        }
    return described


def describe_environment() -> list[str]:
    """Python and platform as comments, then `name==version` of every installed
    distribution, as pip reads them. Where a distribution was installed from is not
    said: the address could be anyone's.
    """
    versions: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            canonical = re.sub(r"[-_.]+", "-", name).lower()
            # The first is the one that is imported.
            versions.setdefault(canonical, f"{name}=={distribution.version}")
    python = f"# {platform.python_implementation()} {platform.python_version()}"
    return [
        python,
        f"# {platform.platform()}",
        *(versions[name] for name in sorted(versions)),
    ]
