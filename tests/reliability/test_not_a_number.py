"""What is not a number is said in one line wherever it first comes up: weights, outputs of models, kept files, JSON."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import sparseact as sa
from sparseact.cli import USERS_MISTAKE, main
from sparseact.cli.options import Shared
from sparseact.data import builtin_questions
from sparseact.engine.engine import Engine
from sparseact.engine.load import packed
from sparseact.engine.load.load_model import formats_of, load_model
from sparseact.errors import InputError, NotFiniteError
from sparseact.evaluation.perplexity import sums_over_tokens
from sparseact.generation import answer
from sparseact.models.weights import open_weights
from sparseact.policies import TEAL
from sparseact.testing import tiny_model, tiny_tokenizer
from sparseact.utils.plain_json import read_json, to_json, write_json

NAN, INF = float("nan"), float("inf")
TEXT = "the quick brown fox jumps over the lazy dog. " * 50


def save(model, folder):
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "a.txt").write_text("\n".join(row["question"] for row in builtin_questions()))
    return str(folder)


def damaged(place, value, family="llama"):
    """A tiny model of which one weight is no number."""
    model = tiny_model(family)
    with torch.no_grad():
        model.get_parameter(place).flatten()[5] = value
    return model


PLACES = {
    "model.layers.1.mlp.down_proj.weight": NAN,
    "model.norm.weight": INF,
    "model.embed_tokens.weight": -INF,  # of a token that the prompt has not
    "lm_head.weight": NAN,
}


@pytest.mark.parametrize(("place", "value"), PLACES.items())
@pytest.mark.parametrize(
    "command",
    [
        ("generate", "--prompt", "Why?", "--threads", "1"),
        ("generate", "--prompt", "Why?", "--engine", "torch"),
        ("eval", "--text", "a.txt", "--json"),
        ("calibrate", "--policy", "teal", "--sparsity", "0.5", "--out", "out"),
        ("score", "--prompt", "Why?", "--metric", "magnitude", "--out", "out"),
        ("sweep", "--limit", "1", "--metrics", "magnitude", "--out", "out"),
    ],
    ids=lambda command: " ".join(command[:1] + command[3:5]),
)
def test_a_weight_that_is_no_number_is_one_line_in_every_command(place, value, command, tmp_path, capsys, monkeypatch):
    model = save(damaged(place, value), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(answer, "PATIENCE", 1e6)
    capsys.readouterr()
    assert main([*command, "--model", model]) == USERS_MISTAKE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "holds a number that is not finite" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8", "q4", "file"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_the_engine_takes_no_such_weight_in_any_type(dtype, value, recwarn):
    for place in ("model.layers.1.mlp.down_proj.weight", "model.layers.0.input_layernorm.weight"):
        with pytest.raises(InputError, match="holds a number that is not finite"):
            Engine.from_model(damaged(place, value), dtype=dtype, threads=1)
    assert not recwarn.list


def test_a_weight_too_large_for_its_type_is_said(tmp_path):
    model = save(damaged("model.layers.1.mlp.down_proj.weight", 1e30), tmp_path)
    for dtype in ("q8", "q4"):
        with pytest.raises(InputError, match=r"1\.down holds a number that is not finite, or one too large for q"):
            Engine.from_model(model, dtype=dtype, threads=1)
    with pytest.raises(InputError, match="not finite in float16; the file is damaged, or the type too narrow"):
        sa.load(model, dtype="float16")
    sa.load(model, dtype="bfloat16")


@pytest.fixture
def model():
    """One whose head says NaN when it is asked for a single token."""
    model = tiny_model("llama")

    def say(_, args, output):
        return output * NAN if args[0].shape[1] == 1 else output

    model.lm_head.register_forward_hook(say)
    return model


def test_numbers_that_a_model_in_memory_loses_on_the_way(model):
    tokenizer = tiny_tokenizer()
    with pytest.raises(NotFiniteError, match="the model's logits are not finite numbers"):
        sa.generate(model, tokenizer, "Why?", max_new_tokens=3)
    with pytest.raises(NotFiniteError):
        sa.generate(model, tokenizer, "Why?", max_new_tokens=3, temperature=1.0)
    with pytest.raises(NotFiniteError):
        sa.attribute(model, tokenizer, "Why?", max_new_tokens=3)
    with pytest.raises(NotFiniteError):
        sa.evaluate(model, tokenizer, TEXT, context=32, limit=1, phase="decode", recipe=_recipe(model))
    with pytest.raises(NotFiniteError):
        sa.policies.write_text(model, tokenizer, tokens=8)


def _recipe(model):
    return TEAL(sparsity=0.5).calibrate(tiny_model("llama"), tiny_tokenizer(), TEXT)


def test_a_calibration_on_what_is_no_number():
    with pytest.raises(NotFiniteError, match=r"the inputs of model\.layers\.2\S*, .* are not"):
        TEAL(sparsity=0.5).calibrate(damaged("model.layers.1.mlp.down_proj.weight", NAN), tiny_tokenizer(), TEXT)


@pytest.mark.parametrize("options", [{}, {"lossless": True}])
def test_numbers_that_the_engine_loses_on_the_way(options):
    recipe = _recipe(None) if options else None
    with Engine.from_model(tiny_model("llama"), recipe, dtype="f32", threads=1, **options) as engine:
        engine.prefill([5, 6, 7])
        engine.greedy(2)
        engine._buffers.values[1, 0, :2] = NAN
        with pytest.raises(NotFiniteError):
            engine.greedy(4)
        engine.reset()
        engine.prefill([5, 6, 7])
        assert len(engine.greedy(4)) == 4


def test_the_likeliest_of_no_numbers_does_not_agree_with_itself():
    logits = torch.randn(4, 9)
    label = torch.arange(4)
    assert sums_over_tokens(logits, logits, label)[3] == 4
    for bad in (NAN, INF):
        with pytest.raises(NotFiniteError):
            sums_over_tokens(torch.where(torch.arange(9) == 2, bad, logits), logits, label)


# Files that are read again.


@pytest.mark.parametrize("place", [0, 4096, -40])
def test_packed_weights_with_a_damaged_byte_are_packed_again(place, tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(packed, "LEAST", 0)
    weights = open_weights(save(tiny_model("llama"), tmp_path / "model"))
    first = load_model(weights, formats_of(weights, "bf16"), {})
    (path,) = (tmp_path / "packed").iterdir()
    kept = bytearray(path.read_bytes())
    kept[place] ^= 0xFF
    path.write_bytes(kept)
    again = load_model(weights, formats_of(weights, "bf16"), {})
    np.testing.assert_array_equal(first.arena.data, again.arena.data)
    np.testing.assert_array_equal(first.vectors, again.vectors)


def test_a_recipe_with_what_is_no_number_is_neither_written_nor_read(tmp_path):
    import hashlib

    recipe = _recipe(None)
    recipe.save(tmp_path / "r")
    text = (tmp_path / "r/recipe.json").read_text()
    (tmp_path / "r/recipe.json").write_text(text.replace('"sparsity": 0.5', '"sparsity": NaN', 1))
    with pytest.raises(InputError, match="it holds NaN, which is no number"):
        sa.load_recipe(tmp_path / "r")
    statistical = sa.policies.SCAP(sparsity=0.5).calibrate(tiny_model("llama"), tiny_tokenizer(), TEXT)
    statistical.save(tmp_path / "s")
    file = tmp_path / "s/recipe.safetensors"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name].flat[0] = NAN
    save_file(tensors, file)
    after = hashlib.sha256(file.read_bytes()).hexdigest()
    record = (tmp_path / "s/recipe.json").read_text().replace(before, after)
    (tmp_path / "s/recipe.json").write_text(record)
    with pytest.raises(InputError, match="holds what is not a number"):
        sa.load_recipe(tmp_path / "s")


# JSON


def test_json_is_json_whatever_is_in_it(tmp_path):
    record = {"a": NAN, "b": [1.5, -INF, {"c": (INF, "NaN")}], "d": 2, "e": None, "f": True}
    assert json.loads(to_json(record), parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None, {"c": [None, "NaN"]}],
        "d": 2,
        "e": None,
        "f": True,
    }
    assert "null" in Shared(json=True).answer(record, "")
    with pytest.raises(InputError, match="not written, for it would hold a number that is not finite"):
        write_json(tmp_path / "a.json", record)
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "a.json", {"a": math.pi, "é": "\udce9"})
    assert read_json(tmp_path / "a.json") == {"a": math.pi, "é": "\udce9"}
    (tmp_path / "a.json").write_text('{"a": [Infinity]}')
    with pytest.raises(ValueError, match="it holds Infinity, which is no number"):
        read_json(tmp_path / "a.json")


def test_a_perplexity_without_end_is_null_in_json():
    from sparseact.evaluation.perplexity import _exp

    assert _exp(0.0) == 1
    assert json.loads(to_json({"perplexity": _exp(1e4)})) == {"perplexity": None}


@pytest.mark.parametrize("option", ["--temperature", "--top-p", "--min-p", "--repetition-penalty"])
def test_an_option_that_is_no_number(option, tmp_path, capsys):
    model = save(tiny_model("llama"), tmp_path)
    capsys.readouterr()
    assert main(["generate", "--model", model, "--prompt", "Why?", option, "nan"]) == USERS_MISTAKE
    assert capsys.readouterr().err.startswith(f"sparseact: {option}: nan is not")


@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
def test_a_config_that_holds_no_number(key, tmp_path, capsys):
    model = save(tiny_model("llama"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[key] = NAN
    if key == "rope_theta":
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": NAN}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for engine in ("cpu", "torch"):
        capsys.readouterr()
        assert main(["generate", "--model", model, "--prompt", "Why?", "--engine", engine]) == USERS_MISTAKE
        assert capsys.readouterr().err.count("\n") == 1
