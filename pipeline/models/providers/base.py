"""What a provider of pretrained networks answers. Each has a folder of its own beside
this file; `catalog` finds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipeline.config import BackboneConfig
    from pipeline.context import Context
    from pipeline.models.network import BlockedNetwork
    from pipeline.records import BackboneRecord, CandidateRecord


class BackboneProvider(Protocol):
    """A library of pretrained networks, such as torchvision: it knows their names,
    their files and their blocks.
    """

    @property
    def name(self) -> str:
        """What stands before the slash of `backbone.name`."""

    @property
    def packages(self) -> tuple[str, ...]:
        """What must be installed where a model is served, by the names on the package
        index.
        """

    def fetch(
        self, config: BackboneConfig, out: Path, context: Context
    ) -> BackboneRecord:
        """Fetches, verifies and rewrites a pretrained network; this is all that the
        backbone step does.

        `out` then holds `weights.safetensors`, the stock state dict in fp32, and every
        other file that building the network needs; the same source gives the same
        bytes. The first use of a weights reference is pinned in `backbone.lock`, once
        the files have been found to fit; a fetched copy that does not match its pin is
        deleted, a file of the user's never.

        Args:
            config: the section `backbone` of the settings.
            out: the step's folder, empty.
            context: workspace, caches and console.

        Returns:
            The saved record. `files` names what lies in `out` beside the weights.

        Raises:
            ConfigError: the provider has no such network.
            BackboneError: the files cannot be had, are not what was pinned, are unsafe,
                broken or of another network.
        """

    def check_reachable(self, config: BackboneConfig, root: Path) -> str:
        """Where the weights are to be had, in words; a server is asked for a file's
        beginning and no more.

        Args:
            root: the workspace, from which relative paths of the settings start.

        Raises:
            ConfigError: the provider has no such network.
            BackboneError: there is no such file, the server refuses or does not answer,
                or the network is switched off and the cache has no copy; the hint says
                how to bring the file.
        """

    def count_parameters(self, config: BackboneConfig) -> int:
        """How many parameters the network has as published: for estimates of memory and
        disk, before it is fetched.

        Raises:
            ConfigError: the provider has no such network.
        """

    def build(
        self, backbone: BackboneRecord, classes: int, *, pretrained: bool, seed: int
    ) -> BlockedNetwork:
        """The network with a new head; the global random state stays as it is.

        Args:
            backbone: the record that `fetch` made.
            classes: number of outputs.
            pretrained: with the backbone's weights, the head alone random; else all
                weights are random.
            seed: of the random weights.

        Raises:
            BackboneError: the backbone's files cannot be read or do not fit the
                network.
        """

    def load_finetuned(self, candidate: CandidateRecord) -> BlockedNetwork:
        """The network of a finished candidate, with exactly the weights that were
        saved.

        What it needs beside the weights is read from the candidate's folder, into which
        the backbone's other files were copied under their own names.

        Raises:
            BackboneError: the candidate's files cannot be read or do not fit the
                network.
        """
