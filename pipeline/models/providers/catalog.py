"""The providers of pretrained networks there are. Values are `module:name`, so that
listing them imports none.
"""

from __future__ import annotations

import difflib
import importlib

from pipeline.errors import ConfigError
from pipeline.models.providers.base import BackboneProvider

PROVIDERS = {
    "torchvision": "pipeline.models.providers.torchvision:PROVIDER",
    "transformers": "pipeline.models.providers.transformers:PROVIDER",
}


def find(backbone_name: str) -> BackboneProvider:
    """The provider of a backbone, by its name `provider/name`.

    Raises:
        ConfigError: there is no such provider; those that there are are listed.
    """
    provider, _, name = backbone_name.partition("/")
    if provider not in PROVIDERS:
        raise ConfigError(
            f"backbone.name: {backbone_name}",
            found=f"no provider {provider!r}",
            expected="one of " + ", ".join(PROVIDERS),
            hint=_suggestion(provider, name),
        )
    return _load(PROVIDERS[provider])


def _suggestion(provider: str, name: str) -> str:
    near = difflib.get_close_matches(provider, PROVIDERS, 1)
    if near:
        return f"did you mean {near[0]}/{name}?"
    return "write provider/name"


def _load(reference: str) -> BackboneProvider:
    module_name, _, attribute = reference.partition(":")
    module = importlib.import_module(module_name)
    provider: BackboneProvider = getattr(module, attribute)
    return provider
