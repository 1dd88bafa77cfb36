"""`train` from end to end on tiny models: what comes out, going on after a stop, mistakes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import sparseact as sa
from sparseact import errors
from sparseact.errors import InputError, MissingExtraError, UnsupportedModelError
from sparseact.policies import load_recipe
from sparseact.testing.tiny import POSITIONS, tiny_model, tiny_tokenizer
from sparseact.training import Options, methods
from sparseact.training import loop as loop_of_training

SMALL = {"tokens": 640, "batch": 2, "window": 32, "dtype": "float32", "lr": 1e-3}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(out, text_file, method="cats", model=None, **options):
    model = tiny_model("llama") if model is None else model
    return sa.train(model, tiny_tokenizer(), text_file, out=out, method=method, **SMALL | options)


def weights(out):
    return load_file(out / "model.safetensors")


# --- what comes out


@pytest.mark.parametrize("method", ["cats", "teal", "top-k"])
def test_the_folder_is_a_model_that_transformers_and_the_engine_run_with_the_recipe(tmp_path, text_file, method):
    trained(tmp_path, text_file, method)
    model, _ = sa.load(str(tmp_path))
    recipe = load_recipe(tmp_path / "recipe")
    assert all(np.abs(gate.shift).max() > 0 for gate in recipe.gates)  # constants were learned
    ids = [1, *np.random.default_rng(0).integers(4, 60, 20).tolist()]
    with torch.no_grad(), recipe(model) as density:
        masked = model(torch.tensor([ids])).logits[0].numpy()
    assert density.achieved() == pytest.approx(0.5, abs=0.08)
    with sa.Engine.from_model(str(tmp_path), recipe=recipe, dtype="f32", threads=1) as engine:
        run = np.stack([engine.prefill(ids[:1]), *(engine.step(token) for token in ids[1:])])
    np.testing.assert_allclose(run, masked, atol=1e-4)


def test_the_recipe_is_for_the_new_weights_and_not_for_the_old(tmp_path, text_file):
    recipe = trained(tmp_path, text_file).recipe
    with pytest.raises(InputError, match="other weights"), recipe(tiny_model("llama")):
        pass


def test_training_brings_the_masked_model_nearer_to_the_dense_one(tmp_path, text_file):
    found = trained(tmp_path, text_file, sparsity=0.8, tokens=64 * 150, lr=3e-3).quality
    before, after = (found[stage][str(text_file)] for stage in ("before", "after"))
    assert after.kl < 0.7 * before.kl
    assert after.perplexity_dense == before.perplexity_dense


def test_thresholds_are_steered_to_the_levels(tmp_path, text_file):
    trained(tmp_path, text_file, tokens=64 * 60, lr=3e-3)
    log = json.loads((tmp_path / "train.json").read_text())["log"]
    assert all(row["density"] == pytest.approx(0.5, abs=0.04) for row in log)
    assert set(log[0]["layers"]) == {"0", "1", "2"}


def test_each_layer_is_trained_on_its_own_before_all_together(tmp_path, text_file):
    found = trained(tmp_path, text_file, **ROUTED, sparsity=0.6, local_tokens=64 * 60, tokens=64 * 60, lr=3e-3).quality
    before, after = (found[stage][str(text_file)] for stage in ("before", "after"))
    log = json.loads((tmp_path / "train.json").read_text())["log"]
    assert [row["local"] for row in log] == [True] * 12 + [False] * 12
    local, end_to_end = [row["loss"] for row in log[:12]], [row["loss"] for row in log[12:]]
    assert sum(local[-2:]) < 0.9 * sum(local[:2])
    assert end_to_end[0] < 0.9 * before.kl  # layer by layer has helped the whole
    assert sum(end_to_end[-2:]) < 0.9 * sum(end_to_end[:2])
    assert after.kl < 0.7 * before.kl
    assert (tmp_path / "report.html").read_text().count("<picture>") == 3


def test_routers_are_learned_or_left_as_they_were(tmp_path, text_file):
    found = {}
    for name, options in {"start": {"tokens": 0}, "left": {"router_lr": 0.0}, "learned": {}}.items():
        trained(tmp_path / name, text_file, **ROUTED, **options)
        found[name] = load_recipe(tmp_path / name / "recipe").gates
    for start, left, learned in zip(*found.values(), strict=True):
        assert np.array_equal(start.router[0], left.router[0])
        assert not np.array_equal(start.router[0], learned.router[0])
        assert np.array_equal(start.blocks, learned.blocks)


def test_embeddings_and_head_stay_as_they_were(tmp_path, text_file):
    trained(tmp_path, text_file)
    was, now = tiny_model("llama").state_dict(), weights(tmp_path)
    same = [name for name in now if torch.equal(was[name], now[name])]
    assert sorted(same) == sorted(name for name in now if "embed" in name or "lm_head" in name)


def test_0_tokens_are_the_untrained_start(tmp_path, text_file):
    result = trained(tmp_path, text_file, tokens=0)
    was, now = tiny_model("llama").state_dict(), weights(tmp_path)
    assert all(torch.equal(was[name], now[name]) for name in now)
    assert result.recipe is not None
    assert result.quality["after"][str(text_file)].kl == pytest.approx(result.quality["before"][str(text_file)].kl)


def test_the_dense_twin_has_no_recipe_and_its_numbers_stand_in_the_page(tmp_path, text_file):
    trained(tmp_path, text_file, twin=True)
    assert not (tmp_path / "twin" / "recipe").exists()
    twin = json.loads((tmp_path / "twin" / "train.json").read_text())
    assert twin["options"]["objective"] == "lm"
    page = (tmp_path / "report.html").read_text()
    assert f"{twin['after'][str(text_file)]['perplexity']:.2f}" in page
    assert "dense twin, same tokens" in page


def test_the_page_fetches_nothing_and_says_what_was_not_done(tmp_path, text_file):
    trained(tmp_path, text_file)
    page = (tmp_path / "report.html").read_text()
    assert "No dense twin was trained" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<picture>") == 2


def test_adapters_are_merged_and_the_dense_model_stays_what_it_was(tmp_path, text_file):
    pytest.importorskip("peft")
    found = trained(tmp_path, text_file, lora=2).quality
    before, after = (found[stage][str(text_file)] for stage in ("before", "after"))
    assert after.perplexity_dense == before.perplexity_dense
    assert after.kl != before.kl
    model, _ = sa.load(str(tmp_path))  # an ordinary folder
    assert not any("lora" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("method", ["cats", "r-sparse"])
def test_checkpointed_activations_give_the_same_weights(tmp_path, text_file, method):
    trained(tmp_path / "plain", text_file, method)
    trained(tmp_path / "again", text_file, method, gradient_checkpointing=True)
    plain, again = weights(tmp_path / "plain"), weights(tmp_path / "again")
    assert all(torch.allclose(plain[name], again[name], atol=1e-6) for name in plain)


def test_texts_are_mixed_in_proportion(tmp_path, text_file):
    other = tmp_path / "other.txt"
    other.write_text("xyz " * 400)
    model, out = tiny_model("llama"), tmp_path / "out"
    sa.train(model, tiny_tokenizer(), [text_file, other], out=out, method="dense", proportions=(3, 1), **SMALL)
    assert set(json.loads((out / "train.json").read_text())["after"]) == {str(text_file), str(other)}


# --- going on


class KilledError(Exception):
    pass


def killed_after(monkeypatch, steps):
    real = loop_of_training._one_step

    def step(training, counts):
        if training.step == steps:
            raise KilledError
        return real(training, counts)

    monkeypatch.setattr(loop_of_training, "_one_step", step)


ROUTED = {"method": "block-router", "policy_options": {"block": 16}}


@pytest.mark.parametrize(
    "options",
    [
        {"method": "cats"},
        {"method": "dense"},
        {"method": "teal", "lora": 2},
        ROUTED | {"local_tokens": 320},
    ],
)
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, text_file, monkeypatch, options):
    trained(tmp_path / "whole", text_file, **options)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        killed_after(patch, 7)
        trained(tmp_path / "killed", text_file, **options, checkpoint_every=3)
    assert json.loads((tmp_path / "killed/checkpoint/checkpoint.json").read_text())["step"] == 6
    trained(tmp_path / "killed", text_file, **options, checkpoint_every=3)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    if options["method"] != "dense":
        pairs = zip(*(load_recipe(tmp_path / name / "recipe").gates for name in ("whole", "killed")), strict=True)
        for one, other in pairs:
            assert one.selector == other.selector
            assert all(np.array_equal(held, other.tensors()[name]) for name, held in one.tensors().items())


@pytest.mark.parametrize("change", [{"lr": 1e-4}, {"method": "teal"}, {"tokens": 1280}, {"seed": 1}])
def test_other_options_are_refused_and_named(tmp_path, text_file, change):
    trained(tmp_path, text_file)
    (name,) = change
    with pytest.raises(InputError, match=rf"^out: .*other options \({name} .* there, .* here\)") as error:
        trained(tmp_path, text_file, **change)
    assert "\n" not in str(error.value)


def test_other_weights_and_other_texts_are_refused(tmp_path, text_file):
    trained(tmp_path, text_file)
    with pytest.raises(InputError, match="other weights"):
        trained(tmp_path, text_file, model=tiny_model("llama", seed=1))
    other = text_file.with_name("other.txt")
    other.write_text(text_file.read_text()[:4000])
    with pytest.raises(InputError, match="other texts"):
        trained(tmp_path, other)


def test_a_folder_with_somebody_elses_model_is_left_alone(tmp_path, text_file):
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no training put there"):
        trained(tmp_path, text_file)


# --- mistakes


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(tmp_path, text_file, monkeypatch):
    real = loop_of_training._forward_and_backward

    def spoiled(training, counts):
        loss, density = real(training, counts)
        return (float("nan") if training.step == 7 else loss), density

    monkeypatch.setattr(loop_of_training, "_forward_and_backward", spoiled)
    with pytest.raises(InputError, match=r"^lr: .*not a number at step 8.*step 6 is kept"):
        trained(tmp_path, text_file, checkpoint_every=3)
    record = json.loads((tmp_path / "checkpoint/checkpoint.json").read_text())
    assert record["step"] == 6
    assert all(value.isfinite().all() for value in load_file(tmp_path / "checkpoint" / record["tensors"]).values())


def test_too_little_memory_is_said_before_it_begins(tmp_path, text_file, monkeypatch):
    def full(training, counts):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(loop_of_training, "_forward_and_backward", full)
    with pytest.raises(InputError, match=r"^batch: no memory"):
        trained(tmp_path, text_file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cat"}, "^method: unknown method 'cat'. Did you mean cats"),
        ({"method": "griffin"}, "^method: griffin .* cannot be trained"),
        ({"tokens": 63}, "^tokens: 63 are fewer than one step's"),
        ({"local_tokens": 63}, "^local_tokens: 63 are fewer than one step's"),
        ({"local_tokens": 640, "method": "dense"}, "^local_tokens: 640, but the dense twin has no mask"),
        ({"objective": "distil", "method": "dense"}, "^objective: distil, but the dense twin is the model that it"),
        ({"router_lr": -1.0}, "^router_lr: -1.0"),
        ({"window": 4}, "^window: 4 is less than 8"),
        ({"window": POSITIONS + 1, "batch": 1}, "^window: .* tokens are more than the model's"),
        ({"lr": float("nan")}, "^lr: nan"),
        ({"objective": "kl"}, "^objective: unknown value 'kl'"),
        ({"sparsity": 1.5}, "^sparsity: 1.5"),
        ({"proportions": (1, 2)}, "^proportions: 1, 2 for 1 texts"),
        ({"rate": 1}, "^rate: unknown option"),
        ({"policy_options": {"look": 0.5}}, "^option: the policy cats has no options"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(tmp_path, text_file, options, message):
    with pytest.raises(InputError, match=message) as error:
        trained(tmp_path / "out", text_file, **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_type_are_refused(tmp_path, text_file):
    with pytest.raises(InputError, match="bfloat16; training needs"):
        trained(tmp_path, text_file, model=tiny_model("llama").bfloat16())


def test_ctrl_c_says_where_it_goes_on(tmp_path, text_file, monkeypatch):
    real = loop_of_training._one_step

    def step(training, counts):
        if training.step == 7:
            raise KeyboardInterrupt
        return real(training, counts)

    monkeypatch.setattr(loop_of_training, "_one_step", step)
    with pytest.raises(KeyboardInterrupt) as stop:
        trained(tmp_path, text_file, checkpoint_every=3)
    assert "goes on from the checkpoint of step 6" in stop.value.__notes__[0]


def test_what_the_page_needs_is_asked_for_before_hours_of_work(tmp_path, text_file, monkeypatch):
    monkeypatch.setattr(errors, "find_spec", lambda package: None if package == "matplotlib" else package)
    with pytest.raises(MissingExtraError, match="matplotlib"):
        trained(tmp_path / "out", text_file)
    assert not (tmp_path / "out").exists()


def test_a_short_text_is_refused(tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("abc " * 10)
    with pytest.raises(InputError, match="two windows"):
        trained(tmp_path / "out", short)


def test_a_family_without_what_the_method_reads_is_refused(tmp_path, text_file):
    with pytest.raises(UnsupportedModelError, match="without an up projection"):
        trained(tmp_path / "out", text_file, "countdown", model=tiny_model("gpt2"))


def test_every_policy_but_those_of_the_prompt_can_be_trained():
    assert {"dense", "cats", "teal", "first-look"} <= set(methods())
    assert "griffin" not in methods()
    assert replace(Options(), method="teal").steps == 97
