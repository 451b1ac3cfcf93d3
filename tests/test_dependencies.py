"""What is imported is declared, and what is declared is imported: pyproject.toml says
what Thaw itself needs.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from commands import REPOSITORY

PINS: set[str] = set()  # declared though not imported
# Commands and plug-ins of the developers'.
TOOLS = {"import-linter", "mypy", "pytest-timeout", "pytest-xdist", "ruff"}
OWN = {"pipeline", "flows"}
# Several distributions have a part of this package.
DISTRIBUTIONS = {"mlflow": "mlflow"}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {
        normalise(re.split(r"[\[<>=!~; ]", text, maxsplit=1)[0])
        for text in requirements
    }


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    values: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())[
        "project"
    ]
    return values


def imported_packages(*folders: str) -> dict[str, str]:
    """Top-level package → a file that imports it, also where it does so inside a
    function.
    """
    packages: dict[str, str] = {}
    for folder in folders:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
                for module in imported_modules(node):
                    packages.setdefault(
                        module.partition(".")[0], str(path.relative_to(REPOSITORY))
                    )
    return {
        name: path
        for name, path in packages.items()
        if name not in sys.stdlib_module_names | OWN
    }


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below a node; expressions, which import nothing, are passed over."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        below = getattr(node, name, ())
        for statement in below if isinstance(below, list) else ():
            yield statement
            yield from statements(statement)


def imported_modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module


_list_providers = cache(packages_distributions)


def distributions(packages: dict[str, str]) -> dict[str, str]:
    """Distribution → a file that imports a package of it."""
    providers = _list_providers()
    found = {}
    for package, path in packages.items():
        assert package in providers, f"{path} imports {package}, which is not installed"
        found[normalise(DISTRIBUTIONS.get(package, providers[package][0]))] = path
    return found


@pytest.mark.slow
def test_everything_imported_is_declared_and_everything_declared_is_imported(
    project: dict[str, Any],
) -> None:
    wanted = declared(project["dependencies"]) | declared(
        project["optional-dependencies"]["text"]
    )
    used = distributions(imported_packages("pipeline", "flows"))
    undeclared = {name: path for name, path in used.items() if name not in wanted}
    assert not undeclared
    assert wanted - used.keys() == PINS


@pytest.mark.slow
def test_what_tests_import_is_declared_for_developers(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    for_developers = declared(extras["dev"]) - {"thaw"}
    wanted = (
        declared(project["dependencies"]) | declared(extras["text"]) | for_developers
    )
    own = {path.stem for path in (REPOSITORY / "tests").rglob("*.py")}
    packages = imported_packages("tests")
    used = distributions(
        {name: path for name, path in packages.items() if name not in own}
    )
    assert not {name: path for name, path in used.items() if name not in wanted}
    stubs = {
        name
        for name in for_developers
        if name.startswith("types-") or name.endswith("-stubs")
    }
    assert for_developers - used.keys() - stubs == TOOLS


def test_every_direct_dependency_has_a_tested_version(project: dict[str, Any]) -> None:
    pins = {
        normalise(line.partition("==")[0])
        for line in Path(REPOSITORY / "constraints.txt").read_text().split()
    }
    assert declared(project["dependencies"]) <= pins
