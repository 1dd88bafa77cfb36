"""Every family by every road: transformers and the engine, from a folder and from a GGUF file, on long prompts."""

import numpy as np
import pytest
import torch
from gguf_files import ARCHITECTURES, write_gguf

import sparseact as sa
from sparseact.engine.engine import Engine
from sparseact.models.families import BUILTIN
from sparseact.models.hf_gguf import load_gguf
from sparseact.sites import find_sites
from sparseact.testing import tiny_model, tiny_tokenizer

FAMILIES = {name: family for family in BUILTIN.values() if family.architecture for name in family.tiny}
del FAMILIES["opt-post-norm"]  # refused
IDS = np.random.default_rng(0).integers(3, 60, 28)
"""Longer than every window."""


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(torch.as_tensor(np.asarray(ids))[None]).logits[0].numpy()


def check(source, expected, model, threads):
    """That the engine gives these logits, and greedy text that the model says too."""
    with Engine.from_model(source, dtype="f32", threads=threads) as engine:
        np.testing.assert_allclose(engine.prefill(IDS[:20]), expected[19], atol=1e-4)
        found = np.stack([engine.step(int(token)) for token in IDS[20:]])
        np.testing.assert_allclose(found, expected[20:], atol=1e-4)
        n = min(64, engine.context - len(IDS))
        text = engine.greedy(n)
    # One pass over the text says what transformers would have written: the likeliest token after each.
    assert text == logits(model, [*IDS, *text])[len(IDS) - 1 : -1].argmax(-1).tolist()


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "mobillama"])  # whose shared MLP is not saved
def test_a_family_from_a_folder(name, tmp_path):
    model = tiny_model(name)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = sa.load(str(tmp_path), device="cpu")[0]
    assert len(find_sites(loaded)) == 2 * model.config.num_hidden_layers
    np.testing.assert_array_equal(logits(loaded), logits(model))
    check(tmp_path, logits(model), model, threads=2)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_family_from_a_gguf_file(name, tmp_path):
    model, file = tiny_model(name), tmp_path / "tiny.gguf"
    write_gguf(file, model, name, "F32")
    np.testing.assert_allclose(logits(load_gguf(file, torch.float32)), logits(model), atol=1e-4)
    check(file, logits(model), model, threads=1)


def test_every_architecture_of_gguf_is_tried():
    written = {name for name, family in FAMILIES.items() if family.gguf} - {"mobillama"}
    assert written <= {*ARCHITECTURES}
