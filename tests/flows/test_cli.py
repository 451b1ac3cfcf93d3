"""The command line: quick to answer, complete, and clear about what is wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands import REPOSITORY, THAW, Thaw
from flows.cli import _comparison_line, _print_error
from flows.doctor import _check_data
from image_builders import save
from pipeline.config import parse
from pipeline.errors import DataError
from pipeline.records import Comparison, MetricEstimate
from pipeline.setup import init
from pipeline.workspace import Workspace

COMMANDS = (
    "init",
    "run",
    "step",
    "status",
    "lr-find",
    "sample",
    "models",
    "promote",
    "rollback",
    "approve",
    "refuse",
    "predict",
    "serve",
    "up",
    "doctor",
    "clean",
)


def test_help_names_every_command_and_each_has_an_example(
    thaw: Thaw, tmp_path: Path
) -> None:
    listed = thaw("--help", cwd=tmp_path, env={"COLUMNS": "60"}).stdout
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", listed, re.M)
    from typer.main import get_command

    from flows.cli import app

    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert "Example" in (command.help or ""), name
        assert f"thaw {name}" in (command.help or ""), name
    assert "..." not in listed.split("Commands:")[1]


def test_help_imports_nothing_heavy() -> None:
    heavy = [
        "torch",
        "torchvision",
        "prefect",
        "mlflow",
        "dvc",
        "great_expectations",
        "pandas",
        "pyarrow",
        "numpy",
    ]
    code = (
        "import sys; sys.argv=['thaw','--help']\n"
        "from flows.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        f"print('LOADED', [m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "LOADED []" in done.stdout


def test_outside_a_workspace_the_hint_is_named(thaw: Thaw, tmp_path: Path) -> None:
    done = thaw("run", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "thaw init" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_bad_setting_is_named_at_once(thaw: Thaw, tmp_path: Path) -> None:
    place = tmp_path / "place"
    init(place, source=None, config=parse({}, "test"))
    params = place / "params.yaml"
    params.write_text(
        params.read_text()
        .replace("epochs: 15", "epochs: 0")
        .replace("seed: 0", "sed: 0", 1)
    )
    done = thaw("run", cwd=place, check=False)
    assert done.returncode == 2
    assert "split.sed" in done.stderr
    assert "did you mean seed?" in done.stderr
    assert "finetune.epochs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_doctor_finds_what_is_there(thaw: Thaw, tmp_path: Path) -> None:
    done = thaw("doctor", cwd=tmp_path, check=False)
    assert "torchvision" in done.stdout
    assert "workspace" in done.stdout
    assert "thaw init" in done.stdout


@pytest.mark.parametrize(
    ("lost", "hint"), [("data", "dvc pull"), (".dvc", "bring .dvc/ back")]
)
def test_the_doctor_sends_nobody_to_the_doctor(
    lost: str, hint: str, tmp_path: Path
) -> None:
    save(tmp_path / "photos" / "ant" / "1.png")
    init(tmp_path / "flowers", source=tmp_path / "photos", config=parse({}, "test"))
    shutil.rmtree(tmp_path / "flowers" / lost)
    place = Workspace(tmp_path / "flowers")
    found = _check_data(place, place.config())
    assert found.state == "bad"
    assert hint in found.hint


def test_the_doctors_bounds_are_the_packages_own() -> None:
    from packaging.requirements import Requirement

    from flows.doctor import BOUNDS

    tomllib = pytest.importorskip("tomllib")
    wanted = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"][
        "dependencies"
    ]
    ours = {Requirement(text).name: Requirement(text).specifier for text in wanted}
    for name, bound in BOUNDS.items():
        assert str(ours[name]) == str(Requirement(f"{name}{bound}").specifier), name


def test_what_is_installed_is_what_was_tested() -> None:
    """The bounds that keep Prefect's flows and schedules alive hold in constraints.txt."""
    pins = dict(
        line.split("==")
        for line in (REPOSITORY / "constraints.txt").read_text().split()
    )
    from packaging.specifiers import SpecifierSet

    from flows.doctor import BOUNDS

    for name, bound in BOUNDS.items():
        assert SpecifierSet(bound).contains(pins[name]), name


def test_a_folder_that_was_deleted_meanwhile_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    # A shell's child begins in the folder that the shell has just removed.
    command = ["sh", "-c", 'rmdir "$0" && exec "$1" status', gone, THAW]
    done = subprocess.run(
        command, cwd=gone, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "it was deleted" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_init_wants_data_or_the_sample(thaw: Thaw, tmp_path: Path) -> None:
    for words in ((), ("--sample", "--data", str(tmp_path))):
        done = thaw("init", "trial", *words, cwd=tmp_path, check=False)
        assert done.returncode == 2
        assert "--sample" in done.stderr
        assert not (tmp_path / "trial").exists()
    made = thaw(
        "init", "trial", "--task", "text-classification", "--sample", cwd=tmp_path
    )
    assert "text: column text" in made.stdout
    assert 'weights: "shipped"' in (tmp_path / "trial" / "params.yaml").read_text()


def test_an_error_with_many_details_before_there_is_a_workspace_fits_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lines = [f"image{number:03d}.jpg: bad-line" for number in range(100)]
    _print_error(DataError("folder", found="100 images", details=lines))
    printed = capsys.readouterr().err
    assert "image099" not in printed
    (kept,) = tmp_path.glob("thaw-error-*.txt")
    assert f"and 80 more, all in {kept}" in "".join(printed.split("\n"))
    assert "image099.jpg" in kept.read_text()


@pytest.mark.parametrize(
    ("low", "line"),
    [
        (
            0.03,
            "compared with scratch: +25.0 points of accuracy "
            "(+3.0 to +50.0; sign-flip test p = 0.078), too little to tell them apart",
        ),
        (
            -0.03,
            "compared with scratch: +25.0 points of accuracy "
            "(-3.0 to +50.0), too little to tell them apart",
        ),
    ],
)
def test_an_interval_that_the_test_does_not_bear_out_is_told_with_it(
    low: float, line: str
) -> None:
    difference = MetricEstimate(value=0.25, low=low, high=0.5)
    comparison = Comparison(
        other="scratch",
        metric="accuracy",
        difference=difference,
        p_value=0.0784,
        verdict="cannot-tell",
    )
    assert _comparison_line(comparison) == line
