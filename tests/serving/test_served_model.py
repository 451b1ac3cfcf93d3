"""The registered model answers as it was judged, without Thaw, and refuses what it
cannot use by row.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlflow_server import mlflow_serving, post
from pipeline.models.providers.torchvision import blocks
from pipeline.records import ImageInputSpec
from pipeline.steps.register import package_candidate
from pipeline.tracking import packaging
from registry_helpers import (
    LABELS,
    Finished,
    build,
    lay_finished,
    pictures,
    probabilities,
)


def saved(done: Finished, folder: Path) -> Path:
    package_candidate(folder, done.config, done.candidate, done.finetuned.members, {})
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("served")
    return saved(lay_finished(base / "insects", tmp_path_factory), base / "model")


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    return packaging.load(model_folder)


def refusal(model: Any, *images: Any) -> str:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as fault:
        packaging.ask(model, {"image": images})
    assert fault.value.get_http_status_code() == 400
    return str(fault.value)


CASES = [
    ("squeezenet1_1", ImageInputSpec(size=64, resize=72)),
    (
        "squeezenet1_1",
        ImageInputSpec(size=64, resize=64, fit="pad", background=(0, 90, 200)),
    ),
    (
        "squeezenet1_1",
        ImageInputSpec(
            size=65,
            resize=65,
            fit="squash",
            interpolation="bicubic",
            mean=(0.5, 0.4, 0.3),
        ),
    ),
    ("mnasnet0_5", ImageInputSpec(size=64, resize=73)),
    pytest.param(
        "inception_v3", ImageInputSpec(size=299, resize=342), marks=pytest.mark.full
    ),
    pytest.param(
        "googlenet", ImageInputSpec(size=96, resize=96), marks=pytest.mark.full
    ),
    pytest.param(
        "vit_b_16", ImageInputSpec(size=224, resize=256), marks=pytest.mark.full
    ),
]


@pytest.mark.parametrize(("architecture", "spec"), CASES)
def test_it_answers_as_evaluation_does(
    architecture: str, spec: ImageInputSpec, tmp_path: Path
) -> None:
    done = build(tmp_path / "insects", architecture, spec)
    served = packaging.load(saved(done, tmp_path / "model"))
    answers = packaging.ask(
        served, {"image": [file.read_bytes() for file in done.files]}
    )["probabilities"]
    network = blocks.load_finetuned(
        architecture, len(LABELS), done.candidate.model, size=spec.size
    )
    expected = probabilities(network, done.files, spec)
    assert len({round(row[0], 4) for row in expected}) > 4, (
        "the pictures are all alike: this test tests nothing"
    )
    np.testing.assert_allclose(
        [[one[label] for label in LABELS] for one in answers], expected, atol=1e-4
    )


@pytest.mark.real
def test_it_answers_as_evaluation_does_on_photos(
    model: Any, model_folder: Path, real: Path
) -> None:
    files = sorted((real / "data" / "hymenoptera").rglob("*.jpg"))[::25]
    spec = ImageInputSpec(
        **json.loads((model_folder / "artifacts" / "model" / "model.json").read_text())[
            "input"
        ]
    )
    weights = model_folder / "artifacts" / "model" / "weights.safetensors"
    expected = probabilities(
        blocks.load_finetuned("squeezenet1_1", len(LABELS), weights), files, spec
    )
    answers = packaging.ask(model, {"image": [file.read_bytes() for file in files]})[
        "probabilities"
    ]
    np.testing.assert_allclose(
        [[one[label] for label in LABELS] for one in answers], expected, atol=1e-4
    )


@pytest.mark.slow
def test_many_images_are_answered_in_order_and_none_gives_none(
    model: Any, tmp_path: Path
) -> None:
    images = [file.read_bytes() for file in pictures(tmp_path)]
    many = packaging.ask(model, {"image": images * 6})  # more than one batch
    few = packaging.ask(model, {"image": images})
    assert list(many["label"]) == list(few["label"]) * 6
    np.testing.assert_allclose(many["score"], list(few["score"]) * 6, atol=1e-5)
    assert all(abs(sum(row.values()) - 1) < 1e-6 for row in many["probabilities"])
    assert len(packaging.ask(model, {"image": []})) == 0


def test_what_is_no_image_is_refused_by_row(model: Any, tmp_path: Path) -> None:
    good = pictures(tmp_path)[0].read_bytes()
    assert "row 1: not an image" in refusal(model, good, b"hello")
    assert "row 2" in refusal(model, good, good, good[: len(good) // 2])
    assert "row 0: not an image" in refusal(model, b"")
    assert "row 0: not an image" in refusal(
        model, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    )
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    animated = io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    assert "row 0: several frames" in refusal(model, animated.getvalue())


def test_neither_paths_nor_addresses_are_followed(model: Any, tmp_path: Path) -> None:
    path = str(pictures(tmp_path)[0])
    assert "row 0: not an image" in refusal(model, path.encode())
    assert "row 0: not an image" in refusal(model, b"http://127.0.0.1:9/a.png")


def test_a_bomb_is_refused_on_its_header_in_little_memory(model: Any) -> None:
    """60,000 × 60,000 pixels in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    side = (60_000).to_bytes(4, "big")
    header = chunk(b"IHDR", side + side + bytes((8, 0, 0, 0, 0)))
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(bytes(60_001)))
        + chunk(b"IEND", b"")
    )
    assert "row 0" in refusal(model, bomb)
    half = bomb.replace(
        header, chunk(b"IHDR", (9000).to_bytes(4, "big") * 2 + bytes((8, 0, 0, 0, 0)))
    )
    assert "9000 × 9000 pixels; at most 50000000" in refusal(model, half)


def test_a_file_that_is_too_large_is_refused(model: Any) -> None:
    assert "at most 50000000 are accepted" in refusal(model, bytes(50_000_001))


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pipeline", "flows"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
for name in ("pipeline", "flows"):
    try:
        __import__(name)
    except ImportError as fault:
        assert "blocked" in str(fault)
    else:
        raise SystemExit("the block does not work")
import warnings
warnings.simplefilter("ignore")
import mlflow.pyfunc, pandas, pathlib
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict(pandas.DataFrame({"image": [pathlib.Path(sys.argv[2]).read_bytes()]}))
assert not [name for name in sys.modules if name.partition(".")[0] in ("pipeline", "flows")]
print(answer.to_json(orient="records"))
"""


@pytest.mark.slow
def test_it_answers_where_thaw_is_not_installed(
    model: Any, model_folder: Path, tmp_path: Path
) -> None:
    file = pictures(tmp_path / "pictures")[0]
    done = subprocess.run(
        [sys.executable, "-P", "-c", BLOCKED, str(model_folder), str(file)],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout.strip().splitlines()[-1])
    expected = packaging.ask(model, {"image": [file.read_bytes()]}).iloc[0]
    assert answer["label"] == expected["label"]
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-6)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`mlflow models serve` of a registered champion in a process of its own."""
    base = tmp_path_factory.mktemp("endpoint")
    done = lay_finished(base / "insects", tmp_path_factory)
    done.with_thresholds(accuracy=0.5)
    uri = done.register().tracking_uri
    assert done.promote().champion == "1"
    environment = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri}
    with mlflow_serving("models:/insects@champion", base, environment) as url:
        yield url


@pytest.mark.slow
def test_mlflow_serves_it_over_http(endpoint: str, model: Any, tmp_path: Path) -> None:
    images = [file.read_bytes() for file in pictures(tmp_path)[:3]]
    status, text = post(
        endpoint,
        {
            "dataframe_records": [
                {"image": base64.b64encode(i).decode()} for i in images
            ]
        },
    )
    assert status == 200, text
    expected = packaging.ask(model, {"image": images})
    rows = json.loads(text)["predictions"]
    assert [row["label"] for row in rows] == list(expected["label"])
    assert [row["score"] for row in rows] == pytest.approx(
        list(expected["score"]), abs=1e-5
    )
    assert set(rows[0]["probabilities"]) == set(LABELS)

    text_as_image = {
        "dataframe_records": [{"image": base64.b64encode(b"no image").decode()}]
    }
    for body, words in (
        (text_as_image, "row 0: not an image"),
        ({"dataframe_records": [{"image": "!!not base64!!"}]}, ""),
        ({"dataframe_records": [{"picture": "aGVsbG8="}]}, "image"),
        ({"dataframe_records": [{"image": None}]}, ""),
        ({}, ""),
        (b"{", ""),
    ):
        status, text = post(endpoint, body)
        assert 400 <= status < 500, (body, status, text)
        assert words in text
