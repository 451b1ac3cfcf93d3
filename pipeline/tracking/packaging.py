"""A candidate as an MLflow model: code and safetensors, no pickle; saved, tried, and
put into the store.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import replace_json
from pipeline.tracking.runs import KEY
from pipeline.tracking.store import TrackingStore, prepare_environment

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config import Config
    from pipeline.tasks.base import ServedColumn, Serving

# Characters that the store takes: just what DVC's hash of a folder has.
LONGEST_DIGEST = 36
# File of a candidate → its name beside the served code.
SERVED_NAMES = {"model.safetensors": "weights.safetensors"}


def save(
    folder: Path,
    serving: Serving,
    config: Config,
    code: Path,
    files: Sequence[Path],
    settings: Mapping[str, Any],
    members: Path,
    metadata: Mapping[str, str],
) -> None:
    """Saves a candidate into `folder`, which must not exist, as a model that answers
    without Thaw.

    Args:
        serving: the task's side of it.
        config: the workspace's settings, from which the columns follow that the model
            is asked by.
        code: the file that answers.
        files: what lies beside the settings: weights.safetensors and whatever else
            rebuilds the network.
        settings: what the code reads beside the weights, as `pipeline.served.settings`
            gives it, and `kwargs`: what the architecture's builder needs beside the
            number of classes.
        members: the table of the examples that the model learnt from; it answers
            without it.
        metadata: what the model's own page says of it.
    """
    parts = folder.with_name(folder.name + ".parts") / "model"
    shutil.rmtree(parts.parent, ignore_errors=True)
    parts.mkdir(parents=True)
    replace_json(parts / "model.json", settings, ensure_ascii=False)
    for file in files:
        shutil.copyfile(file, parts / SERVED_NAMES.get(file.name, file.name))
    with _without_warnings():
        _import_pyfunc().save_model(
            str(folder),
            python_model=str(code),
            artifacts={"model": str(parts)},
            signature=make_signature(serving.inputs(config), serving.outputs),
            input_example=serving.input_example(config),
            pip_requirements=requirements(serving.packages),
            metadata=dict(metadata),
        )
    shutil.rmtree(parts.parent)
    shutil.copyfile(members, folder / members.name)


def make_signature(
    inputs: Sequence[ServedColumn], outputs: Sequence[ServedColumn]
) -> Any:
    """MLflow's signature of a served model."""
    from mlflow.models import ModelSignature

    return ModelSignature(inputs=_schema(inputs), outputs=_schema(outputs))


def _schema(columns: Sequence[ServedColumn]) -> Any:
    from mlflow.types import ColSpec, Schema

    types = _column_types()
    specs: list[Any] = []
    for column in columns:
        specs.append(ColSpec(types[column.type], column.name, required=column.required))
    return Schema(specs)


def _column_types() -> dict[str, Any]:
    """MLflow's types of what a served column may hold."""
    from mlflow.types import DataType
    from mlflow.types.schema import Array, Map, Object, Property

    label = Property("label", DataType.string)
    found_object = Object(
        [
            label,
            Property("score", DataType.double),
            Property("box", Array(DataType.double)),
        ]
    )
    region = Object(
        [
            label,
            Property("pixels", DataType.long),
            Property("runs", Array(DataType.long)),
        ]
    )
    return {
        "binary": DataType.binary,
        "string": DataType.string,
        "double": DataType.double,
        "long": DataType.long,
        "map of doubles": Map(DataType.double),
        "list of objects": Array(found_object),
        "list of regions": Array(region),
    }


def requirements(packages: Sequence[str]) -> list[str]:
    """What answering needs, in the versions it was tried with."""
    pinned = []
    for name in packages:
        release, _, _ = version(name).partition("+")
        pinned.append(f"{name}=={release}")
    return pinned


def answers(folder: Path, requests: pd.DataFrame) -> list[dict[str, Any]]:
    """Loads a saved model and asks it: its output columns by name, for each request."""
    table = load(folder).predict(requests)
    rows: list[dict[str, Any]] = table.to_dict(orient="records")
    return rows


def load(folder: Path) -> Any:
    """A saved model, ready to answer."""
    with _without_warnings():
        return _import_pyfunc().load_model(str(folder))


def _import_pyfunc() -> Any:
    prepare_environment()
    return importlib.import_module("mlflow.pyfunc")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keeps from the user what MLflow has to say about its own type hints and its use
    of pandas.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def input_columns(model: Any) -> list[ServedColumn]:
    """The input columns of a loaded model that are required, by its signature."""
    from pipeline.tasks.base import ServedColumn

    columns = model.metadata.get_input_schema().inputs
    return [
        ServedColumn(column.name, column.type.name)
        for column in columns
        if column.required
    ]


def output_names(model: Any) -> list[str]:
    """The output columns of a loaded model, by its signature."""
    schema = model.metadata.get_output_schema()
    return [column.name for column in schema.inputs]


def ask(model: Any, columns: Mapping[str, Sequence[Any]]) -> Any:
    """The model's answers about the values of its input columns, as a table of its
    output columns.
    """
    import pandas as pd

    table = pd.DataFrame(
        {
            name: pd.Series(list(values), dtype=object)
            for name, values in columns.items()
        }
    )
    return model.predict(table)


def is_refusal(fault: Exception) -> bool:
    """Whether a model says by this that its input cannot be used; else it failed."""
    from mlflow.exceptions import MlflowException

    return isinstance(fault, MlflowException)


def upload(
    store: TrackingStore,
    folder: Path,
    name: str,
    run_id: str,
    key: str,
    tags: Mapping[str, str],
) -> tuple[str, str]:
    """Puts a saved model into the store as an output of a run, or finds it there by its
    key.

    Returns:
        The model's id, and where its files are.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    client = store.client
    experiment = store.experiment_id
    for known in client.search_logged_models([experiment], f"tags.`{KEY}` = '{key}'"):
        if known.status == LoggedModelStatus.READY:  # which the filter cannot ask for
            return known.model_id, known.artifact_location
    # A logged model's name may not hold these, a registered one's may.
    title = re.sub(r"[/:.%\"']", "-", name)
    logged = client.create_logged_model(
        experiment, title, run_id, {KEY: key, **tags}, model_type="classifier"
    )
    client.log_model_artifacts(logged.model_id, str(folder))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return logged.model_id, logged.artifact_location


def add_missing_files(store: TrackingStore, run_id: str, folder: Path) -> None:
    """Puts the files of a folder to a run's artifacts, below the folder's name; those
    that are there stay.
    """
    present = {
        Path(entry.path).name
        for entry in store.client.list_artifacts(run_id, folder.name)
    }
    for file in sorted(folder.iterdir()):
        if file.name not in present:
            store.client.log_artifact(run_id, str(file), folder.name)


def retag(
    store: TrackingStore, key: str, tags: Mapping[str, str], outdated: Sequence[str]
) -> None:
    """Brings the tags of an uploaded model up to date.

    Args:
        outdated: names of tags to remove.
    """
    for model in store.client.search_logged_models(
        [store.experiment_id], f"tags.`{KEY}` = '{key}'"
    ):
        store.client.set_logged_model_tags(model.model_id, dict(tags))
        for name in set(outdated) & set(model.tags):
            store.client.delete_logged_model_tag(model.model_id, name)


def log_dataset(
    store: TrackingStore, run_id: str, name: str, digest: str, facts: Mapping[str, str]
) -> None:
    """Names the data as an input of the run; the same data once."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"tags": dict(facts)})
    data = Dataset(name, digest[:LONGEST_DIGEST], source_type="code", source=source)
    tag = InputTag("mlflow.data.context", "training")
    store.client.log_inputs(run_id, [DatasetInput(data, [tag])])


def read_input_example(folder: Path) -> pd.DataFrame | None:
    """The input example of a saved model; None where it has none."""
    prepare_environment()
    from mlflow.models import Model

    model: Any = Model.load(str(folder))  # which declares text, and gives a table
    example: pd.DataFrame | None = model.load_input_example(str(folder))
    return example
