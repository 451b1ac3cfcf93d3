"""A published folder becomes weights in fp32, a configuration and a tokenizer, or is
refused by name.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import BackboneConfig
from pipeline.context import Context
from pipeline.errors import BackboneError, ConfigError
from pipeline.models import references
from pipeline.models.providers import catalog
from pipeline.models.providers.transformers import library
from pipeline.records import BackboneRecord, CandidateRecord, TextInputSpec, text_spec
from pipeline.tensors import TensorGroup, single_tensor
from transformer_families import DECODERS, FAMILIES, WHOLE, write_folder

pytestmark = pytest.mark.slow

MASKED = [family for family in FAMILIES if family not in WHOLE or family == "albert"]


def settings(folder: Path | str, **values: Any) -> BackboneConfig:
    return BackboneConfig(name="transformers/tiny", weights=str(folder), **values)


def fetch(folder: Path, root: Path, **values: Any) -> BackboneRecord:
    out = root / "backbone"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    provider = catalog.find("transformers/tiny")
    return provider.fetch(
        settings(folder, **values),
        out,
        Context(root, root / "data", root / ".thaw", root / ".thaw/run"),
    )


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """A copy of a folder's weights, whose file may then be written anew."""
    return {
        name: tensor.clone()
        for name, tensor in load_file(folder / "model.safetensors").items()
    }


def refused(folder: Path, root: Path, **values: Any) -> BackboneError:
    with pytest.raises(BackboneError) as caught:
        fetch(folder, root, **values)
    return caught.value


def stock_output(folder: Path, ids: torch.Tensor, family: str) -> torch.Tensor:
    """What the library itself makes of the folder."""
    import transformers

    kinds = {"t5": transformers.T5EncoderModel, "funnel": transformers.FunnelModel}
    network = (
        kinds.get(family, transformers.AutoModel)
        .from_pretrained(folder, dtype=torch.float32)
        .eval()
    )
    with torch.inference_mode():
        output: torch.Tensor = network(
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).last_hidden_state
    return output


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_the_network_that_the_library_reads_from_it(
    family: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "published", family)
    record = fetch(folder, tmp_path)
    ids = torch.randint(5, 17, (2, 9), generator=torch.Generator().manual_seed(0))
    network = catalog.find(record.name).build(record, 2, pretrained=True, seed=0)
    x = TensorGroup({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    with torch.inference_mode():
        vectors = single_tensor(network.run(x, 0, len(network.blocks) - 1))
    hidden = stock_output(folder, ids, family)
    expected = hidden[:, -1] if family in DECODERS else hidden.mean(1)
    assert torch.allclose(vectors, expected, atol=1e-6)
    assert record.blocks == tuple(network.names)
    assert record.parameters == sum(
        parameter.numel() for parameter in network.stock.backbone.parameters()
    )


@pytest.mark.parametrize("family", MASKED)
def test_heads_of_pretraining_are_left_out(family: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "published", family, with_head=True)
    record = fetch(folder, tmp_path)
    assert not [
        name
        for name in load_file(record.weights)
        if name.startswith(("cls.", "lm_head", "predictions"))
    ]


def test_constants_that_older_files_hold_are_left_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "published", "gpt2")
    state = state_of(folder)
    state["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    state["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(state, folder / "model.safetensors")
    assert "h.0.attn.bias" not in load_file(fetch(folder, tmp_path).weights)


def test_what_the_step_leaves(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "published")
    (folder / "tokenizer_config.json").write_text(
        '{"model_max_length": 64}', encoding="utf-8"
    )
    record = fetch(folder, tmp_path)
    assert record.files == ("config.json", "tokenizer.json", "tokenizer_config.json")
    for name in record.files:
        assert (record.folder / name).read_bytes() == (folder / name).read_bytes()
    assert record.source == "folder"
    assert record.architecture == "bert"
    spec = text_spec(record.input)
    assert spec == TextInputSpec(
        max_tokens=64, bucket=32, pooling="mean", columns=("text",)
    )
    assert str(tmp_path) not in record.model_dump_json()


@pytest.mark.parametrize(
    ("family", "limit"),
    [("bert", 80), ("roberta", 78), ("gpt2", 80), ("distilbert", 80)],
)
def test_no_text_is_longer_than_the_network_has_positions(
    family: str, limit: int, tmp_path: Path
) -> None:
    record = fetch(write_folder(tmp_path / "published", family), tmp_path)
    assert text_spec(record.input).max_tokens == limit
    network = catalog.find(record.name).build(record, 2, pretrained=True, seed=0)
    ids = torch.full((1, limit), 7)
    with torch.inference_mode():
        logits = network.forward(
            TensorGroup({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        )
    assert single_tensor(logits).isfinite().all()


def test_half_precision_becomes_fp32_everywhere(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "published", half=True)
    assert (
        json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"]
        == "float16"
    )
    record = fetch(folder, tmp_path)
    published, rewritten = (
        load_file(folder / "model.safetensors"),
        load_file(record.weights),
    )
    assert {tensor.dtype for tensor in rewritten.values()} == {torch.float32}
    name = "encoder.layer.0.output.dense.weight"
    assert torch.equal(rewritten[name], published[name].float())
    for pretrained in (True, False):
        network = catalog.find(record.name).build(
            record, 2, pretrained=pretrained, seed=0
        )
        assert {parameter.dtype for parameter in network.stock.parameters()} == {
            torch.float32
        }


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "published")
    first, again = fetch(folder, tmp_path / "one"), fetch(folder, tmp_path / "two")
    assert first.weights.read_bytes() == again.weights.read_bytes()
    assert first.digest == again.digest


def test_a_folder_may_have_an_odd_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "größe 100% #1 (α)")
    assert fetch(folder, tmp_path).source == "folder"
    shutil.copytree(folder, tmp_path / "inside")
    assert fetch(Path("inside"), tmp_path).sha256 == fetch(folder, tmp_path).sha256


def test_a_candidate_is_loaded_with_exactly_its_weights(tmp_path: Path) -> None:
    from pipeline.models.network import state_to_save

    record = fetch(write_folder(tmp_path / "published"), tmp_path)
    provider = catalog.find(record.name)
    trained = provider.build(record, 3, pretrained=True, seed=4)
    folder = tmp_path / "candidate"
    folder.mkdir()
    save_file(state_to_save(trained), folder / "model.safetensors")
    for name in record.files:
        shutil.copyfile(record.folder / name, folder / name)
    candidate = CandidateRecord(
        folder=folder,
        name="full",
        key="k",
        baseline=False,
        architecture=record.architecture,
        labels=("a", "b", "c"),
        input=record.input,
        stages=(),
        val={},
        steps=1,
        model_sha256="",
        plan={},
        backbone=record.name,
        files=record.files,
    )
    loaded = provider.load_finetuned(candidate)
    ids = torch.full((1, 5), 7)
    x = TensorGroup({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    with torch.inference_mode():
        assert torch.equal(
            single_tensor(loaded.forward(x)), single_tensor(trained.forward(x))
        )
    assert {"head.weight", "head.bias"} < set(load_file(folder / "model.safetensors"))


class TestRefusals:
    def test_a_pickle_is_never_opened(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        fault = refused(folder, tmp_path)
        assert "pytorch_model.bin, a pickle" in fault.found
        assert "save_pretrained" in fault.hint

    def test_not_even_under_another_name(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        torch.save(state_of(folder), folder / "model.safetensors")
        assert "a pickle" in refused(folder, tmp_path).found

    def test_weights_of_another_network_are_listed(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published", "bert")
        other = write_folder(tmp_path / "other", "distilbert")
        shutil.copyfile(other / "model.safetensors", folder / "model.safetensors")
        details = "\n".join(refused(folder, tmp_path).details)
        assert "missing" in details
        assert "encoder.layer.0" in details
        assert "unexpected" in details
        assert "transformer.layer.0" in details

    def test_weights_of_another_size_are_listed(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        path = folder / "config.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(
            json.dumps({**values, "intermediate_size": 48}), encoding="utf-8"
        )
        assert "other shape" in "\n".join(refused(folder, tmp_path).details)

    def test_a_slow_tokenizer_alone(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        (folder / "tokenizer.json").rename(folder / "vocab.txt")
        fault = refused(folder, tmp_path)
        assert "tokenizer.json" in fault.found
        assert "slow tokenizer" in fault.hint

    def test_a_tokenizer_of_another_network(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        path = folder / "config.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**values, "vocab_size": 10}), encoding="utf-8")
        state = state_of(folder)
        name = "embeddings.word_embeddings.weight"
        save_file(
            {**state, name: state[name][:10].contiguous()}, folder / "model.safetensors"
        )
        assert "token 16" in refused(folder, tmp_path).found

    def test_code_of_the_repository_is_not_run(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        path = folder / "config.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(
            json.dumps({**values, "auto_map": {"AutoModel": "code.Model"}}),
            encoding="utf-8",
        )
        (folder / "code.py").write_text("raise SystemExit", encoding="utf-8")
        assert "code from its own repository" in refused(folder, tmp_path).found

    def test_weights_in_several_files(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
        assert "several files" in refused(folder, tmp_path).found

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    def test_broken_files_are_named(self, name: str, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        (folder / name).write_text("{", encoding="utf-8")
        assert refused(folder, tmp_path).subject.endswith(name)

    def test_a_configuration_that_makes_no_network(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        path = folder / "config.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(
            json.dumps({**values, "num_attention_heads": 3}), encoding="utf-8"
        )
        assert refused(folder, tmp_path).subject.endswith("config.json")

    def test_a_kind_of_network_that_was_never_tried(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        (folder / "config.json").write_text('{"model_type": "mamba"}', encoding="utf-8")
        fault = refused(folder, tmp_path)
        assert "mamba" in fault.found
        assert "distilbert" in fault.expected

    @pytest.mark.parametrize("place", ["nowhere", "file"])
    def test_no_folder(self, place: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("", encoding="utf-8")
        fault = refused(tmp_path / place, tmp_path)
        assert "model.safetensors" in fault.expected

    def test_a_url_is_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"backbone\.mirror"):
            catalog.find("transformers/tiny").check_reachable(
                settings("https://example.org/net"), tmp_path
            )

    def test_without_the_library_the_error_says_what_to_type(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = write_folder(tmp_path / "published")
        monkeypatch.setattr(library, "PACKAGES", ("transformers_that_is_missing",))
        with pytest.raises(ConfigError, match=r"pip install 'thaw\[text\]'"):
            fetch(folder, tmp_path)


class TestLock:
    def test_the_first_use_pins_every_file(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        record = fetch(folder, tmp_path)
        entry = json.loads((tmp_path / "backbone.lock").read_text(encoding="utf-8"))[
            f"transformers/tiny {folder}"
        ]
        assert entry["sha256"] == entry["files"]["model.safetensors"] == record.sha256
        assert set(entry["files"]) == {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        }
        assert "revision" not in entry

    @pytest.mark.parametrize(
        "name", ["model.safetensors", "tokenizer.json", "config.json"]
    )
    def test_another_file_is_refused_and_stays(self, name: str, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        fetch(folder, tmp_path)
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        fault = refused(folder, tmp_path)
        assert fault.subject.endswith(name)
        assert "backbone.lock" in fault.hint
        assert (folder / name).is_file()

    def test_so_is_a_file_that_is_new(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        fetch(folder, tmp_path)
        (folder / "tokenizer_config.json").write_text(
            '{"model_max_length": 8}', encoding="utf-8"
        )
        assert refused(folder, tmp_path).subject.endswith("tokenizer_config.json")

    def test_a_changed_file_is_found_before_anything_is_asked_what_is_fresh(
        self, tmp_path: Path
    ) -> None:
        folder = write_folder(tmp_path / "published")
        fetch(folder, tmp_path)
        references.refuse_changed_file(settings(folder), tmp_path, tmp_path / ".thaw")
        path = folder / "config.json"
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        with pytest.raises(BackboneError, match=r"config\.json"):
            references.refuse_changed_file(
                settings(folder), tmp_path, tmp_path / ".thaw"
            )

    def test_the_settings_may_say_the_weights_digest(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "published")
        right = fetch(folder, tmp_path).sha256
        assert fetch(folder, tmp_path, sha256=right).sha256 == right
        assert "backbone.sha256" in refused(folder, tmp_path, sha256="0" * 64).expected


def test_parameters_are_counted_from_the_file_where_it_is_here(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "published")
    expected = sum(
        tensor.numel() for tensor in load_file(folder / "model.safetensors").values()
    )
    provider = catalog.find("transformers/tiny")
    assert provider.count_parameters(settings(folder)) == expected
    assert provider.count_parameters(settings(tmp_path / "nowhere")) > 10**7


def test_the_library_is_quiet_and_its_settings_are_as_they_were() -> None:
    import os

    from huggingface_hub import constants

    environment = dict(os.environ)
    before = (
        constants.HF_HUB_OFFLINE,
        constants.HF_HUB_DISABLE_TELEMETRY,
        constants.HF_HUB_DISABLE_XET,
    )
    with library.quiet_library():
        assert constants.is_offline_mode()
        assert constants.HF_HUB_DISABLE_TELEMETRY
    assert before == (
        constants.HF_HUB_OFFLINE,
        constants.HF_HUB_DISABLE_TELEMETRY,
        constants.HF_HUB_DISABLE_XET,
    )
    assert dict(os.environ) == environment


def test_what_is_shipped_is_named_where_another_was_asked_for(tmp_path: Path) -> None:
    config = BackboneConfig(
        name="transformers/sentence-transformers/all-MiniLM-L6-v2", weights="shipped"
    )
    with pytest.raises(BackboneError, match="transformers/tiny_text"):
        catalog.find(config.name).check_reachable(config, tmp_path)
