"""Recipes are data: they need no torch, and those that were written before are read today."""

import json
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from sparseact.recipes.gate import score
from sparseact.recipes.recipe import load_recipe

DATA = Path(__file__).parent / "data"
WRITTEN = json.loads((DATA / "expected.json").read_text())
"""By sparseact 0.1.0 (19929f2): logits of a step and all masks, of recipes of `small_model`."""


def small_model():
    """One layer, whose weights follow from a formula, so that they are the same with every version of torch."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(model.named_parameters())):
            places = np.arange(parameter.numel(), dtype=np.float64) + 1
            parameter.copy_(torch.from_numpy(0.4 * np.sin(places * places * 0.7 + number)).view(parameter.shape))
    return model


@pytest.mark.parametrize("name", WRITTEN)
def test_a_recipe_of_an_earlier_version_does_what_it_did(name):
    model, ids = small_model(), torch.from_numpy(np.random.RandomState(0).randint(3, 64, (2, 17)))
    masks = {}

    def note(gate, on, clock):
        masks[f"{gate.site.name} {clock.phase}"] = b64encode(np.packbits(on.numpy()).tobytes()).decode()

    with torch.no_grad(), load_recipe(DATA / name)(model) as density:
        density.count = note
        prompt = model(ids, use_cache=True)
        step = model(ids[:, 3:4], past_key_values=prompt.past_key_values)
    assert masks == WRITTEN[name]["masks"]
    np.testing.assert_allclose(step.logits[:, 0, :4].numpy(), WRITTEN[name]["logits"], atol=1e-5)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_recipe_is_written_as_it_was_read(name, tmp_path):
    load_recipe(DATA / name).save(tmp_path)
    for file in ("recipe.json", "recipe.safetensors"):
        assert (tmp_path / file).read_bytes() == (DATA / name / file).read_bytes()


def test_reading_a_recipe_imports_no_torch():
    code = f"""
import sys
from sparseact.recipes import fingerprint, gate, phases, recipe, selection, selectors, site
for name in {list(WRITTEN)}:
    read = recipe.load_recipe({str(DATA)!r} + "/" + name)
    assert all(type(held).__name__ == "ndarray" for gate in read.gates for held in gate.tensors().values())
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_score_is_the_same_rule_for_arrays_and_tensors():
    signal, shift, scale = np.float32([[3, -1, 0.5]]), np.float32([1, 1, 1]), np.float32([1, 2, 4])
    for of in (np.asarray, torch.tensor):
        assert score(of(signal), of(shift), of(scale)).tolist() == [[2, 4, 2]]
        assert score(of(signal), None, None).tolist() == [[3, 1, 0.5]]
        assert score(of(signal), None, of(scale)).tolist() == [[3, 2, 2]]
