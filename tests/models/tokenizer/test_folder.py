"""A tokenizer read from a folder is the one that transformers reads from it."""

import json
import subprocess
import sys

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from sparseact.errors import InputError
from sparseact.models import load, load_tokenizer
from sparseact.models.tokenizer import Tokenizer as OurTokenizer
from sparseact.testing import tiny_model, tiny_tokenizer

CALM = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
PARTS = st.sampled_from(
    ["the", " sky", "I'm", " 12", "\n\n", "    ", "<s>", "</s>", "<|user|>", " <|end|> ", "<tool>", "<new>", "é"]
)
TEXTS = st.lists(PARTS | st.text(max_size=3), max_size=12).map("".join)
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def same(folder, theirs):
    """Every text gives the same ids, and they the same text, by our tokenizer of the folder and by `theirs`."""
    ours, _ = load_tokenizer(str(folder))
    assert type(ours) is OurTokenizer

    @CALM
    @given(text=TEXTS, special=st.booleans())
    def equal(text, special):
        ids = ours.encode(text, add_special_tokens=special)
        assert ids == theirs.encode(text, add_special_tokens=special)
        assert ours.decode(ids, skip_special_tokens=special) == theirs.decode(
            ids, skip_special_tokens=special, clean_up_tokenization_spaces=False
        )

    equal()
    assert ours.special_tokens == theirs.special_tokens_map
    assert sorted(ours.all_special_tokens) == sorted(theirs.all_special_tokens)
    assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.get_vocab() == theirs.get_vocab()
    assert len(ours) == len(theirs)
    assert ours.chat_template == theirs.chat_template
    return ours


def backend_of(kind, bytes_vocabulary, pieces_vocabulary):
    """As the tokenizer.json of GPT-2 or Llama 3 (bytes), and of Llama 2 (pieces) has it."""
    if kind == "pieces":
        known = set(pieces_vocabulary)
        merges = [(p[:i], p[i:]) for p in pieces_vocabulary[262:] for i in range(1, len(p)) if {p[:i], p[i:]} <= known]
        ids = {piece: place for place, piece in enumerate(pieces_vocabulary)}
        backend = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        backend.decoder = decoders.Sequence(steps)
    else:
        tokens, merges = bytes_vocabulary
        backend = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<unk>", "<s>", "</s>", AddedToken("<|end|>", lstrip=True, rstrip=True, special=True)])
    backend.add_tokens(["<tool>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.enable_truncation(3)
    backend.enable_padding(length=8, pad_token="<unk>")
    return backend


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@pytest.mark.parametrize(
    ("config", "files"),
    [
        ({"add_bos_token": False, "add_eos_token": True}, {}),  # of no effect beside tokenizer.json
        ({"pad_token": "<pad>", "model_max_length": 4}, {}),
        ({"extra_special_tokens": ["<tool>", "<new>"]}, {}),
        ({"additional_special_tokens": ["<|user|>"]}, {}),
        ({"extra_special_tokens": {"image_token": "<new>"}, "tool_token": "<tool>"}, {}),
        ({"added_tokens_decoder": {"900": {"content": "<new>", "lstrip": True, "special": False}}}, {}),
        ({"added_tokens_decoder": {"5": {"content": "<tool>", "rstrip": True, "special": True}}}, {}),
        ({"pad_token": {"__type": "AddedToken", "content": "<new>", "lstrip": True}}, {}),
        ({"split_special_tokens": True}, {}),
        ({"chat_template": "a"}, {}),
        ({"chat_template": "a"}, {"chat_template.jinja": "b\n"}),
        ({"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}, {}),
        ({}, {"special_tokens_map.json": {"pad_token": {"content": "<new>", "rstrip": True}, "eos_token": "<s>"}}),
        ({}, {"special_tokens_map.json": {"additional_special_tokens": ["<|user|>"]}}),
        ({}, {"added_tokens.json": {"<new>": 900}}),
    ],
)
def test_tokenizer_json_and_what_lies_beside_it(tmp_path, bytes_vocabulary, pieces_vocabulary, kind, config, files):
    backend_of(kind, bytes_vocabulary, pieces_vocabulary).save(str(tmp_path / "tokenizer.json"))
    config = NAMED | {"tokenizer_class": "PreTrainedTokenizerFast"} | config
    for name, content in ({"tokenizer_config.json": config, "config.json": {"model_type": "llama"}} | files).items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    same(tmp_path, transformers.AutoTokenizer.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    ("config", "pre"),
    [
        ({"tokenizer_class": "GPT2Tokenizer"}, "gpt-2"),
        ({"tokenizer_class": "GPT2TokenizerFast", "add_bos_token": True}, "gpt-2"),
        (
            {
                "tokenizer_class": "Qwen2Tokenizer",
                "added_tokens_decoder": {"4": {"content": "<|end|>", "special": True}},
            },
            "qwen2",
        ),
    ],
)
def test_vocab_json_and_merges_txt(tmp_path, bytes_vocabulary, config, pre):
    tokens, merges = bytes_vocabulary
    (tmp_path / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(NAMED | {"pad_token": "<unk>"} | config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2" if pre == "gpt-2" else "qwen2"}))
    same(tmp_path, transformers.AutoTokenizer.from_pretrained(tmp_path))


def test_the_tiny_models_tokenizer(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    tiny_model("llama").save_pretrained(tmp_path)
    same(tmp_path, tiny_tokenizer())


@pytest.mark.smollm2
def test_smollm2s_folder(smollm2):
    from sparseact.models import cached_folder

    same(cached_folder("smollm2"), smollm2[1])


def test_a_class_that_knows_less_than_tokenizer_json_is_not_asked(tmp_path, bytes_vocabulary, pieces_vocabulary):
    """SmolLM2's folder names GPT2Tokenizer, which would drop the step that splits digits, on either side."""
    backend = backend_of("bytes", bytes_vocabulary, pieces_vocabulary)
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.no_truncation()
    tiny_model("llama").save_pretrained(tmp_path)
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(NAMED | {"tokenizer_class": "GPT2Tokenizer"}))
    _, theirs = load(str(tmp_path), device="cpu")
    ours = same(tmp_path, theirs)
    assert ours.encode("In  1984") == backend.encode("In  1984").ids


@pytest.mark.parametrize("damaged", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"added_tokens": 3, "bos_token": 3}'])
def test_damaged_files_are_one_line(tmp_path, damaged, content):
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / damaged).write_text(content)
    try:
        load_tokenizer(str(tmp_path))
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - an empty object is no damage in two of the files
        assert str(tmp_path) in str(error)  # noqa: PT017
    else:
        assert content.startswith("{}") or damaged != "tokenizer.json"


def test_other_kinds_say_that_they_need_transformers(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    code = (
        "import sys\n"
        "sys.modules['transformers'] = None\n"
        "from sparseact.models import load_tokenizer\n"
        "load_tokenizer(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert "has no tokenizer.json" in done.stderr.splitlines()[-1]
    assert "pip install 'sparseact[torch]'" in done.stderr.splitlines()[-1]
