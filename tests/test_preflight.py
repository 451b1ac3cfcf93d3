"""What would stop a run later is found before any work is done, and only where it will
be needed.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from commands import Thaw, change
from flows.servers import free_port
from pipeline import preflight
from pipeline.config import Config, parse
from pipeline.errors import ConfigError, PreflightError
from pipeline.preflight import PreflightCheck
from pipeline.records import BackboneRecord, TextInputSpec
from pipeline.setup import init
from pipeline.tracking import registered
from pipeline.workspace import Workspace
from registry_helpers import lay_finished


def settings(**sections: Any) -> Config:
    return parse(sections, "test")


def quick(workspace: Path, config: Config, **options: Any) -> dict[str, PreflightCheck]:
    return {
        check.name: check
        for check in preflight.quick_checks(Workspace(workspace), config, **options)
    }


def thorough(
    workspace: Path, config: Config, **options: Any
) -> dict[str, PreflightCheck]:
    return {
        check.name: check
        for check in preflight.thorough_checks(Workspace(workspace), config, **options)
    }


def test_a_usable_workspace_passes_every_check(tmp_path: Path) -> None:
    config = settings(
        backbone={"weights": "shipped"}, register={"thresholds": {"accuracy": 0.9}}
    )
    found = quick(tmp_path, config) | thorough(tmp_path, config)
    assert {check.state for check in found.values()} == {"ok"}
    assert {
        "model name",
        "register.thresholds",
        "backbone weights",
        "tracking store",
        "disk room",
    } <= set(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "folder",
    [
        "flowers.v2",
        "my flowers",
        "flowers #2",
        "50% flowers",
        "blümchen",
        "it's",
        '3"',
        "a\\",
    ],
)
def test_a_workspace_folder_of_any_usual_name_registers(
    folder: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    done = lay_finished(tmp_path / folder, tmp_path_factory)
    assert quick(done.root, settings())["model name"].state == "ok"
    record = done.register()
    assert record.model
    assert record.version == "1"
    found = registered(settings(), Workspace(done.root), folder)
    assert [one.name for one in found] == [folder]


@pytest.mark.parametrize(
    "folder", ["my%20flowers", "flowers?", "a%e4b/flowers", "flo\nwers"]
)
def test_a_workspace_folder_that_reads_as_an_address_is_refused_before_any_work(
    folder: str, tmp_path: Path
) -> None:
    """It trained to the end and failed at registration: MLflow decodes plain paths,
    too.
    """
    found = quick(tmp_path / folder, settings())["workspace path"]
    assert (found.state, found.hint) == ("error", "rename the folder")


def test_a_path_that_no_database_address_can_hold_is_refused_before_anything_is_made(
    thaw: Thaw, tmp_path: Path
) -> None:
    source = tmp_path / "photos"
    (source / "ant").mkdir(parents=True)
    (source / "ant" / "1.png").write_bytes(b"1")
    done = thaw("init", tmp_path / "what?", "--data", source, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "'?'" in done.stderr
    assert "rename the folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    "name", ["../../outside", "a/b", "/tmp/there", "", ".hidden", "record.json", "a\nb"]
)
def test_the_name_of_an_own_recipe_cannot_leave_the_output_folder(name: str) -> None:
    stage = {"name": "all", "train": ["all"], "epochs": 1}
    with pytest.raises(ConfigError, match="own"):
        settings(finetune={"own": {name: [stage]}, "recipes": [name]})


@pytest.mark.parametrize(
    ("section", "values", "check", "named"),
    [
        (
            "register",
            {"thresholds": {"acuracy": 0.9}},
            "register.thresholds",
            "acuracy",
        ),
        ("register", {"name": "team/flowers"}, "model name", "team/flowers"),
        ("register", {"name": "it's 3\" wide"}, "model name", '3" wide'),
        ("finetune", {"recipes": ["graduall"]}, "recipes", "graduall"),
        ("finetune", {"primary": "f1"}, "primary metric", "f1"),
        ("tracking", {"experiment": " "}, "experiment name", "' '"),
    ],
)
def test_a_setting_that_would_stop_the_run_late_stops_it_first(
    section: str, values: dict[str, Any], check: str, named: str, tmp_path: Path
) -> None:
    found = quick(tmp_path, settings(**{section: values}))
    assert found[check].state == "error"
    assert named in found[check].found
    with pytest.raises(PreflightError, match=check):
        preflight.require(list(found.values()))


def test_weights_of_an_unknown_user_are_no_file(tmp_path: Path) -> None:
    found = quick(
        tmp_path, settings(backbone={"weights": "~nobody-of-that-name/w.pth"})
    )["weights file"]
    assert (found.state, found.hint) == (
        "error",
        "correct backbone.weights in params.yaml",
    )


def test_a_folder_that_no_model_can_be_called_by_is_to_be_renamed(
    tmp_path: Path,
) -> None:
    assert quick(tmp_path / "a:b", settings())["model name"].hint == "rename the folder"


@pytest.mark.slow
def test_the_folder_above_is_a_workspace_by_its_own_name(
    thaw: Thaw, tmp_path: Path
) -> None:
    source, here = tmp_path / "photos", tmp_path / "flowers" / "notes"
    for folder in (source / "ant", here):
        folder.mkdir(parents=True)
    (source / "ant" / "1.png").write_bytes(b"1")
    thaw("init", "..", "--data", source, cwd=here)
    assert (tmp_path / "flowers" / "params.yaml").is_file()


def test_all_failures_are_named_at_once(tmp_path: Path) -> None:
    config = settings(register={"name": "a/b", "thresholds": {"acuracy": 1}})
    with pytest.raises(PreflightError) as fault:
        preflight.require(list(quick(tmp_path, config).values()))
    assert len(fault.value.details) == 2


def test_a_metric_that_so_few_classes_do_not_have_is_refused() -> None:
    config = settings(register={"thresholds": {"top_3_accuracy": 0.9}})
    preflight.check_thresholds(config, classes=5)
    with pytest.raises(ConfigError, match="top_3_accuracy"):
        preflight.check_thresholds(config, classes=2)


def test_what_no_stale_step_needs_is_not_asked_for(tmp_path: Path) -> None:
    config = settings(backbone={"weights": "nowhere.pth"})
    assert thorough(tmp_path, config, stale=("evaluate",)).keys() == {"tracking store"}
    assert (
        thorough(tmp_path, config, stale=("backbone",))["backbone weights"].state
        == "error"
    )
    assert "recipes" not in quick(tmp_path, config, stale=("evaluate",))
    assert {"model name", "register.thresholds"} <= quick(
        tmp_path, config, stale=()
    ).keys()
    assert preflight.needed_steps(["validate"]) == (
        "validate",
        "split",
        "finetune",
        "evaluate",
        "register",
        "promote",
    )
    assert preflight.needed_steps([], ["backbone"]) == (
        "backbone",
        "finetune",
        "evaluate",
        "register",
        "promote",
    )
    assert preflight.needed_steps([]) == ()


@pytest.mark.slow
def test_weights_that_cannot_be_had_are_found_before_the_data_are_read(
    thaw: Thaw, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    (tmp_path / "photos" / "ant" / "1.png").write_bytes(b"1")
    init(
        place,
        source=tmp_path / "photos",
        config=settings(backbone={"weights": str(tmp_path / "gone.pth")}),
    )
    done = thaw("run", cwd=place, check=False)
    assert done.returncode == 2
    assert "gone.pth" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "artifacts").exists()


@pytest.mark.slow
def test_a_misspelt_threshold_stops_the_run_before_any_work(
    thaw: Thaw, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    (tmp_path / "photos" / "ant" / "1.png").write_bytes(b"1")
    init(place, source=tmp_path / "photos", config=settings())
    change(place, "thresholds: {}", "thresholds: {acuracy: 0.9}")
    done = thaw("run", cwd=place, check=False)
    assert done.returncode == 2
    assert "acuracy" in done.stderr
    assert not (place / "artifacts").exists()
    listed = thaw("doctor", cwd=place, check=False).stdout
    assert "register.thresholds" in listed
    assert "acuracy" in listed


def test_weights_behind_a_server_that_does_not_answer(tmp_path: Path) -> None:
    silent = f"http://127.0.0.1:{free_port(0)}/net.safetensors"
    config = settings(backbone={"weights": silent})
    found = thorough(tmp_path, config, stale=("backbone",))["backbone weights"]
    assert found.state == "error"
    assert "curl" in found.hint
    offline = settings(backbone={"weights": silent, "offline": True})
    assert (
        "switched off"
        in thorough(tmp_path, offline, stale=("backbone",))["backbone weights"].found
    )


class Reply(NamedTuple):
    status: int
    kind: str = "application/json"
    content: bytes = b"{}"


@contextmanager
def server(reply: Reply) -> Iterator[str]:
    """Answers everything alike, to whoever gives the password if it is 200."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("reply", "state", "named"),
    [
        (Reply(200, content=json.dumps({"experiments": []}).encode()), "ok", ""),
        (Reply(401), "error", "HTTP 401"),
        (Reply(403), "error", "HTTP 403"),
        (Reply(404), "error", "HTTP 404"),
        (Reply(200, "text/html", b"<html>log in</html>"), "error", "text/html"),
        (Reply(503), "warning", "HTTP 503"),
    ],
)
def test_a_tracking_store_that_refuses_stops_the_run_and_one_in_trouble_does_not(
    reply: Reply, state: str, named: str, tmp_path: Path
) -> None:
    with server(reply) as url:
        found = thorough(
            tmp_path, settings(tracking={"uri": url}), stale=("evaluate",)
        )["tracking store"]
    assert found.state == state
    assert named in found.found


def test_a_silent_tracking_store_is_a_warning(tmp_path: Path) -> None:
    secret = "hunter2hunter2"
    uri = f"http://user:{secret}@127.0.0.1:{free_port(0)}"
    found = thorough(tmp_path, settings(tracking={"uri": uri}), stale=("evaluate",))[
        "tracking store"
    ]
    assert found.state == "warning"
    assert "does not answer" in found.found
    shown = f"{found.found} {found.expected} {found.hint}"
    assert secret not in shown
    assert base64.b64encode(secret.encode()).decode()[:-2] not in shown
    preflight.require([found])


def test_an_unknown_kind_of_tracking_store_is_refused(tmp_path: Path) -> None:
    config = settings(tracking={"uri": "ftp://somewhere"})
    assert (
        thorough(tmp_path, config, stale=("evaluate",))["tracking store"].state
        == "error"
    )


def test_too_little_room_for_checkpoints_stops_and_too_little_for_caches_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    config = settings(backbone={"weights": "shipped"})
    folder = tmp_path / "data" / "ant"
    folder.mkdir(parents=True)
    for number in range(20):
        (folder / f"{number}.png").touch()
    monkeypatch.setattr(
        preflight.shutil, "disk_usage", lambda path: Usage(2**30 + 1_000_000)
    )
    found = thorough(tmp_path, config, stale=("finetune",))
    assert (found["disk room"].state, found["cache room"].state) == ("ok", "warning")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: Usage(1_000_000))
    assert thorough(tmp_path, config, stale=("finetune",))["disk room"].state == "error"


def test_more_tokens_than_a_known_backbone_takes_are_found_before_the_training(
    tmp_path: Path,
) -> None:
    spec = TextInputSpec(max_tokens=128, pooling="mean", columns=("text",))
    record = BackboneRecord(
        name="transformers/x",
        architecture="bert",
        source="folder",
        sha256="0",
        weights_sha256="0",
        parameters=1,
        classes=0,
        blocks=("head",),
        input=spec,
    )
    place = Workspace(tmp_path)
    place.output("backbone").mkdir(parents=True)
    record.save(place.output("backbone"))
    task = {"name": "text-classification", "input": {"max_tokens": 4096}}
    config = parse({"task": task}, "here")
    checks = {
        check.name: check
        for check in preflight.quick_checks(place, config, ("finetune", "evaluate"))
    }
    assert checks["input"].state == "error"
    assert "128" in checks["input"].expected
    assert "input" not in {
        check.name for check in preflight.quick_checks(place, config)
    }


@pytest.mark.parametrize(
    ("task", "backbone"),
    [
        ("text-classification", "torchvision/resnet18"),
        ("image-classification", "transformers/tiny_text"),
    ],
)
def test_a_backbone_that_reads_something_else_is_refused_before_the_run(
    tmp_path: Path, task: str, backbone: str
) -> None:
    config = parse({"task": {"name": task}, "backbone": {"name": backbone}}, "test")
    check = thorough(tmp_path, config, stale=("finetune",))["backbone for the task"]
    assert check.state == "error"
    assert f"{backbone}, which {task} cannot use" in check.found


@pytest.mark.parametrize("task", ["object-detection", "semantic-segmentation"])
def test_a_backbone_without_feature_maps_is_refused_before_the_run(
    task: str, tmp_path: Path
) -> None:
    sections = {"task": {"name": task}}
    fits = settings(**sections, backbone={"name": "torchvision/mobilenet_v3_small"})
    fits_not = settings(**sections, backbone={"name": "torchvision/vit_b_32"})
    assert (
        "16, 32"
        in thorough(tmp_path, fits, stale=("finetune",))["backbone for the task"].found
    )
    check = thorough(tmp_path, fits_not, stale=("finetune",))["backbone for the task"]
    assert check.state == "error"
    assert "torchvision/resnet50" in check.hint


@pytest.mark.parametrize(
    ("task", "name", "offered"),
    [
        ("image-classification", "lraspp_mobilenet_v3_large", "mobilenet_v3_large"),
        ("object-detection", "lraspp_mobilenet_v3_large", "fasterrcnn_resnet50_fpn_v2"),
        ("object-detection", "retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"),
        ("semantic-segmentation", "fasterrcnn_resnet50_fpn", "deeplabv3_resnet50"),
    ],
)
def test_a_detector_or_segmenter_of_no_use_to_the_task_is_refused_for_what_it_is(
    task: str, name: str, offered: str, tmp_path: Path
) -> None:
    config = settings(task={"name": task}, backbone={"name": f"torchvision/{name}"})
    check = thorough(tmp_path, config, stale=("finetune",))["backbone for the task"]
    assert check.state == "error"
    assert "of torchvision" in check.found
    assert "torchvision/resnet50" in check.hint
    assert offered in check.hint


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("semantic-segmentation", "lraspp_mobilenet_v3_large"),
        ("object-detection", "fasterrcnn_resnet50_fpn"),
    ],
)
def test_a_segmenter_or_detector_is_used_whole_where_the_task_is_its_own(
    task: str, name: str, tmp_path: Path
) -> None:
    config = settings(task={"name": task}, backbone={"name": f"torchvision/{name}"})
    check = thorough(tmp_path, config, stale=("finetune",))["backbone for the task"]
    assert check.state == "ok"
    assert f"all of {name}" in check.found
