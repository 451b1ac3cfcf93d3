"""Networks of the transformers library, by their names on the Hugging Face hub or from
a folder.
"""

from __future__ import annotations

from pipeline.models.providers.transformers.provider import TransformersProvider

PROVIDER = TransformersProvider()
