"""The model card of a registered version (Mitchell et al. 2019, "Model Cards for Model
Reporting", section 4): written from records and the registry alone, the same text for
the same ones.

The sections are theirs, in their order. What only people know, what the model is meant
for and where it should not be used, comes from `register.intended_use` and
`register.limits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline import metric_registry
from pipeline.config import Config
from pipeline.promotion_journal import Entry
from pipeline.records import (
    CandidateRecord,
    Comparison,
    EvaluateRecord,
    Finding,
    Latency,
    MetricEstimate,
    PromoteRecord,
    RunRecords,
    StageResult,
)
from pipeline.redaction import redact
from pipeline.report import (
    card_decisions,
    files,
    formatting,
    result_sections,
    run_sections,
)
from pipeline.report.markdown import code, escape, join, name, prose, table

LISTED_CLASSES = 10  # the weakest
LISTED_SLICES = 5
LISTED_NAMES = 3  # of files, beside a count
LISTED_LABELS = 20
HEX_DIGITS = 12  # of a digest
# In timing.json, of a stage: one after the other.
STAGE_PARTS = ("prove", "prepare", "solve", "train", "validate")

# By kind of targets: of per_class.csv the column that counts, and the one of the score
# with its title.
CLASS_COLUMNS = {
    "classes": ("examples", "recall", "Recall"),
    "boxes": ("objects", "ap", "AP"),
    "pixels": ("pictures", "iou", "IoU"),
}
# By a served limit: what is refused. A limit that is not here is told by its name.
REFUSALS = {
    "max_bytes": "a file of more than {:,} bytes",
    "max_pixels": "a picture of more than {:,} pixels",
    "min_characters": "a text of fewer than {:,} characters",
    "max_characters": "a text of more than {:,} characters",
}
SWITCHES = {
    ("single_frame", True): "a file of several frames or pages",
    ("control_characters", False): "a text with control characters",
}


@dataclass(frozen=True)
class CardFacts:
    """What the card says besides records.

    Args:
        model: the registered name.
        version: its number.
        created: when it was registered, in milliseconds since 1970; 0 where that is not
            known.
        tags: of the version: data and Git revision among them.
        served: how it presents inputs and what it refuses, as
            `pipeline.served.settings` gives it.
        entries: the journal of the model, in order.
        timing: of its training, as timing.json holds it; None where it is not known.
        latency: of its network; None where it is not known.
    """

    model: str
    version: str
    created: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    served: Mapping[str, Any] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    timing: Mapping[str, Any] | None = None
    latency: Latency | None = None


def write_card(run: RunRecords, config: Config, facts: CardFacts) -> str:
    """The card as Markdown, without secrets."""
    sections = [
        f"# {name(facts.model)}, version {facts.version}",
        card_decisions.state(facts.entries, facts.version),
        summarize(run, config),
        _model_details(run, config, facts),
        _intended_use(config),
        _factors(run.evaluate),
        _metrics(run.evaluate, config),
        _evaluation_data(run),
        _training_data(run),
        _analyses(run.evaluate, config),
        _caveats(run, config, facts),
        _decisions(run.promote, facts),
    ]
    return redact(join(sections) + "\n")


def describe_version(run: RunRecords, config: Config, facts: CardFacts) -> str:
    """The card in short, as the registry shows it beside a version: what was decided
    first.
    """
    worst = [f"Weakest: {worst}." for worst in _name_weakest(run.evaluate)]
    blocks = [
        card_decisions.state(facts.entries, facts.version),
        summarize(run, config),
        "\n".join(
            f"- {line}" for line in (*_list_comparisons(run.evaluate, config), *worst)
        ),
        prose(config.register_.intended_use),
        "The whole card is `model_card.md`, among the files of this version and the artifacts of its run.",
    ]
    return card_decisions.fit([redact(block) for block in blocks if block])


def summarize(run: RunRecords, config: Config) -> str:
    """What it is and how good, in a sentence."""
    evaluated = run.evaluate
    primary = evaluated.primary
    score = evaluated.metrics[primary]
    task = config.task.name.replace("-", " ")
    value = formatting.format_metric(primary, score.value)
    interval = formatting.format_interval(primary, score)
    title = formatting.metric_title(primary)
    examples = formatting.pluralize(evaluated.examples, "test example")
    architecture = name(run.candidate.architecture)
    trained = f"{architecture} by the recipe {name(evaluated.candidate)}"
    return f"{task.capitalize()} with {trained}: {title} {value} ({interval}) on {examples}."


# --- model details --------------------------------------------------------------------


def _model_details(run: RunRecords, config: Config, facts: CardFacts) -> str:
    details = []
    for title, text in _list_details(run, config, facts):
        if text:
            details.append(f"- **{title}**: {text}")
    return join(
        [
            "## Model details",
            "\n".join(details),
            "All settings, sources and libraries with their versions lie beside this card, in `provenance/`.",
            "### Training schedule",
            _schedule(run.candidate, facts.timing),
        ]
    )


def _list_details(
    run: RunRecords, config: Config, facts: CardFacts
) -> Iterator[tuple[str, str]]:
    candidate = run.candidate
    backbone = run.backbone
    yield "Task", f"{config.task.name}: {_list_labels(candidate.labels)}"
    yield "Version", _describe_version(facts)
    parameters = f"{backbone.parameters / 1e6:.1f} million parameters"
    yield "Backbone", f"{name(backbone.name)}, {parameters}, {_describe_weights(run)}"
    yield "Licence of the backbone", _describe_licence(backbone.source)
    steps = ""
    if candidate.steps:
        steps = f", {formatting.pluralize(candidate.steps, 'optimiser step')}"
    yield "Recipe", f"{name(candidate.name)}{steps}"
    yield (
        "Input",
        escape(
            run_sections.describe_input(candidate.input, run.finetune.truncated_texts)
        ),
    )
    yield "Weights", f"sha256 {code(candidate.model_sha256[:HEX_DIGITS])}"
    yield "Data", _describe_data(facts.tags)
    yield "Git revision", _describe_revision(facts.tags)
    if facts.latency is not None:
        yield "Time for an example", _describe_latency(facts.latency)


def _describe_version(facts: CardFacts) -> str:
    if not facts.created:
        return facts.version
    day = datetime.fromtimestamp(facts.created / 1000, UTC).strftime("%Y-%m-%d")
    return f"{facts.version}, registered on {day}"


def _describe_weights(run: RunRecords) -> str:
    if run.candidate.baseline:
        return "its weights unused: trained from scratch"
    source = run.backbone.source
    origin = {
        "shipped": "weights that come with Thaw",
        "file": "weights from a file",
    }.get(source)
    return f"{origin or f'weights from {name(source)}'}, sha256 {code(run.backbone.sha256[:HEX_DIGITS])}"


def _describe_licence(source: str) -> str:
    if source == "shipped":
        return "Thaw's own, Apache-2.0"
    return "not recorded; whoever gives the weights out says it"


def _describe_data(tags: Mapping[str, str]) -> str:
    md5 = tags.get("data.md5")
    if not md5:
        return ""
    count = tags.get("data.files", "")
    number = ""
    if count.isdigit():
        number = f", {formatting.pluralize(int(count), 'file')}"
    reason = tags.get("data.dirty_reason")
    unsure = (
        f"; this does not lead back to the data: {escape(reason)}" if reason else ""
    )
    return f"{code(md5)}{number}{unsure}"


def _describe_revision(tags: Mapping[str, str]) -> str:
    revision = tags.get("git.revision")
    return code(revision) if revision else "none: the workspace is in no Git repository"


def _describe_latency(latency: Latency) -> str:
    single = min(latency.batches, key=lambda timed: timed.batch)
    time = formatting.format_milliseconds(single.median_ms)
    threads = formatting.pluralize(latency.threads, "thread")
    where = f"{name(latency.device)}, {threads}, {name(latency.precision)}"
    weights = f"{latency.megabytes:.1f} MB of weights"
    return f"{time} in the network alone ({where}); {weights}"


def _list_labels(labels: Sequence[str]) -> str:
    shown = ", ".join(name(label) for label in labels[:LISTED_LABELS])
    classes = formatting.pluralize(len(labels), "class", "classes")
    more = len(labels) - LISTED_LABELS
    if more > 0:
        shown = f"{shown} and {more:,} more"
    return f"{classes}, {shown}"


def _schedule(candidate: CandidateRecord, timing: Mapping[str, Any] | None) -> str:
    stages = {} if timing is None else timing["stages"]
    rows = []
    for stage in candidate.stages:
        rows.append(_stage_row(stage, stages.get(stage.name)))
    header = ("Stage", "Trains", "Frozen", "Epochs", "Best", "Rate", "Time")
    shown = table(header, rows, right=(3, 4))
    note = "Best is the epoch whose weights were kept, counted over all stages; the rate is the highest of the stage."
    if timing is not None:
        seconds = formatting.format_seconds(timing["seconds"])
        note += f" In all it took {seconds}."
    return join([shown, note])


def _stage_row(
    stage: StageResult, spent: Mapping[str, float] | None
) -> tuple[str, ...]:
    """What a stage trained, with which rates, and how long it took."""
    rates = sorted(set(stage.lr.values()))
    rate = "–"
    if stage.solved is not None:
        rate = "solved by L-BFGS"
    elif rates:
        low = formatting.format_rate(rates[0])
        high = formatting.format_rate(rates[-1])
        rate = high if low == high else f"{low} to {high}"
    seconds = "–"
    if spent is not None:
        total = sum(spent.get(part, 0.0) for part in STAGE_PARTS)
        seconds = formatting.format_seconds(total)
    blocks = formatting.pluralize(len(stage.trained), "block")
    if len(stage.trained) == 1:
        trained = name(stage.trained[0])
    else:
        trained = blocks
    frozen = formatting.pluralize(len(stage.frozen), "block")
    return (
        name(stage.name),
        trained,
        frozen,
        str(stage.epochs),
        str(stage.best_epoch),
        rate,
        seconds,
    )


# --- intended use, factors, metrics ---------------------------------------------------


def _intended_use(config: Config) -> str:
    stated = prose(config.register_.intended_use)
    return join(
        [
            "## Intended use",
            stated
            or "Nobody has stated it: `register.intended_use` in `params.yaml` says it.",
        ]
    )


def _factors(evaluated: EvaluateRecord) -> str:
    """By what answers were told apart."""
    slices = result_sections.slices_section(evaluated)
    columns = [name(column) for column in slices.columns]
    told = (
        f"Answers were judged by class and by {formatting.join_names(columns)}."
        if columns
        else ""
    )
    small = ""
    if slices.small:
        small = f"{formatting.pluralize(len(slices.small), 'slice')} had too few examples to be judged."
    nothing = (
        "Answers were judged by class alone: the data have no columns to judge them by."
    )
    return join(
        ["## Factors", " ".join(part for part in (told or nothing, small) if part)]
    )


def _metrics(evaluated: EvaluateRecord, config: Config) -> str:
    primary = metric_registry.find(evaluated.primary)
    units = evaluated.units or evaluated.examples
    grouped = units < evaluated.examples
    resampled = (
        f"{units:,} groups of examples that belong together"
        if grouped
        else "the examples"
    )
    floors = []
    for metric, value in sorted(config.register_.thresholds.items()):
        floors.append(_describe_floor(metric, value))
    demand = (
        f"To become champion a version must reach {formatting.join_names(floors)}."
        if floors
        else ""
    )
    return join(
        [
            "## Metrics",
            f"{primary.title} ({escape(primary.note)}) chose the best epoch and the best recipe, on validation. "
            f"Intervals are {evaluated.confidence:.0%} bootstrap intervals that resample {resampled}. {demand}".strip(),
        ]
    )


def _describe_floor(metric: str, value: float) -> str:
    higher_is_better = metric_registry.find(metric).higher_is_better
    side = "at least" if higher_is_better else "at most"
    title = formatting.metric_title(metric)
    limit = formatting.format_metric(metric, value)
    return f"{title} of {side} {limit}"


# --- data -----------------------------------------------------------------------------


def _evaluation_data(run: RunRecords) -> str:
    evaluated = run.evaluate
    examples = formatting.pluralize(evaluated.examples, "example")
    text = f"{examples} that no candidate was trained or validated on. Splits are permanent: an example never changes its own."
    return join(["## Evaluation data", text, _list_findings(evaluated.warnings)])


def _training_data(run: RunRecords) -> str:
    findings = (*run.validate.findings, *run.split.warnings, *run.split.left_out)
    return join(
        [
            "## Training data",
            _counts_table(run),
            "### Problems of the data",
            " ".join(_describe_problems(run)),
            _quarantine(run),
            _list_findings(findings),
        ]
    )


def _counts_table(run: RunRecords) -> str:
    """The classes with their examples by split."""
    counts = run_sections.split_section(run.split)
    rows = []
    for row in counts.rows:
        cells = [f"{row.counts[split]:,}" for split in run_sections.SPLITS]
        rows.append((name(row.label), *cells, f"{row.total:,}"))
    totals = [counts.totals[split] for split in run_sections.SPLITS]
    cells = [f"{total:,}" for total in totals]
    rows.append(("all examples", *cells, f"{sum(totals):,}"))
    notes = []
    if counts.more:
        notes.append(
            f"The largest and the smallest classes; {counts.more:,} lie between them."
        )
    if run.split.examples:
        notes.append("An example counts in every class that it has.")
    header = ("Class", "Train", "Validation", "Test", "All")
    return join([table(header, rows, right=(1, 2, 3, 4)), " ".join(notes)])


def _describe_problems(run: RunRecords) -> Iterator[str]:
    validated = run.validate
    split = run.split
    yield f"{formatting.pluralize(validated.files, 'input')} were found, {validated.checks:,} expectations checked."
    if validated.aliases:
        yield f"{formatting.pluralize(validated.aliases, 'copy', 'copies')} of another example count once."
    if validated.quarantined:
        yield f"{formatting.pluralize(validated.quarantined, 'example')} could not be used."
    else:
        yield "Every example could be used."
    groups = split.near_duplicate_groups
    if groups:
        kept = "was kept in one split" if groups == 1 else "were kept in one split each"
        yield f"{formatting.pluralize(groups, 'set')} of near-duplicates {kept}."
    else:
        yield "No near-duplicates were found."


def _quarantine(run: RunRecords) -> str:
    groups = run_sections.quarantine_section(
        files.read_quarantine(run.validate.quarantine)
    )
    rows = []
    for group in groups:
        rows.append(
            (
                name(group.code.replace("-", " ")),
                f"{group.examples:,}",
                _list_names([row["path"] for row in group.rows], group.examples),
            )
        )
    return table(("Left out, since", "Count", "Such as"), rows, right=(1,))


def _list_findings(findings: Sequence[Finding]) -> str:
    lines = []
    for finding in findings:
        lines.append(f"- {_describe_finding(finding)}")
    return "\n".join(lines)


def _describe_finding(finding: Finding) -> str:
    what = finding.found
    if finding.expected:
        what += f"; expected {finding.expected}"
    items = ""
    if finding.items:
        items = f" ({_list_names(finding.items)})"
    return f"{name(finding.subject)}: {escape(what)}{items}."


def _list_names(names: Sequence[str], count: int | None = None) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(name(each) for each in names[:LISTED_NAMES])
    total = len(names) if count is None else count
    more = total - LISTED_NAMES
    if more > 0:
        return f"{shown} and {more:,} more"
    return shown


# --- quantitative analyses ------------------------------------------------------------


def _analyses(evaluated: EvaluateRecord, config: Config) -> str:
    comparisons = "\n".join(
        f"- {line}" for line in _list_comparisons(evaluated, config)
    )
    slices = _slices(evaluated)
    return join(
        [
            "## Quantitative analyses",
            _metric_table(evaluated),
            "### Against the other candidates",
            comparisons or "Nothing was trained to compare it with.",
            "### The weakest classes" if _class_rows(evaluated) else "",
            _classes(evaluated),
            "### The weakest slices" if slices else "",
            slices,
        ]
    )


def _metric_table(evaluated: EvaluateRecord) -> str:
    rows = []
    for row in result_sections.metrics_section(evaluated).rows:
        metric = row.metric.name
        value = formatting.format_metric(metric, row.estimate.value)
        direction = "" if row.metric.higher_is_better else "; lower is better"
        note = escape(f"{row.metric.note}{direction}")
        rows.append(
            (
                row.metric.title,
                value,
                formatting.format_interval(metric, row.estimate),
                note,
            )
        )
    return table(
        ("On the test split", "Value", "Interval", "What it is"), rows, right=(1, 2)
    )


def _list_comparisons(evaluated: EvaluateRecord, config: Config) -> Iterator[str]:
    for comparison in evaluated.comparisons:
        yield _describe_comparison(comparison, evaluated)


def _describe_comparison(comparison: Comparison, evaluated: EvaluateRecord) -> str:
    if comparison.other == "scratch":
        other = "training from scratch"
    else:
        other = f"the recipe {name(comparison.other)}"
    difference = comparison.difference
    points = f"{formatting.format_points(difference.value)} of {formatting.metric_title(comparison.metric)}"
    interval = f"({formatting.format_difference(difference)}; {formatting.format_p_value(comparison.p_value)})"
    verdict = {
        "better": "better",
        "worse": "worse",
        "cannot-tell": "the two cannot be told apart",
    }[comparison.verdict]
    age = ""
    if comparison.other == "scratch" and evaluated.baseline is not None:
        age = f" That was {formatting.describe_baseline(evaluated)}."
    return f"Against {other}: {points} {interval}: {verdict}.{age}"


def _class_rows(evaluated: EvaluateRecord) -> list[tuple[str, int, MetricEstimate]]:
    """The classes that the test split has, the weakest first; none for a kind of
    targets without a table of them.
    """
    if evaluated.targets not in CLASS_COLUMNS:
        return []
    count, score, _ = CLASS_COLUMNS[evaluated.targets]
    rows = []
    for line in files.read_csv(evaluated.folder / "per_class.csv"):
        estimate = files.read_estimate(line, score)
        if estimate is not None:
            rows.append((line["label"], int(line[count]), estimate))
    return sorted(rows, key=lambda row: row[2].value)


def _classes(evaluated: EvaluateRecord) -> str:
    known = _class_rows(evaluated)
    if not known:
        return ""
    count, _, title = CLASS_COLUMNS[evaluated.targets]
    rows = []
    for label, examples, estimate in known[:LISTED_CLASSES]:
        rows.append(
            (
                name(label),
                f"{examples:,}",
                *_estimate_cells(evaluated.primary, estimate),
            )
        )
    more = len(known) - LISTED_CLASSES
    unlisted = (
        f"{more:,} more do better; all are in `test/per_class.csv` of the run."
        if more > 0
        else ""
    )
    return join(
        [
            table(
                ("Class", count.capitalize(), title, "Interval"), rows, right=(1, 2, 3)
            ),
            unlisted,
        ]
    )


def _slices(evaluated: EvaluateRecord) -> str:
    section = result_sections.slices_section(evaluated)
    judged = [row for rows in section.columns.values() for row in rows]
    weakest = sorted(judged, key=lambda row: row.score.value)[:LISTED_SLICES]
    rows = []
    for row in weakest:
        below = "yes" if row.is_below else "no"
        cells = _estimate_cells(section.metric.name, row.score)
        rows.append(
            (
                f"{name(row.column)} = {name(row.value)}",
                f"{row.examples:,}",
                *cells,
                below,
            )
        )
    header = (
        "Slice",
        "Examples",
        section.metric.title,
        "Interval",
        "Clearly below the whole",
    )
    chance = f"Of {formatting.pluralize(len(judged), 'slice')}, about {section.by_chance:.1f} would be clearly below by chance."
    if rows:
        return join([table(header, rows, right=(1, 2, 3)), chance])
    return ""


def _estimate_cells(metric: str, estimate: MetricEstimate) -> tuple[str, str]:
    return formatting.format_metric(metric, estimate.value), formatting.format_interval(
        metric, estimate
    )


def _name_weakest(evaluated: EvaluateRecord) -> Iterator[str]:
    """The weakest class and the slices that are clearly below the whole."""
    for label, examples, estimate in _class_rows(evaluated)[:1]:
        count, _, title = CLASS_COLUMNS[evaluated.targets]
        value, interval = _estimate_cells(evaluated.primary, estimate)
        if not title.isupper():
            title = title[0].lower() + title[1:]
        score = f"{title} {value} ({interval})"
        yield f"class {name(label)}, {score} on {examples:,} {count}"
    section = result_sections.slices_section(evaluated)
    for row in section.below[:LISTED_SLICES]:
        value, interval = _estimate_cells(section.metric.name, row.score)
        score = f"{section.metric.title.lower()} {value} ({interval})"
        yield f"{name(row.column)} = {name(row.value)}, {score}"


# --- caveats and decisions ------------------------------------------------------------


def _caveats(run: RunRecords, config: Config, facts: CardFacts) -> str:
    stated = prose(config.register_.limits)
    refused = list(list_refusals(facts.served.get("limits", {})))
    refusals = "\n".join(f"- {refusal}" for refusal in refused)
    return join(
        [
            "## Caveats and recommendations",
            stated
            or "Nobody has stated risks or limits of its use: `register.limits` in `params.yaml` says them.",
            "The served model refuses, with an error that names the row:"
            if refused
            else "",
            refusals,
            _describe_threshold(facts.served),
            _describe_calibration(run.evaluate),
        ]
    )


def list_refusals(limits: Mapping[str, Any]) -> Iterator[str]:
    """What a served model refuses, by its limits."""
    for limit, value in limits.items():
        if isinstance(value, bool):
            if (limit, value) in SWITCHES:
                yield SWITCHES[limit, value]
            elif (limit, not value) not in SWITCHES:
                yield f"{name(limit.replace('_', ' '))}: {'yes' if value else 'no'}"
        elif limit in REFUSALS:
            yield REFUSALS[limit].format(value)
        else:
            yield f"beyond {name(limit.replace('_', ' '))} {name(value)}"


def _describe_threshold(served: Mapping[str, Any]) -> str:
    least = served.get("least_score")
    if least is None:
        return ""
    return f"A box is answered from a score of {least:.3f} on, which was best on validation."


def _describe_calibration(evaluated: EvaluateRecord) -> str:
    """Whether its confidence may be read as a probability; only class answers have one."""
    if evaluated.targets != "classes" or "accuracy" not in evaluated.metrics:
        return ""
    section = result_sections.calibration_section(evaluated)
    accuracy = evaluated.metrics["accuracy"].value
    both = f"Mean confidence {formatting.format_percent(section.confidence)}, accuracy {formatting.format_percent(accuracy)}"
    meaning = {
        "over": "it is overconfident, and its confidence is no probability.",
        "under": "it is underconfident; the order of its confidences can be used.",
        "level": "on average they agree.",
    }[section.tendency]
    return f"{both}: {meaning}"


def _decisions(promoted: PromoteRecord | None, facts: CardFacts) -> str:
    """The last comparison with the champion in figures, and everything that was decided
    about the version.
    """
    parts = [card_decisions.CARD_HEADING]
    if promoted is not None and promoted.version == facts.version:
        parts += _last_comparison(promoted)
    parts.append(card_decisions.list_history(facts.entries, facts.version))
    parts.append(card_decisions.CARD_ENDING)
    return join(parts)


def _last_comparison(promoted: PromoteRecord) -> list[str]:
    if promoted.gain is None:
        return []
    section = run_sections.describe_verdict(promoted)
    title = "Against a constant answer"
    if promoted.compared_with:
        title = f"Against version {promoted.compared_with}"
    header = (title, f"bounds of {section.bounds} certainty each")
    parts = [table(header, list(section.facts), right=(1,))]
    for detail in promoted.details:
        sentence = f"{detail[:1].upper()}{detail[1:]}."
        parts.append(escape(sentence))
    return parts
