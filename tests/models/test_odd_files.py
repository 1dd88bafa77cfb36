"""Files that are not as usual: transformers' model, the engine, and the model that the file was written from agree.

Or a file is refused by both, in one line. What the two make of a file must not depend on which of them reads it.
"""

import copy
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf_files import ARCHITECTURES, finish, write_gguf
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import sparseact as sa
from sparseact.engine.engine import Engine
from sparseact.errors import InputError, UnsupportedModelError
from sparseact.masked.decoding import stop_tokens
from sparseact.models import load_tokenizer
from sparseact.models.end_tokens import end_tokens
from sparseact.models.hf_gguf import load_gguf
from sparseact.models.resolve import resolve
from sparseact.testing import FAMILIES, tiny_tokenizer

IDS = np.random.default_rng(0).integers(3, 60, 12)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 50.0}
ROTATING = ("llama", "mistral", "qwen2", "qwen3", "phi", "gemma2")
RUN = ("llama", "mobillama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma2", "gemma3", "opt", "gpt2")
NEW = ("gpt-neox", "granite4", "nemotron", "olmo2")  # whose names are like no other's

ODD = {
    "as it is": (RUN, {}),  # of all families: test_family_files
    "padded vocabulary": ((*RUN, *NEW), {"vocab_size": 75}),
    "tied": ((*RUN, *NEW), {"tie_word_embeddings": True}),
    "own head": (RUN, {"tie_word_embeddings": False}),
    "linear": (ROTATING, {"rope_parameters": LINEAR}),
    "llama3": (ROTATING, {"rope_parameters": LLAMA3}),
    "linear by kind": (["gemma3"], {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": PLAIN}}),
    "biases": (["llama", "qwen3", "gemma2", "gemma3"], {"attention_bias": True}),
    "biases of the mlp": (["llama"], {"mlp_bias": True}),
    "head_dim of its own": (
        ["llama", "mistral", "qwen3", "gemma2", "gemma3"],
        {"head_dim": 20, "query_pre_attn_scalar": 20},
    ),
    "one key head": (["llama", "mistral", "qwen2", "phi3"], {"num_key_value_heads": 1}),
    "window": (["mistral", "phi3", "gemma2", "gemma3"], {"sliding_window": 2}),
    "windows in some layers": (
        ["qwen2", "qwen3"],
        {
            "use_sliding_window": True,
            "sliding_window": 3,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
    ),
}
CASES = [(family, odd) for odd, (families, _) in ODD.items() for family in families]
IN_GGUF = [
    (family, odd)
    for family, odd in CASES
    if family in ARCHITECTURES and odd != "windows in some layers"  # GGUF has no key for Qwen's windows
]


def build(family, **changes):
    """A random model of a family with a changed config, none of whose biases is 0."""
    config = FAMILIES[family]().to_dict() | copy.deepcopy(changes)  # transformers adds to them
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def logits(model):
    with torch.no_grad():
        return model(torch.as_tensor(IDS)[None]).logits[0].numpy()


def save(model, folder):
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def check(path, model, expected):
    """That a model which was loaded from a file, and the engine's of the file and of it, give these logits."""
    np.testing.assert_allclose(logits(model), expected, atol=1e-4)
    for source in (path, model):
        with Engine.from_model(source, dtype="f32", threads=1) as engine:
            found = [engine.prefill(IDS[:8]), *(engine.step(int(token)) for token in IDS[8:])]
        np.testing.assert_allclose(np.stack(found), expected[7:], atol=1e-4)


def one_line(path):
    """What both say about a file."""
    said = []
    load_torch = load_gguf if path.suffix == ".gguf" else lambda path, dtype: sa.load(str(path), dtype=dtype)
    for read in (Engine.from_model, lambda path: load_torch(path, torch.float32)):
        with pytest.raises(InputError) as error:
            read(path)
        assert "\n" not in str(error.value)
        said.append(str(error.value))
    return said


@pytest.mark.parametrize(("family", "odd"), CASES)
def test_a_folder(family, odd, tmp_path):
    model = build(family, **ODD[odd][1])
    check(tmp_path, sa.load(str(save(model, tmp_path)), device="cpu")[0], logits(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", ["gemma3", "gpt2", "llama"])
def test_numbers_that_transformers_rounds_are_the_same_model(family, dtype, tmp_path):
    model = build(family)
    loaded = [sa.load(str(save(model, tmp_path)), device="cpu", dtype=dtype)[0]]
    write_gguf(tmp_path / "odd.gguf", model, family, "F32")
    loaded.append(load_gguf(tmp_path / "odd.gguf", dtype))
    for other in loaded:
        for name, value in other.named_parameters():
            torch.testing.assert_close(value, model.get_parameter(name).to(dtype))


@pytest.mark.parametrize(("family", "odd"), IN_GGUF)
def test_a_gguf_file(family, odd, tmp_path):
    model = build(family, **ODD[odd][1])
    write_gguf(tmp_path / "odd.gguf", model, family, "F32")
    check(tmp_path / "odd.gguf", load_gguf(tmp_path / "odd.gguf", torch.float32), logits(model))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("scaling", [None, "linear"])
def test_factors_in_a_gguf_file_divide_the_frequencies(family, scaling, tmp_path):
    """On top of a linear scaling, where there is one, as llama.cpp has it."""
    factors = [1.0, 1.5, 3.0, 7.0]
    model = build(family, rope_parameters=LINEAR if scaling else PLAIN, head_dim=8)
    write_gguf(tmp_path / "odd.gguf", model, family, "F32", tensors={"rope_freqs.weight": factors})
    frequencies = model.model.rotary_emb.inv_freq
    frequencies /= torch.tensor(factors)
    loaded = load_gguf(tmp_path / "odd.gguf", torch.float32)
    check(tmp_path / "odd.gguf", loaded, logits(model))
    check(tmp_path / "again", sa.load(str(save(loaded, tmp_path / "again")), device="cpu")[0], logits(model))


@pytest.mark.parametrize(
    ("keys", "rope"),
    [
        ({"llama.rope.scale_linear": 4.0}, LINEAR),  # an old key
        ({"llama.rope.scaling.factor": 4.0}, LINEAR),  # linear is llama.cpp's default
        ({"llama.rope.scaling.factor": 4.0, "llama.rope.scaling.type": "none"}, LINEAR | {"factor": 1.0}),
        ({"llama.rope.scaling.type": "linear"}, LINEAR | {"factor": 1.0}),
    ],
)
def test_linear_scaling_by_whatever_keys(keys, rope, tmp_path):
    model = build("llama", rope_parameters={"rope_type": "default", "rope_theta": 100.0})
    write_gguf(tmp_path / "odd.gguf", model, "llama", "F32", metadata=keys)
    check(
        tmp_path / "odd.gguf",
        load_gguf(tmp_path / "odd.gguf", torch.float32),
        logits(build("llama", rope_parameters=rope)),
    )


def test_yarn_in_a_gguf_file(tmp_path):
    """The context of the first training is the whole one where the file does not say, as llama.cpp has it."""
    keys = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 100.0, "original_max_position_embeddings": 128}
    model = build("llama", rope_parameters={"rope_type": "default", "rope_theta": 100.0})
    write_gguf(tmp_path / "odd.gguf", model, "llama", "F32", metadata=keys)
    loaded = load_gguf(tmp_path / "odd.gguf", torch.float32)
    check(tmp_path / "odd.gguf", loaded, logits(build("llama", rope_parameters=rope)))


def test_longrope_in_a_gguf_file_holds_up_to_the_context_of_the_first_training(tmp_path):
    factors = {"rope_factors_long.weight": [9.0] * 4, "rope_factors_short.weight": [1.0, 2.0, 3.0, 4.0]}
    keys = {"llama.rope.scaling.original_context_length": 64, "llama.rope.scaling.attn_factor": 1.25}
    model = build("llama", rope_parameters={"rope_type": "default", "rope_theta": 100.0})
    write_gguf(tmp_path / "odd.gguf", model, "llama", "F32", tensors=factors, metadata=keys)
    with Engine.from_model(tmp_path / "odd.gguf", dtype="f32", threads=1) as engine:
        assert engine.context == 64
        with pytest.raises(InputError, match=r"room for 64 tokens.*changes with the length of texts longer than 64"):
            engine.prefill(np.zeros(65, int))
    rope = {"rope_type": "longrope", "rope_theta": 100.0, "attention_factor": 1.25}
    rope |= {"short_factor": factors["rope_factors_short.weight"], "long_factor": factors["rope_factors_long.weight"]}
    expected = build("llama", rope_parameters=rope | {"original_max_position_embeddings": 64})
    check(tmp_path / "odd.gguf", load_gguf(tmp_path / "odd.gguf", torch.float32), logits(expected))


@pytest.mark.parametrize("kind", ["dynamic", "xdrope"])
def test_other_scalings_are_refused_in_a_gguf_file(kind, tmp_path):
    keys = {"llama.rope.scaling.type": kind, "llama.rope.scaling.factor": 4.0}
    write_gguf(tmp_path / "odd.gguf", build("llama"), "llama", "F32", metadata=keys)
    assert all(f"no rotary embedding of type '{kind}'" in said for said in one_line(tmp_path / "odd.gguf"))


def test_of_a_folder_that_the_engine_refuses_transformers_is_the_only_reader(tmp_path):
    model = build("apertus")
    np.testing.assert_array_equal(logits(sa.load(str(save(model, tmp_path)), device="cpu")[0]), logits(model))
    with pytest.raises(UnsupportedModelError, match="apertus"):
        Engine.from_model(tmp_path)


def change(folder, **changes):
    """Change the config and the tensors of a folder."""
    config = json.loads((folder / "config.json").read_text()) | changes.pop("config", {})
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.pop("tensors", {}).items():
        tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma3"])
def test_a_head_of_its_own_in_the_files_wins_over_a_config_that_ties_it(family, tmp_path):
    model = build(family, tie_word_embeddings=False)
    change(save(model, tmp_path), config={"tie_word_embeddings": True})
    check(tmp_path, sa.load(str(tmp_path), device="cpu")[0], logits(model))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma3"])
def test_a_head_that_repeats_the_embedding_is_tied(family, tmp_path):
    model = build(family, tie_word_embeddings=True)
    change(save(model, tmp_path), tensors={"lm_head.weight": model.get_input_embeddings().weight.detach().clone()})
    loaded = sa.load(str(tmp_path), device="cpu")[0]
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    check(tmp_path, loaded, logits(model))
    with Engine.from_model(tmp_path, dtype="f32", threads=1) as engine:
        assert engine.architecture.tied


@pytest.mark.parametrize("stale", ["shards", "index"])
def test_one_file_wins_over_what_was_saved_in_shards_before(stale, tmp_path):
    build("llama", vocab_size=90).save_pretrained(tmp_path, max_shard_size="20KB")
    model = build("llama")
    save(model, tmp_path / "new")
    for file in (tmp_path / "new").iterdir():
        shutil.copy(file, tmp_path)
    if stale == "index":
        for shard in tmp_path.glob("model-*"):
            shard.unlink()
    check(tmp_path, sa.load(str(tmp_path), device="cpu")[0], logits(model))


def test_shards_are_one_model(tmp_path):
    model = build("llama")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    check(tmp_path, sa.load(str(tmp_path), device="cpu")[0], logits(model))
    next(tmp_path.glob("model-00002*")).unlink()
    assert all("model-00002" in said for said in one_line(tmp_path))


def test_tensors_that_the_config_denies_are_refused(tmp_path):
    biased = save(build("llama", attention_bias=True), tmp_path / "biased")
    change(biased, config={"attention_bias": False})
    with pytest.raises(InputError, match=r"no use for 12 tensors of the weights, such as model\.layers\.0\.self"):
        sa.load(str(biased))
    longer = save(build("llama"), tmp_path / "longer")
    change(longer, config={"num_hidden_layers": 2})
    assert all("no use for" in said and "layers.2" in said for said in one_line(longer))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("biased", ["attn_q", "attn_v", "attn_output", "ffn_up"])
def test_some_biases_in_a_gguf_file(family, biased, tmp_path):
    """Run where transformers has a place for them, with zeros beside them, and refused where it has none."""
    model = build(family)
    bias = np.linspace(-1, 1, {"attn_q": 32, "attn_v": 16, "attn_output": 32, "ffn_up": 48}[biased])
    extra = {f"blk.{layer}.{biased}.bias": bias for layer in range(3)}
    file = tmp_path / "odd.gguf"
    if family == "qwen2" and biased in {"attn_q", "attn_v"}:
        return  # it has them as it is
    write_gguf(file, model, family, "F32", tensors=extra)
    if family == "qwen2":
        with pytest.raises(UnsupportedModelError, match=f"has no place for 3 tensors .* blk.0.{biased}"):
            load_gguf(file, torch.float32)
        return
    expected = build(family, attention_bias="attn" in biased, mlp_bias="ffn" in biased)
    state = {name: torch.zeros_like(tensor) for name, tensor in expected.state_dict().items()} | model.state_dict()
    names = {"attn_q": "self_attn.q_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj"}
    rows = torch.as_tensor(bias, dtype=torch.float32)
    if biased == "attn_q":  # in a file its rows stand in pairs
        rows = rows.reshape(4, 4, 2).mT.reshape(32)
    for layer in range(3):
        state[f"model.layers.{layer}.{names.get(biased, 'mlp.up_proj')}.bias"] = rows
    expected.load_state_dict(state)
    check(file, load_gguf(file, torch.float32), logits(expected))


def test_a_layer_more_than_a_gguf_file_says(tmp_path):
    write_gguf(tmp_path / "odd.gguf", build("llama"), "llama", "F32", metadata={"llama.block_count": 2})
    assert all("no use for the tensor blk.2" in said for said in one_line(tmp_path / "odd.gguf"))


def test_an_architecture_of_gguf_that_is_not_known(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((2, 2), np.float32))
    finish(writer)
    assert all("architecture 'mamba'; docs/families.md" in said for said in one_line(tmp_path / "odd.gguf"))


def test_a_model_that_was_split_into_gguf_files(tmp_path):
    model = build("llama")
    write_gguf(tmp_path / "whole.gguf", model, "llama", "F32")
    shards = split(tmp_path / "whole.gguf", 3)
    check(shards[0], load_gguf(shards[0], torch.float32), logits(model))
    assert all(
        "shard 2 of 3 of a model; give the first one, split-00001-of-00003.gguf" in said for said in one_line(shards[1])
    )
    shards[1].unlink()
    assert all("shard 1 of 3 of a model; not beside it: split-00002" in said for said in one_line(shards[0]))
    renamed = shards[0].rename(tmp_path / "renamed.gguf")
    assert all("one of several shards" in said for said in one_line(renamed))


def split(file, count):
    """As llama.cpp splits: all metadata in the first, tensors in the order of the file."""
    reader = gguf.GGUFReader(file)
    shards = [file.with_name(f"split-{i + 1:05}-of-{count:05}.gguf") for i in range(count)]
    for i, shard in enumerate(shards):
        writer = gguf.GGUFWriter(shard, "llama")
        for key, field in reader.fields.items():
            if key.startswith("llama.") and i == 0:
                writer.add_key_value(key, field.contents(), field.types[0])
        writer.add_uint16("split.no", i)
        writer.add_uint16("split.count", count)
        for tensor in reader.tensors[i::count]:
            writer.add_tensor(tensor.name, tensor.data)
        finish(writer)
    return shards


@pytest.mark.parametrize(
    ("keys", "ends"),
    [
        ({}, {2}),
        ({"tokenizer.ggml.eot_token_id": 7}, {2, 7}),
        ({"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 9}, {2, 7, 9}),
        ({"tokenizer.ggml.eos_token_ids": [2, 5]}, {2, 5}),
        ({"tokenizer.ggml.eos_token_id": None}, set()),
    ],
)
def test_every_end_token_of_a_gguf_file_ends_a_text(keys, ends, tmp_path):
    write_gguf(tmp_path / "odd.gguf", build("llama"), "llama", "F32", metadata=keys)
    assert end_tokens(tmp_path / "odd.gguf") == ends
    assert stop_tokens(load_gguf(tmp_path / "odd.gguf", torch.float32)) == ends


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ({"eos_token_id": [1, 7]}, 2, {1, 7}),
        ({"temperature": 0.5}, 2, {2}),  # it says nothing of them
        ({"temperature": 0.5}, [2, 4], {2, 4}),
        (None, [2, 4], {2, 4}),
        (None, None, set()),
    ],
)
def test_every_end_token_of_a_folder_ends_a_text(generation, config, ends, tmp_path):
    change(save(build("llama"), tmp_path), config={"eos_token_id": config})
    (tmp_path / "generation_config.json").unlink()
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert stop_tokens(sa.load(str(tmp_path), device="cpu")[0]) == load_tokenizer(str(tmp_path))[1] == ends


def test_a_model_whose_frequencies_were_changed_in_memory_is_refused():
    model = build("llama")
    model.model.rotary_emb.inv_freq *= 2
    with pytest.raises(InputError, match="its rotary frequencies are not those that its config says"):
        Engine.from_model(model)


def test_two_readers_that_disagree_are_refused_in_one_line(tmp_path):
    """The second line of defence: a folder that transformers is told to read from another file."""
    save(build("llama"), tmp_path)
    changed = load_file(tmp_path / "model.safetensors")
    changed["model.layers.1.mlp.down_proj.weight"] += 1
    save_file(changed, tmp_path / "other.safetensors", {"format": "pt"})
    change(tmp_path, config={"transformers_weights": "other.safetensors"})
    with pytest.raises(InputError, match=r"transformers reads another model .* differ in 1\.down"):
        sa.load(str(tmp_path))


def test_what_a_name_means(tmp_path, monkeypatch, tiny_gguf):
    """One rule for both sides: a built-in name is the built-in model, whatever lies in the working directory."""
    (tmp_path / "smollm2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("smollm2").kind == "builtin"
    assert resolve("./smollm2").path == resolve(Path("smollm2")).path == Path("smollm2")
    assert resolve(str(tiny_gguf)).kind == "gguf"
    assert resolve("someone/some-model").kind == "hub"
