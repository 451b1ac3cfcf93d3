"""The registered text classifier answers as it was judged, without Thaw, and refuses
what it cannot use by row.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.config import Config
from pipeline.context import Context
from pipeline.evaluation.predict import LoadedCandidate
from pipeline.modalities.text.content import Texts, to_content
from pipeline.modalities.text.settings import TextIntakeConfig
from pipeline.records import CandidateRecord, TextInputSpec
from pipeline.steps.register import package_candidate
from pipeline.tasks.text_classification import TASK
from pipeline.tasks.text_classification.settings import TextClassificationConfig
from pipeline.tracking import packaging
from text_candidates import LABELS, make_backbone, make_candidate, texts

pytestmark = pytest.mark.slow

CUT = 48  # tokens; some of the texts are longer


class Served:
    """A candidate, and the model that is served of it."""

    def __init__(
        self, folder: Path, family: str = "bert", *, pair: bool = False
    ) -> None:
        columns = ("text", "pair") if pair else ("text",)
        spec = TextInputSpec(max_tokens=CUT, pooling="mean", columns=columns)
        self.task = TextClassificationConfig(
            intake=TextIntakeConfig(pair=pair, max_characters=2000)
        )
        self.candidate: CandidateRecord = make_candidate(
            make_backbone(folder / "backbone", family), folder / "candidate", spec
        )
        members = folder / "members.parquet"
        members.write_bytes(b"")
        self.folder = folder / "model"
        package_candidate(
            self.folder, Config(task=self.task), self.candidate, members, {}
        )
        self.model: Any = packaging.load(self.folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("served"))


def judged(served: Served, contents: list[str], scratch: Path) -> Any:
    """What evaluation says of these texts."""
    table = pa.table(
        {"id": [str(number) for number in range(len(contents))], "content": contents}
    )
    context = Context(
        root=scratch, data=scratch, scratch=scratch / ".thaw", run_dir=scratch
    )
    return LoadedCandidate(
        TASK, served.task, served.candidate, table, context
    ).answers()


@pytest.mark.parametrize(
    ("family", "pair"),
    [
        ("bert", False),
        ("bert", True),
        ("roberta", False),
        ("gpt2", False),
        ("t5", False),
    ],
)
def test_it_answers_as_evaluation_does(family: str, pair: bool, tmp_path: Path) -> None:
    served = Served(tmp_path / "served", family, pair=pair)
    given = [
        Texts(text, text[::2].strip() or "x" if pair else None) for text in texts(70)
    ]
    rows = [{"content": to_content(one)} for one in given]
    answers = packaging.answers(served.folder, TASK.serving().requests(rows, tmp_path))
    expected = judged(served, [row["content"] for row in rows], tmp_path)
    assert len({round(row[0], 3) for row in expected}) > 20, (
        "the texts are all alike: this test tests nothing"
    )
    found = [[answer["probabilities"][label] for label in LABELS] for answer in answers]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_answer_depends_on_its_own_text_alone(served: Served) -> None:
    given = texts(50)
    together = served.model.predict(pd.DataFrame({"text": given}))
    alone = [
        served.model.predict(pd.DataFrame({"text": [text]}))["score"][0]
        for text in given[:10]
    ]
    np.testing.assert_allclose(together["score"][:10], alone, atol=1e-6)
    assert (
        len(served.model.predict(pd.DataFrame({"text": pd.Series([], dtype=str)}))) == 0
    )


def test_an_answer_says_how_many_tokens_were_cut_off(served: Served) -> None:
    word = "so"
    whole, cut = word, " ".join([word] * (CUT + 10))
    table = served.model.predict(pd.DataFrame({"text": [whole, cut]}))
    tokens = served.model.unwrap_python_model().tokenizer
    excess = len(tokens.encode(cut).ids) - CUT
    assert excess > 0
    assert table["truncated_tokens"].tolist() == [0, excess]
    assert "truncated_tokens" in packaging.output_names(served.model)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("  \n", "row 1: text is empty"),
        ("a\0b", "row 1: text holds the control character U\\+0000"),
        ("a" * 2001, "row 1: text has 2001 characters; at most 2000"),
        ("\ud800", "row 1"),
    ],
)
def test_what_cannot_be_used_is_refused_by_row(
    served: Served, text: str, said: str
) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=said) as fault:
        served.model.predict(
            pd.DataFrame({"text": pd.Series(["fine", text], dtype=object)})
        )
    assert fault.value.get_http_status_code() == 400


def test_a_pair_is_neither_ignored_nor_made_up(served: Served, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    table = pd.DataFrame({"text": ["so"], "pair": ["it goes"]})
    with pytest.raises(MlflowException, match="a table with text; found"):
        served.model.predict(table)
    pairs = Served(tmp_path / "pairs", pair=True)
    assert len(pairs.model.predict(table)) == 1
    with pytest.raises(MlflowException, match=r"missing inputs .*pair"):
        pairs.model.predict(table[["text"]])


@pytest.mark.slow
def test_it_answers_where_thaw_is_not_installed(served: Served, tmp_path: Path) -> None:
    expected = served.model.predict(pd.DataFrame({"text": ["so it goes"]}))["score"][0]
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('pipeline', 'flows'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import mlflow.pyfunc, pandas\n"
        f"model = mlflow.pyfunc.load_model({str(served.folder)!r})\n"
        "print(float(model.predict(pandas.DataFrame({'text': ['so it goes']}))['score'][0]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, abs=1e-6)
