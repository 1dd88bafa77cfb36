"""A tokenizer read from a GGUF file: as its model defines it, and as transformers reads it where that is right."""

import subprocess
import sys

import pytest
import transformers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from sparseact.errors import InputError
from sparseact.models import gguf_path, load_tokenizer
from sparseact.models.hf import as_transformers
from sparseact.models.sources.gguf_header import read_header, read_list
from sparseact.models.tokenizer.pipelines import SPLITS

CALM = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
WORDS = st.sampled_from(
    [
        "the",
        " sky",
        "I'M",
        "'d",
        " 12",
        "34567",
        "½",
        " ²",
        "\n",
        "\r\n",
        "\t",
        "    ",
        "_x",
        "!?",
        "日本語",
        "é",
        "e\u0301",
        "😀",
        "\0",
    ]
)
SPECIAL = st.sampled_from(["<s>", "</s>", "<|user|>", "<|end|>", "<tool>"])
PLAIN = st.lists(WORDS | st.text(max_size=3), max_size=12).map("".join)
TEXTS = st.lists(WORDS | SPECIAL | st.text(max_size=3), max_size=12).map("".join)


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.fixture(scope="module")
def read(tmp_path_factory, write_gguf, bytes_vocabulary, pieces_vocabulary):
    """A function that writes a tokenizer and gives the one that was read, and transformers' reading of it, once."""
    known = {}

    def find(kind, **about):
        key = (kind, *about.items())
        if key not in known:
            vocabulary = bytes_vocabulary if kind == "gpt2" else (pieces_vocabulary,)
            path = write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", kind, *vocabulary, **about)
            theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            known[key] = load_tokenizer(str(path))[0], theirs
        return known[key]

    return find


# --- byte-level BPE


@CALM
@given(text=TEXTS)
@example(text="In 1984,  37 of 2001 \n\n 12a.")
@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o"])
def test_byte_level_is_as_transformers_reads_it(read, pre, text):
    ours, theirs = read("gpt2", pre=pre)
    if pre == "qwen2":  # whose own tokenizer composes characters first, and transformers' reading of GGUF does not
        text = normalizers.NFC().normalize_str(text)
    ids = ids_of(ours, text)
    assert ids == ids_of(theirs, text)
    assert ours.decode(ids) == theirs.decode(ids) == text
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


@CALM
@given(text=TEXTS)
def test_smollms_digits_are_split(read, bytes_vocabulary, text):
    """Against the pipeline of SmolLM's own tokenizer.json, which transformers does not make of the file."""
    ours, _ = read("gpt2", pre="smollm")
    tokens, merges = bytes_vocabulary
    backend = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    text = text.replace("<", "")
    assert ids_of(ours, text) == backend.encode(text).ids


TEXT = "I'M 12345 a\n\n b!?"


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["I", "'", "M", " 12345", " a", "\n\n", " b", "!?"]),
        ("smollm", ["I", "'", "M", " ", "1", "2", "3", "4", "5", " a", "\n\n", " b", "!?"]),
        ("llama-bpe", ["I", "'M", " ", "123", "45", " a", "\n\n", " b", "!?"]),
        ("qwen2", ["I", "'M", " ", "1", "2", "3", "4", "5", " a", "\n\n", " b", "!?"]),
        ("tekken", ["I", "'M", " ", "1", "2", "3", "4", "5", " a", "\n\n", " b", "!?"]),
        ("gpt-4o", ["I'M", " ", "123", "45", " a", "\n\n", " b", "!?"]),
        ("deepseek-v3", ["I", "'M", " ", "123", "45", " a", "\n\n", " b", "!?"]),
        ("default", ["I", "'", "M", " ", "123", "45", " a", "\n\n", " b", "!?"]),
    ],
)
def test_what_cuts_a_text_before_bpe(read, pre, pieces):
    tokenizer, _ = read("gpt2", pre=pre)
    spelled = tokenizer.backend.pre_tokenizer.pre_tokenize_str(TEXT)
    assert [decoders.ByteLevel().decode([piece]) for piece, _ in spelled] == pieces


def test_all_expressions_are_valid():
    for splits in SPLITS.values():
        for split in splits:
            assert pre_tokenizers.Split(Regex(split), "isolated").pre_tokenize_str("ab 1")


def test_a_word_is_taken_whole_where_the_model_does_so(tmp_path, write_gguf, bytes_vocabulary):
    tokens, merges = bytes_vocabulary
    for pre, whole in (("llama-bpe", True), ("gpt-2", False)):
        path = write_gguf(tmp_path / f"{pre}.gguf", "gpt2", [*tokens, "zqxj"], merges, pre=pre)
        ids = ids_of(load_tokenizer(str(path))[0], "zqxj")
        assert (ids == [len(tokens)]) == whole


# --- SentencePiece


def slow_pieces(text, tokens, scores):
    """SentencePiece's BPE by its definition: join the neighbours that make the best piece, the first of equals."""
    symbols = list(text)
    while True:
        joined = [
            (scores[pair], -place)
            for place in range(len(symbols) - 1)
            if (pair := symbols[place] + symbols[place + 1]) in scores
        ]
        if not joined:
            break
        place = -max(joined)[1]
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
    found = []
    for symbol in symbols:
        found += [tokens.index(symbol)] if symbol in scores else [tokens.index(f"<0x{b:02X}>") for b in symbol.encode()]
    return found


@CALM
@given(text=PLAIN)
@example(text="ab")
@example(text="  ab")
@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_is_its_definition(read, pieces_vocabulary, prefix, text):
    ours, _ = read("llama", add_space_prefix=prefix)
    scores = {token: -place for place, token in enumerate(pieces_vocabulary) if place >= 262}
    spelled = text.replace(" ", "▁").replace("<", "")
    if prefix and spelled and not spelled.startswith("▁"):
        spelled = "▁" + spelled
    assert ids_of(ours, text.replace("<", "")) == slow_pieces(spelled, pieces_vocabulary, scores)


@CALM
@given(text=PLAIN)
def test_sentencepiece_is_as_transformers_reads_it(read, text):
    ours, theirs = read("llama")
    assert ours.encode(text) == theirs.encode(text)
    ids = ids_of(ours, text)
    assert ours.decode(ids) == theirs.decode(ids)


@CALM
@given(text=TEXTS)
def test_gemmas_is_as_transformers_reads_it(read, text):
    ours, theirs = read("llama", family="gemma3", add_space_prefix=False, add_bos_token=True)
    assert ours.encode(text) == theirs.encode(text)
    ids = ids_of(ours, text)
    assert ours.decode(ids) == theirs.decode(ids) == text


def test_a_space_before_the_text_only_where_the_file_says_so(read):
    with_prefix, without = (read("llama", add_space_prefix=prefix)[0] for prefix in (True, False))
    assert with_prefix.backend.encode("no", add_special_tokens=False).tokens[0].startswith("▁")
    assert not without.backend.encode("no", add_special_tokens=False).tokens[0].startswith("▁")
    for tokenizer in (with_prefix, without):
        assert tokenizer.decode(ids_of(tokenizer, "no")) == "no"


def test_a_space_comes_behind_special_tokens_too_but_not_twice(read):
    tokenizer, _ = read("llama", add_space_prefix=True)
    for text in ("<|user|>no", "<|user|> no"):
        assert tokenizer.backend.encode(text, add_special_tokens=False).tokens == ["<|user|>", "▁no"]


def test_phi3s_special_tokens_take_the_white_space_behind_them(read):
    tokenizer, _ = read("llama", family="phi3")
    assert ids_of(tokenizer, "<|user|>\nno<|end|>\n") == ids_of(tokenizer, "<|user|>no<|end|>")
    assert ids_of(tokenizer, "<s>\nno") != ids_of(tokenizer, "<s>no")


# --- both


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(("bos", "eos"), [(False, False), (True, False), (True, True)])
def test_what_texts_begin_and_end_with(read, kind, bos, eos):
    tokenizer, _ = read(kind, pre="gpt-2", add_bos_token=bos, add_eos_token=eos)
    inner = ids_of(tokenizer, "why")
    assert tokenizer.encode("why") == [1] * bos + inner + [2] * eos


@pytest.mark.parametrize(("kind", "pre", "bos"), [("gpt2", "gpt-2", 0), ("gpt2", "llama-bpe", 1), ("llama", "", 1)])
def test_what_texts_begin_with_where_the_file_does_not_say(read, kind, pre, bos):
    tokenizer, _ = read(kind, pre=pre)
    assert tokenizer.encode("why") == [1] * bos + ids_of(tokenizer, "why")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_special_tokens_are_found_and_skipped(read, kind):
    tokenizer, _ = read(kind, pre="gpt-2", add_space_prefix=False)
    ids = ids_of(tokenizer, "no<|end|>no<tool>")
    assert ids.count(4) == ids.count(5) == 1
    assert tokenizer.decode(ids) == "no<|end|>no<tool>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "nono<tool>"
    assert tokenizer.all_special_ids == [1, 2, 0]
    assert tokenizer.get_vocab()["<tool>"] == 5


@pytest.mark.parametrize(("kind", "texts"), [("gpt2", ["no     no"]), ("llama", ["no     no", "no▁▁▁ ▁no"])])
def test_a_users_token_of_spaces_is_found(tmp_path, write_gguf, bytes_vocabulary, pieces_vocabulary, kind, texts):
    vocabulary = bytes_vocabulary if kind == "gpt2" else (pieces_vocabulary,)
    tokens, *merges = vocabulary
    five = " " * 5
    path = write_gguf(tmp_path / "a.gguf", kind, [*tokens, five], *merges, users=[five], pre="gpt-2")
    tokenizer, _ = load_tokenizer(str(path))
    for text in texts:
        ids = ids_of(tokenizer, text)
        assert ids.count(len(tokens)) == 1
        assert tokenizer.decode(ids) == "no     no"


@CALM
@given(text=TEXTS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_transformers_gets_the_same_one(read, kind, text):
    tokenizer, _ = read(kind, pre="smollm", chat_template="x")
    theirs = as_transformers(tokenizer)
    assert tokenizer.encode(text) == theirs.encode(text) == theirs(text)["input_ids"] == tokenizer(text).input_ids
    assert tokenizer.special_tokens == theirs.special_tokens_map
    assert tokenizer.all_special_ids == theirs.all_special_ids
    assert (len(tokenizer), tokenizer.eos_token_id) == (len(theirs), theirs.eos_token_id)


def test_every_end_token_that_the_file_names_ends_a_text(tmp_path, write_gguf, bytes_vocabulary):
    path = write_gguf(tmp_path / "a.gguf", "gpt2", *bytes_vocabulary, pre="gpt-2", eot_token_id=4, eom_token_id=5)
    assert load_tokenizer(str(path))[1] == {2, 4, 5}


def test_a_padding_token_outside_the_vocabulary_is_none(tmp_path, write_gguf, bytes_vocabulary):
    path = write_gguf(tmp_path / "a.gguf", "gpt2", *bytes_vocabulary, pre="gpt-2", padding_token_id=100_000)
    assert "pad_token" not in load_tokenizer(str(path))[0].special_tokens


@pytest.mark.parametrize(
    ("model", "about", "said"),
    [
        ("rwkv", {}, "a tokenizer of kind 'rwkv' is not known; known: gpt2, llama"),
        ("gpt2", {"pre": "new"}, "the pre-tokenizer 'new' of this GGUF file is not known"),
        ("llama", {"scores": [1, 2]}, "the tokenizer of this GGUF file is damaged"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, write_gguf, bytes_vocabulary, model, about, said):
    path = write_gguf(tmp_path / "a.gguf", model, *bytes_vocabulary, **about)
    with pytest.raises(InputError, match=said) as error:
        load_tokenizer(str(path))
    assert "\n" not in str(error.value)


def test_lists_are_read_when_asked_for(tmp_path, write_gguf, bytes_vocabulary):
    tokens, merges = bytes_vocabulary
    header = read_header(write_gguf(path := tmp_path / "a.gguf", "gpt2", tokens, merges, numbers=list(range(5000))))
    assert "tokenizer.ggml.tokens" not in header.metadata
    assert read_list(path, header.lists["tokenizer.ggml.tokens"]) == tokens
    assert read_list(path, header.lists["tokenizer.ggml.merges"]) == [" ".join(merge) for merge in merges]
    assert read_list(path, header.lists["tokenizer.ggml.numbers"]) == list(range(5000))


@pytest.mark.smollm2
def test_smollm2s_file_and_folder_hold_the_same(smollm2):
    from_file, from_folder = load_tokenizer(str(gguf_path("smollm2")))[0], load_tokenizer("smollm2")[0]

    @CALM
    @given(text=TEXTS | st.sampled_from(["<|im_end|>\nIn 1984,  37 of 2001 \n\n 12a."]))
    def same(text):
        ids = from_file.encode(text)
        assert ids == from_folder.encode(text) == smollm2[1](text).input_ids
        assert from_file.decode(ids) == from_folder.decode(ids) == smollm2[1].decode(ids)

    same()
    assert from_file.get_vocab() == from_folder.get_vocab()
    assert from_file.special_tokens == from_folder.special_tokens
    assert from_file.chat_template == from_folder.chat_template


def test_neither_torch_nor_transformers_is_needed(tiny_gguf, tmp_path, write_gguf, pieces_vocabulary):
    pieces = write_gguf(tmp_path / "a.gguf", "llama", pieces_vocabulary)
    code = (
        "import sys\n"
        "from sparseact.data import prompt_ids\n"
        "from sparseact.models import load_tokenizer\n"
        "for path in sys.argv[1:]:\n"
        "    tokenizer, ends = load_tokenizer(path)\n"
        "    assert tokenizer.decode(prompt_ids(tokenizer, 'no'), skip_special_tokens=True) == 'no'\n"
        "assert 'jinja2' not in sys.modules\n"
        "tokenizer.chat_template = '{{ messages[0].content }}'\n"
        "assert prompt_ids(tokenizer, 'no')\n"
        "print({'torch', 'transformers', 'huggingface_hub', 'numba'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny_gguf, pieces], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")
