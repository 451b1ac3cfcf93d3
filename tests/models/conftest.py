"""What tests of models share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from threads import threads


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield
