"""What a step came to, in a line drawn from its record."""

from __future__ import annotations

from collections.abc import Callable

from pipeline import metric_registry, records
from pipeline.records import Finding, MetricEstimate
from pipeline.step_table import STEPS
from pipeline.task_catalog import load_object
from pipeline.text import format_seconds, pluralize


def step_line(name: str, text: str) -> str:
    """A line about a step: its name in a column, then the text."""
    return f"{name:<9} {text}"


def running_line(name: str, reasons: tuple[str, ...]) -> str:
    """Said when a step starts, with why it has to run."""
    if not reasons:
        return step_line(name, "running")
    named = ["first run" if reason == "never run" else reason for reason in reasons]
    return step_line(name, f"running ({'; '.join(named)})")


def done_line(name: str, seconds: float, record: records.Record) -> str:
    """Said when a step is done."""
    duration = format_seconds(seconds)
    return step_line(name, f"done in {duration}: {summarize(record)}")


def summarize(record: records.Record) -> str:
    """What a record holds, in one line."""
    for entry in STEPS.values():
        if isinstance(record, entry.record):
            summarize_step: Callable[[records.Record], str] = load_object(entry.summary)
            return summarize_step(record)
    raise TypeError(f"no step returns a {type(record).__name__}")


def format_metric(metric: str, value: float) -> str:
    """A share in per cent, anything else with three digits."""
    if metric_registry.find(metric).is_share:
        return f"{value:.1%}"
    return f"{value:.3f}"


def format_estimate(metric: str, estimate: MetricEstimate) -> str:
    """A metric with its interval: 91.2% (85.1% to 95.3%)."""
    value = format_metric(metric, estimate.value)
    low = format_metric(metric, estimate.low)
    high = format_metric(metric, estimate.high)
    return f"{value} ({low} to {high})"


def format_finding(finding: Finding) -> str:
    """What was found of what, what was expected and what to do, on one line."""
    parts = [f"{finding.subject}: {finding.found}"]
    if finding.expected:
        parts.append(f"expected {finding.expected}")
    if finding.hint:
        parts.append(finding.hint)
    return "; ".join(parts)


def summarize_validate(record: records.ValidateRecord) -> str:
    """4,000 examples in 5 classes, 3 copies, 12 quarantined, 1 warning."""
    examples = pluralize(record.examples, "example")
    parts = [f"{examples} in {pluralize(len(record.labels), 'class', 'classes')}"]
    if record.aliases:
        parts.append(pluralize(record.aliases, "copy", "copies"))
    parts.append(f"{record.quarantined:,} quarantined")
    warnings = sum(finding.severity == "warning" for finding in record.findings)
    if warnings:
        parts.append(pluralize(warnings, "warning"))
    return ", ".join(parts)


def summarize_split(record: records.SplitRecord) -> str:
    """2,800 train, 600 val, 600 test; 4,000 in the latest addition, 0 left out."""
    # Takes pyarrow, which a run with nothing to do has no use for.
    from pipeline.manifest import SPLITS

    sizes = []
    for split in SPLITS:
        sizes.append(f"{record.size(split):,} {split}")
    left_out = sum(len(finding.items) for finding in record.left_out)
    return f"{', '.join(sizes)}; {record.new:,} in the latest addition, {left_out:,} left out"


def summarize_backbone(record: records.BackboneRecord) -> str:
    """torchvision/resnet50, 25.6 million parameters, weights: https://…"""
    parameters = _format_parameters(record.parameters)
    return f"{record.name}, {parameters}, weights: {record.source}"


def _format_parameters(count: int) -> str:
    if count >= 1e6:
        return f"{count / 1e6:.1f} million parameters"
    return pluralize(count, "parameter")


def summarize_finetune(record: records.FinetuneRecord) -> str:
    """gradual with validation accuracy 93.1%, the best of 3 candidates."""
    value = format_metric(record.primary, record.val[record.best][record.primary])
    line = f"{record.best} with validation {record.primary} {value}"
    count = len(record.candidates)
    if count > 1:
        line += f", the best of {pluralize(count, 'candidate')}"
    return line


def summarize_evaluate(record: records.EvaluateRecord) -> str:
    """gradual with test accuracy 91.2% (85.1% to 95.3%) on 600 examples."""
    metric = record.primary
    estimate = format_estimate(metric, record.metrics[metric])
    examples = pluralize(record.examples, "example")
    return f"{record.candidate} with test {metric} {estimate} on {examples}"


def summarize_register(record: records.RegisterRecord) -> str:
    """flowers v3."""
    if record.version:
        return f"{record.model} v{record.version}"
    return record.reason


DECISIONS = {
    "promote": "promoted",
    "reject": "rejected",
    "cannot-tell": "cannot tell",
    "nothing-to-decide": "nothing to decide",
    "none": "nothing to decide",
}


def summarize_promote(record: records.PromoteRecord) -> str:
    """v3 promoted: better than version 2, the champion: …"""
    if record.waits:
        decision = "waits for approval"
    else:
        decision = DECISIONS[record.decision]
    version = f"v{record.version} " if record.version else ""
    return f"{version}{decision}: {record.reason}"
