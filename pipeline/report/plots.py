"""The page's charts as pictures of their own, for whoever looks at the run in the tracking store."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.records import EvaluateRecord, FinetuneRecord
from pipeline.report import charts, formatting, sections

STYLE = Path(__file__).parent / "templates" / "style.css"


def write(finetuned: FinetuneRecord, evaluated: EvaluateRecord, folder: Path) -> list[Path]:
    """Writes curves, calibration and, for few classes, the confusion matrix as SVG files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {f"curve-{number}": figure["chart"] for number, figure in enumerate(sections.curves(finetuned), 1)}
    # Older evaluations may lack a table; a model is registered without its picture all the same.
    if (evaluated.folder / "reliability.csv").is_file():
        figures["calibration"] = sections.calibration(evaluated)["chart"]
    tabled = (evaluated.folder / "confusion.csv").is_file()
    matrix = sections.confusion(evaluated)["matrix"] if tabled else []
    if matrix:
        counts = [[cell["examples"] for cell in row["cells"]] for row in matrix]
        title = f"Confusion on {formatting.many(evaluated.examples, 'test example')}"
        figures["confusion"] = charts.matrix(title, [row["label"] for row in matrix], counts)
    written = []
    for name, chart in figures.items():
        if chart:
            written.append(folder / f"{name}.svg")
            written[-1].write_text(standalone(str(chart)), encoding="utf-8")
    return written


def standalone(svg: str) -> str:
    """A chart with the styles that the page would give it."""
    rules = STYLE.read_text(encoding="utf-8")
    own = re.search(r":root \{.*?\n\}", rules, re.S)
    assert own is not None
    chart = "\n".join(line for line in rules.splitlines() if re.match(r"\.chart [^{]", line))
    style = f"{own[0]}\nsvg {{ background: var(--paper); font: 11px var(--sans); }}\n{chart}"
    # The page is HTML, a file is XML: it names its namespace.
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="680">\n<style>{style}</style>{rest}\n'
