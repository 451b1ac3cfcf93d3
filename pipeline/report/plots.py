"""The page's charts as pictures of their own, for whoever looks at the run in the
tracking store.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.records import EvaluateRecord, FinetuneRecord
from pipeline.report import charts, formatting
from pipeline.report.result_sections import calibration_section, confusion_section
from pipeline.report.run_sections import curve_figures

STYLE = Path(__file__).parent / "templates" / "style.css"


def write_plots(
    finetuned: FinetuneRecord, evaluated: EvaluateRecord, folder: Path
) -> list[Path]:
    """Writes curves, calibration and, for few classes, the confusion matrix as SVG
    files into `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    svgs = {}
    for number, figure in enumerate(curve_figures(finetuned), 1):
        svgs[f"curve-{number}"] = str(figure.chart)
    # Older evaluations may lack a table; a model is registered without its picture all
    # the same.
    has_classes = evaluated.targets == "classes"
    if has_classes and (evaluated.folder / "reliability.csv").is_file():
        svgs["calibration"] = str(calibration_section(evaluated).chart)
    if has_classes and (evaluated.folder / "confusion.csv").is_file():
        matrix = _draw_confusion(evaluated)
        if matrix is not None:
            svgs["confusion"] = matrix
    written = []
    for name, svg in svgs.items():
        path = folder / f"{name}.svg"
        path.write_text(make_standalone(svg), encoding="utf-8")
        written.append(path)
    return written


def _draw_confusion(evaluated: EvaluateRecord) -> str | None:
    matrix = confusion_section(evaluated).matrix
    if not matrix:
        return None
    labels = [row.label for row in matrix]
    counts = []
    for row in matrix:
        counts.append([cell.examples for cell in row.cells])
    examples = formatting.pluralize(evaluated.examples, "test example")
    return str(charts.draw_matrix(f"Confusion on {examples}", labels, counts))


def make_standalone(svg: str) -> str:
    """A chart with the styles that the page would give it."""
    rules = STYLE.read_text(encoding="utf-8")
    root = re.search(r":root \{.*?\n\}", rules, re.S)
    assert root is not None
    chart_rules = [
        line for line in rules.splitlines() if re.match(r"\.chart [^{]", line)
    ]
    background = "svg { background: var(--paper); font: 11px var(--sans); }"
    style = "\n".join([root[0], background, *chart_rules])
    # The page is HTML, a file is XML: it names its namespace.
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="680">\n<style>{style}</style>{rest}\n'
