"""A tokenizer without its model is the one that comes with it, and knows what ends a text."""

import json

import pytest

from sparseact.errors import InputError
from sparseact.masked.decoding import stop_tokens
from sparseact.models import describe_model, gguf_path, load, load_tokenizer, weights_path
from sparseact.testing import EOS, tiny_model, tiny_tokenizer

TEXT = "In 1984,  37 of 2001 \n\n 12a."


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_of_a_gguf_file(tiny_gguf):
    """Digits on their own, which transformers does not read from the file."""
    model, tokenizer = load(str(tiny_gguf), device="cpu")
    alone, ends = load_tokenizer(str(tiny_gguf))
    assert alone(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert ends == stop_tokens(model) == {2}


def test_of_a_folder(folder):
    alone, ends = load_tokenizer(str(folder))
    assert alone("Why?")["input_ids"] == tiny_tokenizer()("Why?")["input_ids"]
    assert ends == {EOS}


@pytest.mark.parametrize(("said", "ends"), [([1, 7], {1, 7}), (5, {5}), (None, set())])
def test_ends_are_those_of_the_generation_config(folder, said, ends):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": said}))
    model, _ = load(str(folder), device="cpu")
    assert load_tokenizer(str(folder))[1] == stop_tokens(model) == ends


def test_ends_without_a_generation_config_are_the_models(folder):
    (folder / "generation_config.json").unlink()
    model, _ = load(str(folder), device="cpu")
    assert load_tokenizer(str(folder))[1] == stop_tokens(model) == {EOS}


@pytest.mark.smollm2
def test_of_the_built_in_model(smollm2):
    model, tokenizer = smollm2
    alone, ends = load_tokenizer("smollm2")
    assert alone(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert ends == stop_tokens(model)
    assert weights_path("smollm2") == gguf_path("smollm2")


def test_a_folder_without_one_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot read its tokenizer") as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("find", [load_tokenizer, weights_path])
@pytest.mark.parametrize(
    ("name", "said"), [("smolm2", "Did you mean smollm2?"), ("./nowhere", "no such file or folder")]
)
def test_an_unknown_name_is_one_line(find, name, said):
    with pytest.raises(InputError, match=said):
        find(name)


def test_weights_are_where_they_were_given(folder, tiny_gguf):
    assert weights_path(str(folder)) == folder
    assert weights_path(str(tiny_gguf)) == tiny_gguf


def test_a_model_of_the_hub_comes_from_the_hubs_cache_without_a_network(folder, tmp_path_factory, monkeypatch):
    from huggingface_hub import constants

    cache = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    with pytest.raises(InputError, match="the hub cannot be reached and its cache has no copy"):
        weights_path("someone/tiny")
    copy = cache / "models--someone--tiny"
    (copy / "refs").mkdir(parents=True)
    (copy / "refs" / "main").write_text("0" * 40)
    (copy / "snapshots").mkdir()
    folder.rename(copy / "snapshots" / ("0" * 40))
    assert (weights_path("someone/tiny") / "model.safetensors").is_file()
    assert load_tokenizer("someone/tiny")[1] == {EOS}
    model, _ = load("someone/tiny", device="cpu")
    assert describe_model("someone/tiny", model)["source"] == "hub:someone/tiny@" + "0" * 40
