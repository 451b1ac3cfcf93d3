"""The libraries of Hugging Face as Thaw uses them: quiet, without telemetry, and away
from the network unless asked.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ConfigError

PACKAGES = ("huggingface_hub", "tokenizers", "transformers")
EXTRA = "text"


def require_installed(backbone: str) -> None:
    """Makes sure that the libraries are there.

    Args:
        backbone: its name, for the error.

    Raises:
        ConfigError: one of them is missing; the hint is what to type.
    """
    missing = [
        package for package in PACKAGES if importlib.util.find_spec(package) is None
    ]
    if missing:
        raise ConfigError(
            f"backbone.name: {backbone}",
            found=f"{', '.join(missing)} not installed",
            expected=f"what these networks need, the extra {EXTRA}",
            hint=f"pip install 'thaw[{EXTRA}]'",
        )


@contextmanager
def quiet_hub(*, offline: bool) -> Iterator[None]:
    """The hub's library without progress bars and telemetry; its settings as they were
    afterwards.

    It reads the environment once, when it is imported: so its own constants are set
    here, and the environment is left alone. Files come by plain HTTP, which a mirror
    can serve, and not from the hub's storage servers.

    Args:
        offline: nothing is asked for over the network. Where the user's own
            HF_HUB_OFFLINE says so, it stays so.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    wanted = {
        "HF_HUB_OFFLINE": offline or constants.HF_HUB_OFFLINE,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_XET": True,
    }
    before = {name: getattr(constants, name) for name in wanted}
    bars_by_environment = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
    silence_bars = not bars_by_environment and not are_progress_bars_disabled()
    for name, value in wanted.items():
        setattr(constants, name, value)
    if silence_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(constants, name, value)
        if silence_bars:
            enable_progress_bars()


@contextmanager
def quiet_library() -> Iterator[None]:
    """The transformers library, which then neither asks the network nor says anything
    short of an error.
    """
    with quiet_hub(offline=True):
        import transformers  # noqa: F401  (it sets its logger's level when it is imported)

        logger = logging.getLogger("transformers")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
