"""What tests share: a quiet environment, and one finished workspace made once and laid
anew for each test.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import REPOSITORY, Thaw, run_thaw
from flows import settings
from pipeline.data import checks
from pseudo_terminal import PseudoTerminal, thaw_on_terminal

for key, value in settings.QUIET.items():
    os.environ.setdefault(key, value)
os.environ.setdefault("MPLBACKEND", "agg")
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IS_WORKER:
    # Threads of several workers would wait for each other's cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Taking apart all that was imported takes a worker four seconds, and its results
    # are told by then. What is registered first is called last.
    atexit.register(os._exit, 0)
# What collecting the tests imports stays until the end: looking for garbage among it,
# again and again, takes a tenth of the time.
gc.disable()
# pytest-xdist sets them for its workers; a terminal's width is the terminal's own.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# To import one of these libraries, or to start the process that others are forked from,
# takes seconds: the files whose tests do go to one process.
HEAVY_STARTS = {
    "great_expectations": (
        "data/test_checks.py",
        "data/test_conflicts.py",
        "steps/test_annotated_images.py",
        "steps/test_validate.py",
    ),
    "mlflow_and_transformers": (
        "modalities/text/test_attribution.py",
        "modalities/text/test_token_store.py",
        "serving/test_served_model.py",
        "tasks/text_classification/test_text_evaluation.py",
        "test_preflight.py",
        "tracking/test_runs.py",
    ),
    "forked_processes": ("training/test_checkpoints.py", "training/test_resume.py"),
}


@pytest.fixture(scope="session")
def thaw() -> Thaw:
    """The command."""
    return run_thaw


@pytest.fixture(scope="session", autouse=True)
def _own_homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing a test does reaches the user's Prefect profile, weights cache or DVC
    settings.
    """
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home / "prefect"))
        patch.setenv("THAW_CACHE", str(home / "thaw"))
        patch.setenv("DVC_GLOBAL_CONFIG_DIR", str(home / "dvc"))
        patch.setenv("DVC_SITE_CACHE_DIR", str(home / "dvc-site"))
        patch.delenv("PREFECT_API_URL", raising=False)
        yield


@pytest.fixture(scope="session")
def _finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path, PseudoTerminal]:
    """A workspace of a small sample after one `thaw run`: where it lives, its pristine
    copy, the terminal of the run.
    """
    base = tmp_path_factory.mktemp("finished")
    place, pristine = base / "surfaces", base / "pristine"
    made = REPOSITORY / "tests" / "support" / "small_workspace.py"
    subprocess.run([sys.executable, str(made), str(place)], check=True, timeout=120)
    with thaw_on_terminal("run", cwd=place, columns=60) as terminal:
        assert terminal.wait() == 0, "\n".join(terminal.lines())
    shutil.copytree(place, pristine, symlinks=True)
    return place, pristine, terminal


@pytest.fixture
def finished(_finished: tuple[Path, Path, PseudoTerminal]) -> Path:
    """The finished workspace, as it was right after its first run, whatever the test
    before did to it.

    It is laid anew at the same path, since the tracking store names its artifacts by
    absolute paths.
    """
    place, pristine, _ = _finished
    shutil.rmtree(place)
    shutil.copytree(pristine, place, symlinks=True)
    return place


@pytest.fixture(scope="session")
def first_run(_finished: tuple[Path, Path, PseudoTerminal]) -> PseudoTerminal:
    """The terminal, 60 columns wide, on which the first `thaw run` ran."""
    return _finished[2]


@pytest.fixture(scope="session")
def first_run_output(first_run: PseudoTerminal) -> str:
    """What the first `thaw run` said, on one line."""
    return first_run.text()


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real data sets and weights; tests that need it are skipped without
    it.
    """
    folder = Path(os.environ.get("THAW_REAL", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(
            "no real data here: set THAW_REAL to a folder that holds data/ and weights/"
        )
    return folder


@pytest.fixture
def without_data_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks without Great Expectations' pages, which take longer than they do."""
    monkeypatch.setattr(checks, "write_data_docs", lambda context, folder: None)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    if not IS_WORKER:
        gc.unfreeze()  # libraries that look for leaks would report all of it


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the finished workspace run in one process, so that it is made
    once; so do those of a file in which tests share a fixture, and those of the files
    with one heavy start. The others go one by one to whichever process is free.
    """
    groups = {}
    for item in items:
        if _shares_fixture(item):
            groups[item.path] = str(item.path.relative_to(REPOSITORY))
    for library, names in HEAVY_STARTS.items():
        for name in names:
            groups[REPOSITORY / "tests" / name] = library
    for item in items:
        if "_finished" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("finished"))
        elif item.path in groups:
            item.add_marker(pytest.mark.xdist_group(groups[item.path]))


def _shares_fixture(item: pytest.Item) -> bool:
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        if any(definition.scope == "module" for definition in definitions):
            return True
    return False
