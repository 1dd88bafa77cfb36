"""`sparseact.attribute`: scores of a prompt, alone and in a batch, and the files that hold them."""

import json

import pytest
import torch
from safetensors.torch import load_file

import sparseact as sa
from sparseact.attribution import METRICS, attribute_batch
from sparseact.data import encode_prompt
from sparseact.errors import InputError
from sparseact.testing import DISTINCT, EOS, POSITIONS, float64_model, tiny_model, tiny_tokenizer

PROMPTS = ["Why is the sky blue?", "Hi", "Who wrote Hamlet, and when?"]
# What a batch cannot keep: integrated gradients take one prompt, the control draws in order of the batch.
IN_A_BATCH = [name for name in METRICS if name not in {"ig", "random"}]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def llama():
    return float64_model(tiny_model("llama"))


# The real model


@pytest.mark.smollm2
def test_the_real_model(smollm2, tmp_path):
    model, tokenizer = smollm2
    scores = sa.attribute(model, tokenizer, PROMPTS[0], max_new_tokens=5)
    prompt = encode_prompt(tokenizer, PROMPTS[0])
    assert torch.equal(scores.prompt_tokens, prompt[0])
    generated = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=5)
    assert scores.tokens.tolist() == generated[0, prompt.shape[1] :].tolist()
    assert len(scores.values) == 60
    for layer in range(30):
        assert scores[f"mlp.{layer}"].shape == (5, 1536)
        assert scores[f"heads.{layer}"].shape == (5, 9)
    assert all(torch.isfinite(value).all() and not value.requires_grad for value in scores.values.values())
    assert model.config._attn_implementation == "sdpa"
    assert all(parameter.grad is None for parameter in model.parameters())

    scores.save(tmp_path)
    sites = {f"{kind}.{layer}" for kind in ("mlp", "heads") for layer in range(30)}
    assert set(load_file(tmp_path / "scores.safetensors")) == sites | {"tokens", "prompt_tokens"}


@pytest.mark.smollm2
def test_a_batch_of_the_real_model_equals_each_prompt_alone(smollm2):
    model, tokenizer = smollm2
    batch = attribute_batch(model, tokenizer, PROMPTS[:2], metric="gxo", units="mlp", max_new_tokens=5)
    for prompt, found in zip(PROMPTS, batch, strict=False):
        alone = sa.attribute(model, tokenizer, prompt, metric="gxo", units="mlp", max_new_tokens=5)
        assert torch.equal(found.tokens, alone.tokens)
        for name, value in alone.values.items():
            assert (found[name] - value).abs().max() <= 1e-3 * value.abs().max(), name


# Tiny models


@pytest.mark.parametrize("family", DISTINCT)
def test_every_family(family, tokenizer):
    scores = sa.attribute(tiny_model(family), tokenizer, PROMPTS[0], max_new_tokens=3)
    assert len(scores.values) == 6
    assert {tuple(value.shape) for value in scores.values.values()} == {
        (len(scores.tokens), 48),
        (len(scores.tokens), 4),
    }


@pytest.mark.parametrize("metric", IN_A_BATCH)
def test_a_batch_equals_each_prompt_alone(llama, tokenizer, metric):
    batch = attribute_batch(llama, tokenizer, PROMPTS, metric=metric, max_new_tokens=6)
    assert [found.meta["prompt"] for found in batch] == PROMPTS
    for prompt, found in zip(PROMPTS, batch, strict=True):
        alone = sa.attribute(llama, tokenizer, prompt, metric=metric, max_new_tokens=6)
        assert torch.equal(found.tokens, alone.tokens)
        assert torch.equal(found.prompt_tokens, alone.prompt_tokens)
        for name, value in alone.values.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def test_texts_of_a_batch_may_end_at_different_tokens(tokenizer):
    model = float64_model(tiny_model("llama"))
    free = attribute_batch(model, tokenizer, PROMPTS, metric="gxo", max_new_tokens=6)
    stop = free[0].tokens[2].item()
    model.generation_config.eos_token_id = [EOS, stop]
    batch = attribute_batch(model, tokenizer, PROMPTS, metric="gxo", max_new_tokens=6)
    assert len(batch[0].tokens) < 6
    assert batch[0].tokens[-1] == stop
    for before, after in zip(free, batch, strict=True):
        steps = len(after.tokens)
        assert torch.equal(after.tokens, before.tokens[:steps])
        for name, value in after.values.items():
            assert len(value) == steps
            torch.testing.assert_close(value, before[name][:steps], rtol=1e-9, atol=1e-12)


def test_a_label_is_attributed_instead_of_the_models_own(llama, tokenizer):
    own = sa.attribute(llama, tokenizer, PROMPTS[0], metric="gxo", max_new_tokens=4)
    again = sa.attribute(llama, tokenizer, PROMPTS[0], metric="gxo", max_new_tokens=4, label=own.tokens)
    assert all(torch.equal(again[name], value) for name, value in own.values.items())
    label = torch.tensor([7, 8])
    other = sa.attribute(llama, tokenizer, PROMPTS[0], metric="gxo", max_new_tokens=4, label=label)
    assert torch.equal(other.tokens, label)
    assert other["mlp.0"].shape == (2, 48)
    assert not torch.allclose(other["mlp.0"], own["mlp.0"][:2])


def test_labels_of_a_batch(llama, tokenizer):
    labels = [torch.tensor([7, 8]), torch.tensor([9])]
    batch = attribute_batch(llama, tokenizer, PROMPTS[:2], metric="gxo", labels=labels)
    for prompt, label, found in zip(PROMPTS, labels, batch, strict=False):
        alone = sa.attribute(llama, tokenizer, prompt, metric="gxo", label=label)
        for name, value in alone.values.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def test_dropout_is_off_and_the_mode_comes_back(tokenizer):
    model = tiny_model("gpt2")  # its config has dropout
    expected = sa.attribute(model, tokenizer, PROMPTS[0], max_new_tokens=3)
    model.train()
    found = sa.attribute(model, tokenizer, PROMPTS[0], max_new_tokens=3)
    assert model.training
    assert all(torch.equal(found[name], value) for name, value in expected.values.items())


def test_inference_mode_around_it_changes_nothing(llama, tokenizer):
    expected = sa.attribute(llama, tokenizer, PROMPTS[0], metric="gxo", max_new_tokens=3)
    with torch.inference_mode():
        found = sa.attribute(llama, tokenizer, PROMPTS[0], metric="gxo", max_new_tokens=3)
        label = found.tokens.clone()
        assert label.is_inference()
        given = sa.attribute(llama, tokenizer, PROMPTS[0], metric="gxo", label=label)
    for name, value in expected.values.items():
        assert torch.equal(found[name], value)
        assert torch.equal(given[name], value)


# Files


def test_what_is_saved(llama, tokenizer, tmp_path):
    scores = sa.attribute(llama, tokenizer, PROMPTS[0], max_new_tokens=3, correction="auto", seed=5)
    scores.save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["scores.json", "scores.safetensors"]
    tensors = load_file(folder / "scores.safetensors")
    sites = {f"{kind}.{layer}" for kind in ("mlp", "heads") for layer in range(3)}
    assert set(tensors) == sites | {"tokens", "prompt_tokens"}
    meta = json.loads((folder / "scores.json").read_text())
    assert meta["version"] == 1
    expected = {"metric": "corrected-gxo", "units": "both", "correction": "auto", "seed": 5, "prompt": PROMPTS[0]}
    assert expected.items() <= meta.items()


@pytest.mark.parametrize(
    ("name", "content"),
    [("scores.json", b"{"), ("scores.json", b"[]"), ("scores.safetensors", b"\0" * 20), ("scores.safetensors", b"")],
)
def test_damaged_files_are_refused_in_one_line(llama, tokenizer, tmp_path, name, content):
    sa.attribute(llama, tokenizer, PROMPTS[0], max_new_tokens=2).save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="no readable scores here") as error:
        sa.Scores.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_scores_without_tokens_are_refused(llama, tokenizer, tmp_path):
    from safetensors.torch import save_file

    sa.attribute(llama, tokenizer, PROMPTS[0], max_new_tokens=2).save(tmp_path)
    save_file({"mlp.0": torch.zeros(1)}, tmp_path / "scores.safetensors")
    with pytest.raises(InputError, match="no readable scores here"):
        sa.Scores.load(tmp_path)


def test_scores_of_a_newer_version_are_refused(llama, tokenizer, tmp_path):
    sa.attribute(llama, tokenizer, PROMPTS[0], max_new_tokens=2).save(tmp_path)
    meta = json.loads((tmp_path / "scores.json").read_text())
    (tmp_path / "scores.json").write_text(json.dumps({**meta, "version": 2}))
    with pytest.raises(InputError, match="another version than 1"):
        sa.Scores.load(tmp_path)


def test_a_folder_without_scores_is_refused(tmp_path):
    with pytest.raises(InputError, match="no readable scores here"):
        sa.Scores.load(tmp_path)


# Bad input


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"metric": "gox"}, r"metrics: unknown metric 'gox'\. Did you mean gxo\?"),
        ({"units": "head"}, r"units: unknown units 'head'\. Did you mean heads\?"),
        ({"correction": -1.0}, r"correction: -1.0"),
        ({"max_new_tokens": POSITIONS}, rf"prompt 0: 20 tokens .* context of {POSITIONS} tokens"),
        ({"max_new_tokens": 0}, r"max_new_tokens: 0 is not at least 1"),
        ({"label": torch.zeros(POSITIONS, dtype=torch.long)}, rf"prompt 0: 20 tokens .* context of {POSITIONS} tokens"),
        ({"label": torch.zeros(0, dtype=torch.long)}, "label: not a row of at least one token id"),
        ({"label": torch.zeros(1, 2, dtype=torch.long)}, "label: not a row of at least one token id"),
        ({"metric": "ig", "ig_steps": 0}, "ig_steps: 0 is not at least 1"),
    ],
)
def test_bad_options_are_refused(llama, tokenizer, options, line):
    with pytest.raises(InputError, match=line):
        sa.attribute(llama, tokenizer, PROMPTS[0], **options)


def test_a_batch_needs_prompts_and_a_label_each(llama, tokenizer):
    with pytest.raises(InputError, match="0 prompts"):
        attribute_batch(llama, tokenizer, [])
    with pytest.raises(InputError, match="2 prompts and 1 labels"):
        attribute_batch(llama, tokenizer, PROMPTS[:2], labels=[torch.tensor([7])])


def test_integrated_gradients_take_one_prompt(llama, tokenizer):
    with pytest.raises(InputError, match="metric 'ig' takes one prompt at a time"):
        attribute_batch(llama, tokenizer, PROMPTS, metric="ig", max_new_tokens=2)
