"""Prompts: what is read from each kind of file, and the line that is said about everything else."""

import json
import sys
from collections import Counter
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pytest
import torch
import transformers
from pyarrow import parquet

from sparseact.data import builtin_questions, check_context, encode_prompt, load_prompts, load_text
from sparseact.errors import InputError, MissingExtraError


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- built-in questions


def test_builtin_questions_are_many_and_different():
    questions = load_prompts()
    assert len(questions) >= 120
    assert len({question.lower() for question in questions}) == len(questions)
    assert all(question == question.strip() and len(question) > 15 for question in questions)
    assert load_prompts(limit=7) == questions[:7]
    assert load_prompts(limit=10_000) == questions


def test_any_part_of_the_builtin_questions_is_varied():
    kinds = [question["kind"] for question in builtin_questions()]
    assert len(set(kinds)) >= 12
    assert len(set(kinds[:12])) == 12
    middle = len(kinds) // 2
    for half in (kinds[:middle], kinds[middle:], kinds[::2], kinds[1::2]):
        counts = Counter(half)
        assert set(counts) == set(kinds)
        assert max(counts.values()) - min(counts.values()) <= 1


# --- files


def test_txt_has_a_prompt_a_line(tmp_path):
    path = write(tmp_path, "q.txt", "\ufeffWhy?\r\n\n  How so?  \n\t\nWhere\u2028now?\x0b!")
    assert load_prompts(path) == ["Why?", "How so?", "Where\u2028now?\x0b!"]
    assert load_prompts(str(path), limit=1) == ["Why?"]


@pytest.mark.parametrize(
    ("name", "content", "column", "prompts"),
    [
        ("q.csv", "id,question\n1,Why?\n\n2,\n3, How? \n", None, ["Why?", "How?"]),
        ("q.csv", 'text,prompt\na,"x, ""y""\nz"\n', None, ['x, "y"\nz']),
        ("q.csv", "text,prompt\na,b\n", "text", ["a"]),
        ("q.CSV", "anything\na\n", None, ["a"]),
        ("q.csv", "question\na\x0bb\n", None, ["a\x0bb"]),
        ("q.tsv", "id\ttext\n1\ta, b\n", None, ["a, b"]),
        ("q.jsonl", '"a"\n\n"b"\n', None, ["a", "b"]),
        ("q.jsonl", '{"question": "a", "n": 1}\n{"n": 2, "question": "ä"}\n', None, ["a", "ä"]),
        ("q.jsonl", '{"x": "a", "n": 1}\n{"x": null}\n"c"', None, None),
        ("q.jsonl", '{"x": "a", "n": 1}\n{"x": null}\n{"x": " "}', "x", ["a"]),
    ],
)
def test_tables(tmp_path, name, content, column, prompts):
    path = write(tmp_path, name, content)
    if prompts is None:
        with pytest.raises(InputError, match="say which column"):
            load_prompts(path, column=column)
    else:
        assert load_prompts(path, column=column) == prompts


def test_parquet(tmp_path):
    table = pa.table({"id": [1, 2, 3], "question": ["a", None, " b "], "other": ["x", "y", "z"]})
    parquet.write_table(table, tmp_path / "q.parquet")
    assert load_prompts(tmp_path / "q.parquet") == ["a", "b"]
    assert load_prompts(tmp_path / "q.parquet", column="other", limit=2) == ["x", "y"]
    with pytest.raises(InputError, match="Did you mean other"):
        load_prompts(tmp_path / "q.parquet", column="othr")
    with pytest.raises(InputError, match="1 is not text"):
        load_prompts(tmp_path / "q.parquet", column="id")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("q.txt", b"", "holds no prompts"),
        ("q.txt", b" \n\n\t\n", "holds no prompts"),
        ("q.txt", "Grüße".encode("latin-1"), "not UTF-8 text (byte 0xfc at offset 2)"),
        ("q.txt", "Why?".encode("utf-16"), "not UTF-8"),
        ("q.txt", b"a\nb\0c", "NUL character at line 2"),
        ("q.csv", b"", "holds no prompts"),
        ("q.csv", b"question\n", "holds no prompts"),
        ("q.csv", b"a,b\n1,2\n", "say which column holds the prompts; there are a, b"),
        ("q.csv", b"question,b\n1,2\n3\n", "line 3 has 1 fields, the header has 2"),
        ("q.csv", b'question\n"open', "line 2"),
        ("q.csv", b"question,question\n1,2\n", "2 columns called 'question'"),
        ("q.jsonl", b'"a"\n{"question": }\n', "line 2: not JSON"),
        ("q.jsonl", b'"a"\n7\n', "line 2: 7 is not text"),
        ("q.jsonl", b'{"question": ["a"]}\n', "line 1: ['a'] is not text"),
        ("q.jsonl", b'{"question": "a"}\n{"query": "b"}\n', "line 2: unknown column 'question'"),
        ("q.jsonl", b"{}\n", "there are none"),
        ("q.jsonl", b'"\\ud800"\n', "not text"),
        ("q.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("q.jsonl", b"9" * 10_000, "line 1: not JSON"),
        ("q.parquet", b"", "not a whole parquet file"),
        ("q.parquet", b"PAR1 and no more", "not a whole parquet file"),
        ("q.docx", b"PK", "unknown kind of file"),
        ("q", b"text", "unknown kind of file"),
    ],
)
def test_bad_files_are_one_line_that_names_the_file(tmp_path, name, content, says):
    path = write(tmp_path, name, content)
    with pytest.raises(InputError) as error:
        load_prompts(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("none.csv", "no such file"),
        ("folder/none", "no such file"),
        (".", "is a folder"),
        ("truthfulqa", "Did you mean truthful_qa"),
        ("x" * 5000, "is not a path"),
        ("a\0b.txt", "no such file"),
    ],
)
def test_bad_names_are_one_line(source, says):
    with pytest.raises(InputError, match=says):
        load_prompts(source)


def test_options_that_would_do_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"column.*built-in"):
        load_prompts(column="question")
    with pytest.raises(InputError, match=r"column.*no columns"):
        load_prompts(write(tmp_path, "q.txt", "a"), column="question")
    with pytest.raises(InputError, match=r"column.*not an object"):
        load_prompts(write(tmp_path, "q.jsonl", '"a"'), column="question")
    with pytest.raises(InputError, match="Did you mean question"):
        load_prompts(write(tmp_path, "q.csv", "question,answer\na,b\n"), column="qestion")
    for limit in (0, -3):
        with pytest.raises(InputError, match="limit"):
            load_prompts(limit=limit)


def test_load_text(tmp_path):
    text = "One line.\n\nAnother one.\n"
    assert load_text(write(tmp_path, "t.txt", text)) == text
    assert load_text(write(tmp_path, "t.jsonl", '"a"\n"b"')) == "a\n\nb"
    for source in (write(tmp_path, "e.txt", " \n"), tmp_path / "none.txt"):
        with pytest.raises(InputError, match=str(source)):
            load_text(source)


# --- data sets of the hub: here only what happens without them


def test_a_data_set_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sparseact\[datasets\]'"):
        load_prompts("truthful_qa")


def test_a_data_set_without_a_network_is_one_line(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach 'truthfulqa/truthful_qa' on the Hub\nmore about it")

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(InputError, match=r"^prompts: truthful_qa cannot be loaded .* on the Hub$"):
        load_prompts("truthful_qa")


# --- token ids


def test_chat_templates_are_used_where_there_is_one(smollm2):
    _, tokenizer = smollm2
    ids = encode_prompt(tokenizer, "Why is the sky blue?")
    assert ids.dtype == torch.int64
    assert ids.shape[0] == 1
    text = tokenizer.decode(ids[0])
    assert text.endswith("<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(encode_prompt(tokenizer, "Why is the sky blue?", chat=False)[0]) == "Why is the sky blue?"
    with pytest.raises(InputError, match="gives no tokens"):
        encode_prompt(tokenizer, "", chat=False)


def test_a_base_model_gets_the_plain_text(tiny_gguf):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name)
    assert tokenizer.chat_template is None
    assert tokenizer.decode(encode_prompt(tokenizer, "ab 1")[0]) == "ab 1"
    tokenizer.chat_template = "{{ raise_exception('only\nassistants') }}"
    with pytest.raises(InputError, match=r"\(only assistants\); `chat` off"):
        encode_prompt(tokenizer, "ab 1")


def test_a_prompt_longer_than_the_context_is_refused():
    config = transformers.GPT2Config(n_positions=16)
    check_context(config, 10, 6, index=3)
    with pytest.raises(InputError, match=r"prompt 3: 10 tokens and 7 new ones .* context of 16"):
        check_context(config, 10, 7, index=3)
    unlimited = SimpleNamespace(get_text_config=SimpleNamespace)
    check_context(unlimited, 10**6, 1, index=0)


def test_the_questions_file_holds_nothing_else():
    for question in builtin_questions():
        assert set(question) == {"kind", "question"}
        json.dumps(question)
