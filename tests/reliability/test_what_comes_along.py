"""What a model's files bring along changes no text: options of a generation config, of either backend; a dtype."""

import json

import pytest
import torch

import sparseact as sa
from sparseact.calibration import own_answers
from sparseact.cli import main
from sparseact.engine.engine import Engine
from sparseact.errors import InputError
from sparseact.generation import answer
from sparseact.masked.decoding import ends_only
from sparseact.policies import TEAL, write_text
from sparseact.recipes.fingerprint import fingerprint, is_same
from sparseact.testing import tiny_model, tiny_tokenizer

SAID = {
    "beams": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    "bias": {"sequence_bias": [[[5], 100.0]], "bad_words_ids": [[7], [8, 9]], "suppress_tokens": list(range(30))},
    "decay": {"exponential_decay_length_penalty": [1, 9.0], "max_time": 0.0, "max_length": 6, "min_length": 30},
    "warpers": {"do_sample": True, "typical_p": 0.2, "top_k": 2, "top_p": 0.1, "temperature": 0.01, "min_p": 0.9},
    "more": {"epsilon_cutoff": 0.9, "eta_cutoff": 0.9, "repetition_penalty": 3.0, "no_repeat_ngram_size": 1},
    "results": {"return_dict_in_generate": True, "output_scores": True, "num_return_sequences": 1},
    "stops": {"stop_strings": ["a", "b", "c"], "forced_eos_token_id": 7, "begin_suppress_tokens": [5]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4, "guidance_scale": 2.0},
    "caches": {"cache_implementation": "static", "use_cache": False, "prompt_lookup_num_tokens": 3},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder for each config, and one for none."""
    folder = tmp_path_factory.mktemp("models")
    for name, said in {"none": {}, **SAID}.items():
        tiny_model("llama").save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
        (folder / name / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, **said}))
    return folder


@pytest.mark.parametrize("name", SAID)
def test_the_same_options_give_the_same_text_on_both_backends(name, models, capsys, monkeypatch):
    monkeypatch.setattr(answer, "PATIENCE", 1e6)
    texts = {}
    for options in ((), ("--temperature", "0.9", "--seed", "3")):
        for model in ("none", name):
            for engine in (("--dtype", "f32"), ("--engine", "torch")):
                command = [
                    "generate",
                    "--prompt",
                    "Why?",
                    "--max-new-tokens",
                    "12",
                    "--threads",
                    "1",
                    *options,
                    *engine,
                ]
                assert main([*command, "--model", str(models / model)]) == 0
                texts.setdefault(options, set()).add(capsys.readouterr().out)
    assert [len(found) for found in texts.values()] == [1, 1]


@pytest.mark.parametrize("name", SAID)
def test_the_same_text_of_its_own(name, models):
    plain, configured = (sa.load(str(models / which), device="cpu")[0] for which in ("none", name))
    written = [write_text(model, tiny_tokenizer(), tokens=40) for model in (plain, configured)]
    assert written[0] == written[1]
    assert len(written[0]) > 100


def test_a_config_is_back_afterwards_and_lm_evals_generation_is_without_it_too():
    lm_eval = pytest.importorskip("sparseact.evaluation.lm_eval")
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    plain = _generated(lm_eval.SparseHFLM(model, tokenizer))
    for key, value in SAID["warpers"].items() | {"num_beams": 3}.items():
        setattr(model.generation_config, key, value)
    own = model.generation_config
    assert _generated(lm_eval.SparseHFLM(model, tokenizer)) == plain
    with ends_only(model):
        assert model.generation_config.num_beams in {None, 1}
        assert model.generation_config.eos_token_id in (2, [2])
    assert model.generation_config is own
    assert own_answers.ANSWER_TOKENS == 128


def _generated(language_model):
    ids = torch.tensor([tiny_tokenizer()("Why?").input_ids])
    found = language_model._model_generate(ids, max_length=16, stop=["</s>"], do_sample=False)
    return found.tolist()


# A recipe and the type of the weights

TYPES = ("float32", "bfloat16", "float16")
TEXT = "the quick brown fox jumps over the lazy dog. " * 50


@pytest.mark.parametrize("made", TYPES)
def test_a_recipe_is_taken_in_every_type_of_the_same_weights(made, models):
    path = str(models / "none")
    recipe = TEAL(sparsity=0.5).calibrate(sa.load(path, device="cpu", dtype=made)[0], tiny_tokenizer(), TEXT)
    for used in TYPES:
        model, _ = sa.load(path, device="cpu", dtype=used)
        with recipe(model) as density:
            model(torch.tensor([[1, 5, 6, 7]]))
        assert density.achieved() > 0.2
        Engine.from_model(model, recipe, dtype="f32", threads=1).close()
    Engine.from_model(path, recipe, dtype="q8", threads=1).close()


@pytest.mark.parametrize("made", TYPES)
def test_a_recipe_of_other_weights_is_still_refused(made, models):
    path = str(models / "none")
    recipe = TEAL(sparsity=0.5).calibrate(sa.load(path, device="cpu", dtype=made)[0], tiny_tokenizer(), TEXT)
    for change in (lambda weight: weight * 1.02, lambda weight: weight + 1e-3, lambda weight: -weight):
        model = tiny_model("llama")
        with torch.no_grad():
            for parameter in model.model.layers.parameters():
                parameter.copy_(change(parameter))
        with pytest.raises(InputError, match="was calibrated on another model"), recipe(model):
            pass
        with pytest.raises(InputError, match="was calibrated on another model"):
            Engine.from_model(model, recipe, dtype="f32", threads=1)


def test_fingerprints_are_compared_by_hand():
    import numpy as np

    values = np.float32([1.0, -0.5, 3e-8, 1 + 2**-8, 0.25, 0.75, 2.0, 1.5, 1.25, 3.0])  # the fourth lies in the middle
    held = fingerprint("llama", [("a", (10,), values)])
    assert is_same(held, held)
    halves = values.astype(np.float16).astype(np.float32)
    assert fingerprint("llama", [("a", (10,), halves)]) != held
    assert is_same(held, fingerprint("llama", [("a", (10,), halves)]))
    assert is_same(held, held.partition(":")[0])  # as recipes of before know it
    assert not is_same(fingerprint("llama", [("a", (10,), halves)]), held.partition(":")[0])
    assert not is_same(held, fingerprint("qwen2", [("a", (10,), halves)]))
    assert not is_same(held, fingerprint("llama", [("a", (2, 5), halves)]))
    assert not is_same(held, fingerprint("llama", [("a", (10,), values * np.float32(1.02))]))
    assert not is_same(held, fingerprint("llama", [("a", (10,), values + np.float32(0.01) * (np.arange(10) == 4))]))
