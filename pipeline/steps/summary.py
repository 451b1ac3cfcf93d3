"""What a step came to, in a line drawn from its record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline import records
from pipeline.records import Finding, MetricEstimate
from pipeline.report.formatting import meaning
from pipeline.text import format_seconds, pluralize


def step_line(name: str, text: str) -> str:
    """A line about a step: its name in a column, then the text."""
    return f"{name:<9} {text}"


def running_line(name: str, reasons: tuple[str, ...]) -> str:
    """Said when a step starts, with why it has to run."""
    named = ["first run" if reason == "never run" else reason for reason in reasons]
    return step_line(name, f"running ({'; '.join(named)})" if named else "running")


def done_line(name: str, seconds: float, record: records.Record) -> str:
    """Said when a step is done."""
    return step_line(name, f"done in {format_seconds(seconds)}: {summarize(record)}")


def summarize(record: records.Record) -> str:
    """What a record holds, in one line."""
    for kind, summary in SUMMARIES.items():
        if isinstance(record, kind):
            return summary(record)
    raise TypeError(f"no summary of {type(record).__name__}")


def format_metric(metric: str, value: float) -> str:
    """A share in per cent, anything else with three digits."""
    return f"{value:.1%}" if meaning(metric).share else f"{value:.3f}"


def format_estimate(metric: str, estimate: MetricEstimate) -> str:
    """A metric with its interval: 91.2% (85.1% to 95.3%)."""
    low, high = format_metric(metric, estimate.low), format_metric(metric, estimate.high)
    return f"{format_metric(metric, estimate.value)} ({low} to {high})"


def format_finding(finding: Finding) -> str:
    """What was found of what, what was expected and what to do, on one line."""
    parts = [f"{finding.subject}: {finding.found}"]
    parts += [f"expected {finding.expected}"] if finding.expected else []
    parts += [finding.hint] if finding.hint else []
    return "; ".join(parts)


def _validate(record: records.ValidateRecord) -> str:
    parts = [f"{pluralize(record.examples, 'example')} in {pluralize(len(record.labels), 'class', 'classes')}"]
    parts += [pluralize(record.aliases, "copy", "copies")] if record.aliases else []
    parts += [f"{record.quarantined:,} quarantined"]
    warnings = sum(finding.severity == "warning" for finding in record.findings)
    parts += [pluralize(warnings, "warning")] if warnings else []
    return ", ".join(parts)


def _split(record: records.SplitRecord) -> str:
    from pipeline.manifest import SPLITS  # takes pyarrow, which a run with nothing to do has no use for

    sizes = [f"{sum(record.counts[split].values()):,} {split}" for split in SPLITS]
    left_out = sum(len(finding.items) for finding in record.left_out)
    return f"{', '.join(sizes)}; {record.new:,} in the latest addition, {left_out:,} left out"


def _backbone(record: records.BackboneRecord) -> str:
    return f"{record.name}, {_format_parameters(record.parameters)}, weights: {record.source}"


def _format_parameters(count: int) -> str:
    return f"{count / 1e6:.1f} million parameters" if count >= 1e6 else pluralize(count, "parameter")


def _finetune(record: records.FinetuneRecord) -> str:
    value = format_metric(record.primary, record.val[record.best][record.primary])
    return f"{record.best} with validation {record.primary} {value}{_format_rank(record)}"


def _format_rank(record: records.FinetuneRecord) -> str:
    count = len(record.candidates)
    return f", the best of {pluralize(count, 'candidate')}" if count > 1 else ""


def _evaluate(record: records.EvaluateRecord) -> str:
    estimate = format_estimate(record.primary, record.metrics[record.primary])
    return f"{record.candidate} with test {record.primary} {estimate} on {pluralize(record.examples, 'example')}"


def _register(record: records.RegisterRecord) -> str:
    aliases = f", {' and '.join(record.aliases)}" if record.aliases else ""
    return f"{record.model} v{record.version}{aliases}"


SUMMARIES: dict[type[records.Record], Callable[[Any], str]] = {
    records.ValidateRecord: _validate,
    records.SplitRecord: _split,
    records.BackboneRecord: _backbone,
    records.FinetuneRecord: _finetune,
    records.EvaluateRecord: _evaluate,
    records.RegisterRecord: _register,
}
