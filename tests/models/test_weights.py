"""Weights from a model, a folder and a GGUF file are the same numbers; damage is refused in one line."""

import contextlib
import dataclasses
import json
import tracemalloc

import gguf
import numpy as np
import pytest
import torch
from gguf_files import finish, write_gguf
from safetensors.torch import load_file, save_file

from sparseact.engine.forward.prefill import Cache, Forward
from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models import load
from sparseact.models.formats import Quantised, dequantise
from sparseact.models.weights import open_weights
from sparseact.testing import tiny_model

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma2", "gemma3", "gpt2", "opt"]
TYPES = {"Q8_0": "q8", "Q5_0": "q8", "Q4_0": "q4", "Q4_1": "q4m"}
IDS = np.random.default_rng(0).integers(0, 64, 20)


def logits_of(weights):
    forward = Forward.reading(weights)
    return forward.logits(forward.prefill(IDS, Cache.empty(forward.architecture, 20)))


def reference(model):
    with torch.no_grad():
        return model(torch.as_tensor(IDS)[None]).logits[0].numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_what_the_model_gives(family, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded, folder = open_weights(model), open_weights(tmp_path)
    assert folder.architecture == loaded.architecture
    assert folder.names == loaded.names
    for name in folder.names:
        np.testing.assert_array_equal(folder.read(name), loaded.read(name))
        assert folder.read(name).shape == folder.shape(name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floating_types_are_widened_exactly(dtype, tmp_path):
    model = tiny_model("llama").to(dtype)
    model.save_pretrained(tmp_path)
    loaded, folder = open_weights(model), open_weights(tmp_path)
    for name in folder.names:
        assert folder.read(name).dtype == np.float32
        np.testing.assert_array_equal(folder.read(name), loaded.read(name))
    expected = model.model.layers[0].mlp.gate_proj.weight.detach().float().numpy()
    np.testing.assert_array_equal(folder.read("0.gate"), expected)


@pytest.mark.parametrize("family", ["gpt2", "phi3", "llama"])
def test_rows_are_rows_of_the_whole(family, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    sources = [open_weights(model), open_weights(tmp_path)]
    if family != "phi3":
        write_gguf(tmp_path / "q.gguf", model, family)
        sources.append(open_weights(tmp_path / "q.gguf"))
    for weights in sources:
        for name in ("embed", "0.q", "1.k", "2.v", "0.down", "1.gate", "1.attention_norm"):
            np.testing.assert_array_equal(weights.floats(name, 3, 7), weights.floats(name)[3:7])
        with pytest.raises(IndexError):
            weights.read("embed", 60, 65)
        with pytest.raises(IndexError):
            weights.read("embed", -1, 3)


def test_what_was_read_is_no_view_of_the_model():
    model = tiny_model("llama")
    weights = open_weights(model)
    before = weights.read("0.q").copy()
    weights.read("0.q")[:] = 7
    np.testing.assert_array_equal(weights.read("0.q"), before)


def test_a_tied_head_is_held_once(tmp_path):
    weights = open_weights(tiny_model("gpt2"))
    assert weights.architecture.tied
    assert "head" not in weights
    assert "head" in open_weights(tiny_model("llama"))


@pytest.mark.parametrize(
    "family",
    ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi", "gpt2", "phi3", "gpt-neox", "stablelm"],
)
@pytest.mark.parametrize("quantised", ["F32", "BF16", "Q8_0", "Q4_1"])
def test_a_gguf_file_runs_as_transformers_runs_its_numbers(family, quantised, tmp_path):
    model = tiny_model(family)
    write_gguf(tmp_path / "tiny.gguf", model, family, quantised)
    weights = open_weights(tmp_path / "tiny.gguf")
    expected = open_weights(model).architecture
    assert weights.architecture.norm_epsilon == np.float32(expected.norm_epsilon)  # the file has it in float32
    assert dataclasses.replace(weights.architecture, norm_epsilon=expected.norm_epsilon) == expected
    np.testing.assert_allclose(logits_of(weights), reference(model), atol=5e-5)


def test_a_gguf_file_gives_what_transformers_reads_from_it(tiny_gguf):
    model, _ = load(str(tiny_gguf), device="cpu")
    np.testing.assert_allclose(logits_of(open_weights(tiny_gguf)), reference(model), atol=5e-5)


@pytest.mark.parametrize(("kind", "ours"), TYPES.items())
def test_blocks_are_taken_over_bit_for_bit(kind, ours, tmp_path):
    model = tiny_model("llama")
    write_gguf(tmp_path / "tiny.gguf", model, "llama", kind)
    weights = open_weights(tmp_path / "tiny.gguf")
    state = {"0.gate": "mlp.gate_proj", "0.k": "self_attn.k_proj"}  # k's rows are put back in order
    for name, module in state.items():
        block = weights.read(name)
        assert isinstance(block, Quantised)
        assert block.format == ours
        np.testing.assert_array_equal(dequantise(block), model.model.layers[0].get_submodule(module).weight.detach())
    assert isinstance(weights.read("0.down"), np.ndarray)  # 48 inputs are no whole blocks: float32 in the file


def test_other_types_of_ggml_come_as_float32(tmp_path):
    """Q6_K, which has blocks of 16 with scales of their own, by gguf's own unpacking."""
    random = np.random.default_rng(0)
    raw = random.integers(0, 255, (64, 210), dtype=np.uint8)
    raw[:, 208:] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "gpt2")
    for key, value in {
        "context_length": 16,
        "embedding_length": 256,
        "block_count": 1,
        "feed_forward_length": 256,
        "attention.head_count": 2,
    }.items():
        writer.add_uint32(f"gpt2.{key}", value)
    writer.add_tensor("token_embd.weight", raw, raw_dtype=gguf.GGMLQuantizationType.Q6_K)
    writer.add_tensor("position_embd.weight", np.zeros((16, 256), np.float32))
    for name, rows in {"attn_qkv": 768, "attn_output": 256, "ffn_up": 256, "ffn_down": 256}.items():
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((rows, 256), np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(256, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(256, np.float32))
    finish(writer)
    embed = open_weights(tmp_path / "k.gguf").read("embed", 3, 9)
    np.testing.assert_array_equal(embed, gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q6_K)[3:9])


def test_frequencies_of_a_gguf_file_are_divided_by_its_factors(tmp_path):
    """As llama.cpp's converter stores Llama 3's scaling."""
    model = tiny_model("llama")
    write_gguf(tmp_path / "plain.gguf", model, "llama", "F32")
    reader = gguf.GGUFReader(tmp_path / "plain.gguf")
    writer = gguf.GGUFWriter(tmp_path / "scaled.gguf", "llama")
    for key, field in reader.fields.items():
        if key.startswith("llama."):
            writer.add_key_value(key, field.contents(), field.types[0])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.add_tensor("rope_freqs.weight", np.array([1, 2, 4, 8], np.float32))
    finish(writer)
    plain, scaled = (
        open_weights(tmp_path / f"{name}.gguf").architecture.frequencies[0] for name in ("plain", "scaled")
    )
    np.testing.assert_array_equal(np.divide(plain, [1, 2, 4, 8]), scaled)


def test_reading_a_few_rows_takes_the_memory_of_a_few_rows(tmp_path):
    save_file({"embed_tokens.weight": torch.zeros(200_000, 32)}, tmp_path / "model.safetensors")
    from sparseact.models.sources.safetensors import SafetensorsFolder

    source = SafetensorsFolder.open(tmp_path)
    tracemalloc.start()
    source.read("embed_tokens.weight", 1000, 1100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 32 * 4 + 50_000


def changed_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            lambda t: t.pop("model.layers.1.mlp.up_proj.weight"),
            InputError,
            "model.layers.1.mlp.up_proj.weight is missing",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(31)}),
            InputError,
            r"model.norm.weight is \(31,\); the config makes it \(32,\)",
        ),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(8)}),
            UnsupportedModelError,
            "no use for the tensor model.layers.0.self_attn.q_norm.weight",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_refused(change, error, said, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    changed_tensors(tmp_path, change)
    with pytest.raises(error, match=said) as found:
        open_weights(tmp_path)
    assert "\n" not in str(found.value)


def test_numbers_that_are_no_floats_are_refused(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    changed_tensors(tmp_path, lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}))
    with pytest.raises(UnsupportedModelError, match=r"model\.norm\.weight holds I8"):
        open_weights(tmp_path).read("norm")


def test_a_model_on_the_meta_device_is_refused():
    with pytest.raises(InputError, match="not in memory"):
        open_weights(tiny_model("llama").to("meta")).read("0.q")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "q.gguf"])
def test_every_file_cut_anywhere_is_refused_in_one_line(name, tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    write_gguf(tmp_path / "q.gguf", model, "llama")
    file = tmp_path / name
    whole = file.read_bytes()
    for length in [0, 3, 7, 8, 9, 30, 100, 400, len(whole) // 2, len(whole) - 3]:
        file.write_bytes(whole[:length])
        with pytest.raises(InputError) as error:
            open_weights(file if name.endswith("gguf") else tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "q.gguf"])
def test_a_damaged_header_is_refused_or_read_but_never_crashes(name, tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    write_gguf(tmp_path / "q.gguf", model, "llama")
    file, random = tmp_path / name, np.random.default_rng(0)
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    for _ in range(300):
        damaged = whole.copy()
        damaged[random.integers(0, 1500, 3)] = random.integers(0, 256, 3)
        file.write_bytes(damaged.tobytes())
        with contextlib.suppress(InputError):
            weights = open_weights(file if name.endswith("gguf") else tmp_path)
            for tensor in weights.names:
                weights.read(tensor)


def test_places_without_weights(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        open_weights(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no config.json"):
        open_weights(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="holds no config"):
        open_weights(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_model("llama").config.to_dict()))
    with pytest.raises(InputError, match=r"no model.safetensors here"):
        open_weights(tmp_path)


def test_a_gguf_file_of_another_architecture_is_refused(tmp_path):
    for architecture, said in (
        ("mamba", "architecture 'mamba'; docs/families.md"),
        ("llama", "mixtures of experts"),
    ):
        writer = gguf.GGUFWriter(tmp_path / "other.gguf", architecture)
        writer.add_expert_count(8)
        writer.add_tensor("token_embd.weight", np.zeros((2, 2), np.float32))
        finish(writer)
        with pytest.raises(UnsupportedModelError, match=said):
            open_weights(tmp_path / "other.gguf")


@pytest.mark.smollm2
def test_smollm2_is_taken_over_as_it_is(smollm2):
    from sparseact.models import cached_folder, gguf_path

    packed, folder = open_weights(gguf_path("smollm2")), open_weights(cached_folder("smollm2"))
    assert packed.architecture == folder.architecture
    assert packed.names == folder.names
    formats = {name: value.format for name in packed.names if isinstance(value := packed.read(name), Quantised)}
    assert set(formats.values()) == {"q4m", "q8"}
    assert sum(form == "q4m" for form in formats.values()) == 210
    for name in packed.names:
        np.testing.assert_array_equal(packed.floats(name), folder.read(name))
