"""The checks: Great Expectations judges the manifest. The only file that imports it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import DataError
from pipeline.records import Finding

if TYPE_CHECKING:
    import pandas as pd

DOCS = "data-docs"


@dataclass(frozen=True)
class Check:
    """One expectation, and how its failure is told.

    Args:
        kind: the expectation's class in `great_expectations.expectations`.
        arguments: its arguments.
        index: the column that names a row; none for a check of the whole table.
    """

    code: str
    severity: Literal["critical", "warning"]
    subject: str
    expected: str
    hint: str
    kind: str
    arguments: dict[str, Any]
    index: str | None = None


@dataclass(frozen=True)
class ExpectationSuite:
    """Checks of one table; `items` gives, by a check's code, what to name where the
    values alone say too little.
    """

    name: str
    frame: pd.DataFrame
    checks: tuple[Check, ...]
    items: Mapping[str, Sequence[str]] = field(default_factory=dict)


def judge(suites: Sequence[ExpectationSuite], run_dir: Path) -> list[Finding]:
    """Runs the suites, and writes Data Docs into `run_dir / "data-docs"`.

    Returns:
        A finding for every check that failed, in the suites' order, with all items
        named.

    Raises:
        DataError: a suite holds no check, and so would pass anything; or a check could
            not be judged.
    """
    for suite in suites:
        if not suite.checks:
            raise DataError(
                f"checks of {suite.name}",
                found="none",
                expected="at least one",
                hint="say what is expected",
            )
    context = _great_expectations().get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("dataset")
    findings = [finding for suite in suites for finding in _run(context, source, suite)]
    write_data_docs(context, run_dir / DOCS)
    return findings


def write_data_docs(context: Any, folder: Path) -> None:
    """Great Expectations' own pages about all that was judged in a context."""
    context.add_data_docs_site("thaw", _site(folder))
    context.build_data_docs(site_names=["thaw"])


def _great_expectations() -> ModuleType:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # it looks while it is imported
    with warnings.catch_warnings():
        # What its own dependencies deprecate is not the user's concern.
        warnings.simplefilter("ignore")
        import great_expectations
    return great_expectations


def _site(folder: Path) -> dict[str, Any]:
    # Great Expectations would put an environment variable's value, or an error, in the
    # place of a $NAME.
    base = str(folder.resolve()).replace("$", r"\$")
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": base,
        },
    }


def _run(context: Any, source: Any, suite: ExpectationSuite) -> list[Finding]:
    gx = _great_expectations()
    expectations = []
    for at, check in enumerate(suite.checks):
        expectations.append(
            getattr(gx.expectations, check.kind)(
                **check.arguments, severity=check.severity, meta={"at": at}
            )
        )
    table = source.add_dataframe_asset(suite.name).add_batch_definition_whole_dataframe(
        "all"
    )
    stored = context.suites.add(
        gx.ExpectationSuite(suite.name, expectations=expectations)
    )
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=suite.name, data=table, suite=stored)
    )
    # All are summarised first; only those that failed are asked for their rows, which
    # takes long where many fail.
    given = {"dataframe": suite.frame}
    results = definition.run(batch_parameters=given, result_format="SUMMARY").results
    failed = sorted(
        result.expectation_config.meta["at"] for result in results if not result.success
    )
    if not failed:
        return []
    batch = table.get_batch(given)
    return [_finding(suite, suite.checks[at], batch, expectations[at]) for at in failed]


def _finding(
    suite: ExpectationSuite, check: Check, batch: Any, expectation: Any
) -> Finding:
    form: dict[str, Any] = {"result_format": "COMPLETE"}
    if check.index is not None:
        form["unexpected_index_column_names"] = [check.index]
    outcome = batch.validate(expectation, result_format=form)
    judged = outcome.result
    if not judged:
        raise DataError(
            f"check {check.code}",
            found=str(outcome.exception_info)[-200:],
            expected="one that can be judged",
        )
    items = suite.items.get(check.code)
    if not items:
        items = _list_items(judged, check)
    return Finding(
        code=check.code,
        severity=check.severity,
        subject=check.subject,
        found=_describe_found(judged, check),
        expected=check.expected,
        hint=check.hint,
        items=tuple(items),
    )


def _list_items(result: Mapping[str, Any], check: Check) -> list[str]:
    """The rows that a check of rows does not pass."""
    if check.index is None:
        return []
    rows = result.get("unexpected_index_list") or []
    return sorted({_item(row, check) for row in rows})


def _describe_found(result: Mapping[str, Any], check: Check) -> str:
    if check.index is not None:
        return f"{result['unexpected_count']} of {result['element_count']}"
    if "observed_value" in result:
        value = result["observed_value"]
    else:
        value = result["unexpected_list"][0]
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _item(row: Mapping[str, Any], check: Check) -> str:
    column = check.arguments["column"]
    name = str(row[check.index or ""])
    if column == check.index:
        return name
    return f"{name}: {row.get(column)}"
