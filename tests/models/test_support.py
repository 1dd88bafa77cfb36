"""What is said of a model before it is loaded, and of what parts of a larger one."""

import json
import re

import pytest
import torch
import transformers
from gguf_files import write_gguf
from safetensors.torch import load_file, save_file

import sparseact as sa
from sparseact.calibration.neurons import find_neurons
from sparseact.cli import main
from sparseact.engine.engine import Engine
from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models import support_of
from sparseact.policies.registry import POLICIES, unfit_policies
from sparseact.testing import FAMILIES, tiny_model, tiny_tokenizer

IDS = torch.randint(3, 60, (1, 12), generator=torch.Generator().manual_seed(0))


def config_of(tmp_path, **values):
    (tmp_path / "config.json").write_text(json.dumps(values))
    return str(tmp_path)


@pytest.mark.parametrize("name", ["nemotron", "bitnet", "phi4-mini", "gpt2"])
def test_a_config_alone_says_what_runs(name, tmp_path):
    found = support_of(config_of(tmp_path, **FAMILIES[name]().to_dict()))
    assert (found.torch, found.engine, found.gguf) == ("", "", "")
    assert found.context == {"phi4-mini": 96}.get(name, 128)
    assert bool(found.why_context) == (name == "phi4-mini")
    assert found.gated == (name in {"bitnet", "phi4-mini"})
    assert found.norms_neurons == (name == "bitnet")


def test_a_gguf_file_says_what_runs(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", tiny_model("arcee"), "arcee", "F32")
    assert support_of(str(tmp_path / "tiny.gguf")).record()["runs"] == {"torch": True, "engine": True, "gguf": True}


def test_why_it_does_not_run(tmp_path):
    hybrid = FAMILIES["granite4"]().to_dict() | {"layer_types": ["mamba", "attention", "attention"]}
    found = support_of(config_of(tmp_path, **hybrid))
    assert (found.torch, found.gated) == ("", True)
    assert "with layers of type mamba: it has no state-space layers" in found.engine
    found = support_of(config_of(tmp_path, model_type="mixtral"))
    assert found.torch.startswith("'mixtral' is not known")
    assert found.record()["runs"] == {"torch": False, "engine": False, "gguf": False}
    with pytest.raises(InputError, match="no such file or folder"):
        support_of(str(tmp_path / "nothing" / "at" / "all"))


def test_weights_that_are_there_are_compared_with_the_config_by_their_headers(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert support_of(str(tmp_path)).engine == "the tensor model.norm.weight is missing"


def test_the_command(tmp_path, capsys):
    assert main(["models", "--check", config_of(tmp_path, **FAMILIES["nemotron"]().to_dict())]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", "torch", "engine", "GGUF", "policies"]
    assert re.search("without chess, countdown, which need an up projection", lines[-1])
    assert main(["models", "--check", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == {"torch": True, "engine": True, "gguf": True}
    assert main(["models", "--check", str(tmp_path / "none")]) == 2
    assert "--check: no such file" in capsys.readouterr().err


def test_policies_that_a_model_is_not_fit_for_refuse_it():
    """What is said beforehand is what happens."""
    assert set(unfit_policies(gated=False, norms_neurons=False)) == {"chess", "countdown"}
    assert {"cats", "griffin", "top-k"} < set(unfit_policies(gated=True, norms_neurons=True)) < set(POLICIES)
    for name, reason in (("bitnet", "norms its neurons"), ("apertus", "weights of its own")):
        with pytest.raises(UnsupportedModelError, match=reason):
            find_neurons(tiny_model(name))


SEES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}


def seeing(name):
    text, vision = FAMILIES[name]().to_dict(), SEES | {"patch_size": 14}
    if name == "gemma3":
        tokens = {"image_token_index": 61, "boi_token_index": 62, "eoi_token_index": 63}
        config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)
        model = transformers.Gemma3ForConditionalGeneration(config)
    else:
        vision |= {"model_type": "pixtral", "head_dim": 16}
        config = transformers.Mistral3Config(text_config=text, vision_config=vision, image_token_index=61)
        model = transformers.Mistral3ForConditionalGeneration(config)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval()


@pytest.mark.parametrize("names", ["published", "transformers 5"])
@pytest.mark.parametrize("name", ["gemma3", "ministral3"])
def test_a_model_that_sees_runs_as_its_language_model(name, names, tmp_path):
    model = seeing(name)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits[0]
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    if names == "transformers 5":
        tensors = load_file(tmp_path / "model.safetensors")
        moved = {
            name.replace("language_model.model.", "model.language_model."): value for name, value in tensors.items()
        }
        save_file(moved, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = sa.load(str(tmp_path), device="cpu")[0]
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits[0], expected, rtol=0, atol=0)
    with Engine.from_model(tmp_path, dtype="f32", threads=1) as engine:
        torch.testing.assert_close(torch.from_numpy(engine.prefill(IDS[0].numpy())), expected[-1], rtol=0, atol=1e-4)
    assert support_of(str(tmp_path)).engine == ""


def test_what_the_published_config_of_gemma_3_leaves_out():
    """That of the 4B names six things of its language model; the rest is transformers' default."""
    from sparseact.models.families import read_config, text_config

    said = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    rope = {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
    config = {"model_type": "gemma3", "text_config": said | rope | {"model_type": "gemma3_text"}}
    whole = transformers.Gemma3Config(text_config=said | rope).text_config.to_dict()
    assert read_config(text_config(config), "") == read_config(whole, "")
