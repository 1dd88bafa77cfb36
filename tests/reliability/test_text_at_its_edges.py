"""Text at its edges: stop strings of special tokens, bytes that are no text, terminals that print less, any csv."""

import io
import json
import os
import subprocess
import sys

import pytest

import sparseact as sa
from sparseact.cli import USERS_MISTAKE, main
from sparseact.data import load_prompts, prompt_ids
from sparseact.data.windows import cut_text
from sparseact.engine.engine import Engine
from sparseact.errors import InputError
from sparseact.generation import answer
from sparseact.generation.stream import TextStream
from sparseact.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model that answers with the special tokens of its tokenizer too."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def stream(tokens, stop):
    pieces = []
    made = TextStream(tiny_tokenizer(), stop, pieces.append)
    count = next((count for count, token in enumerate(tokens, start=1) if made.add(token)), len(tokens))
    text = made.end()
    assert "".join(pieces) == text
    return text, count


@pytest.mark.parametrize(
    ("answer", "stop", "text", "tokens"),
    [
        ("ab<s>c", ["<s>"], "a b", 3),
        ("ab<s>c", ["<s>", "<unk>"], "a b", 3),
        ("ab<s>c", ["b<s>"], "a ", 3),  # the words of this tokenizer stand apart
        ("ab<s>c", ["b<s> c"], "a ", 4),
        ("ab<s>c", ["b<s> d"], "a b c", 4),
        ("ab<s><s>c", ["<s><s>"], "a b", 4),
        ("ab<s>c<s><s>", ["<s><s>"], "a b c", 6),
        ("ab<s>c", ["b c"], "a ", 4),  # a string without special tokens does not see them
        ("ab<pad>c<s>", ["<s>"], "a b c", 5),
        ("<s>ab", ["<s>"], "", 1),
    ],
)
def test_special_tokens_in_stop_strings(answer, stop, text, tokens):
    assert stream(tiny_tokenizer()(answer).input_ids, stop) == (text, tokens)


def test_a_special_token_stops_either_backend(model):
    tokenizer = tiny_tokenizer()
    first = Engine.from_model(str(model), dtype="f32", threads=1)
    torchs, _ = sa.load(str(model), device="cpu")
    prompt = next(p for p in map("Why {}?".format, range(99)) if 2 in _answer(first, tokenizer, p)[1:])
    place = _answer(first, tokenizer, prompt).index(2)
    for runs in (first, torchs):
        found = sa.generate(runs, tokenizer, prompt, max_new_tokens=20, ends=(), stop=["</s>"])
        assert found.tokens == place + 1
        assert "</s>" not in found.text


def _answer(engine, tokenizer, prompt):
    engine.reset()
    engine.prefill(prompt_ids(tokenizer, prompt))
    return engine.greedy(20)


def test_every_end_that_the_files_name_ends_the_text_of_an_engine_too(model, tmp_path):
    tokenizer = tiny_tokenizer()
    with Engine.from_model(str(model), dtype="f32", threads=1) as engine:
        tokens = _answer(engine, tokenizer, "Why?")
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, tokens[5]]}))
    loaded, _ = sa.load(str(tmp_path), device="cpu")
    for source in (str(tmp_path), tmp_path, loaded):
        with Engine.from_model(source, dtype="f32", threads=1) as engine:
            assert sa.generate(engine, tokenizer, "Why?", max_new_tokens=20).tokens == tokens.index(tokens[5]) + 1


# Bytes that are not UTF-8

LATIN = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--prompt", LATIN),
        ("generate", "--prompt", LATIN, "--engine", "torch"),
        ("generate", "--prompt", "hi", "--stop", LATIN),
        ("generate", "--prompt", "hi", "--recipe", LATIN),
        ("score", "--prompt", LATIN),
        ("calibrate", "--sparsity", "0.4", "--text", "latin.txt"),
        ("eval", "--text", LATIN),
        ("eval", "--text", "latin.csv"),
        ("sweep", "--prompts", "latin.txt"),
        ("sweep", "--prompts", "latin.jsonl"),
    ],
)
def test_what_is_not_utf_8_is_one_line(arguments, model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(answer, "PATIENCE", 1e6)
    for kind, text in {"txt": b"caf\xe9", "csv": b"text\ncaf\xe9\n", "jsonl": b'"caf\xe9"\n'}.items():
        (tmp_path / f"latin.{kind}").write_bytes(text)
    assert main([*arguments, "--model", str(model)]) == USERS_MISTAKE
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:11]) == ("", 1, "sparseact: ")


def test_half_characters_are_no_text_in_python_either():
    with pytest.raises(InputError, match="prompt: character 4 is half of one"):
        prompt_ids(tiny_tokenizer(), LATIN)
    with pytest.raises(InputError, match="text: character 2 is half of one"):
        cut_text(tiny_tokenizer(), "a\ud83d", context=8, stride=4)
    with pytest.raises(InputError, match="stop: character 1 is half of one"):
        TextStream(tiny_tokenizer(), ["\ude00"], print)


# Terminals

SAYS = """
import sys
from sparseact.cli import app, main
from sparseact.cli.options import Shared
{}
sys.exit(main(['say']))
"""
PLAIN = "app.command(lambda: 'é 😀 \\udce9', name='say')"
JSON = "app.command(lambda: Shared(json=True).answer({'text': 'é 😀 \\udce9'}, ''), name='say')"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252", "utf-8:strict"])
def test_a_terminal_that_cannot_print_a_character_gets_it_escaped(encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    plain, record = (
        subprocess.run([sys.executable, "-c", SAYS.format(code)], capture_output=True, env=environment, check=False)
        for code in (PLAIN, JSON)
    )
    assert (plain.returncode, plain.stderr, record.returncode, record.stderr) == (0, b"", 0, b"")
    name = encoding.partition(":")[0]
    assert plain.stdout.decode(name).rstrip() == "é 😀 \udce9".encode(name, "backslashreplace").decode(name)
    assert json.loads(record.stdout.decode(name)) == {"text": "é 😀 \udce9"}


def test_a_prompt_that_begins_with_a_dash(model, capsys):
    generate = ("generate", "--model", str(model), "--threads", "1", "--max-new-tokens", "2", "--dtype", "f32")
    for option, value in (("--prompt", "-5 + 3 ="), ("--prompt", "-x"), ("--stop", "--"), ("--stop", "-> ")):
        rest = () if option == "--prompt" else ("--prompt", "hi")
        assert main([*generate, *rest, option, value]) == USERS_MISTAKE
        assert f"{option}: its value begins with a dash; write {option}='{value}'" in capsys.readouterr().err.replace(
            f"={value}", f"='{value}'"
        )
        assert main([*generate, *rest, f"{option}={value}"]) == 0
        capsys.readouterr()
    assert main([*generate, "--prompt", "--json"]) == USERS_MISTAKE
    assert "--prompt requires an argument" in capsys.readouterr().err


# Tables


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("a.csv", "question;answer\nWhy, so?;b\nHow, so;c\n", ["Why, so?", "How, so"]),
        ("a.csv", "sep=;\nquestion;answer\na;b\n", ["a"]),
        ("a.csv", "SEP=#\nquestion#answer\na#b\n", ["a"]),
        ("a.csv", "question\tanswer\na, b\tc\n", ["a, b"]),
        ("a.csv", "question|answer\na;b|c\n", ["a;b"]),
        ("a.csv", '\ufeff"question";"n"\r\n"a;b\r\nc";1,5\r\n', ["a;b\nc"]),
        ("a.csv", "id;question;n\n1,5;a;2,5\n2,5;b;2,5\n", ["a", "b"]),
        ("a.csv", "question\nHow; so?\nWhy\tso?\n", ["How; so?", "Why\tso?"]),
        ("a.csv", "question\n" + "x" * 300_000 + "\n", ["x" * 300_000]),
        ("a.csv", "question,n\n" + "a,1\n" * 20_000, ["a"] * 20_000),
        ("a.tsv", "question,n\na\tb,1\n", ["a\tb"]),
    ],
)
def test_tables_of_every_separator_and_size(name, text, prompts, tmp_path):
    (tmp_path / name).write_bytes(text.encode())
    assert load_prompts(tmp_path / name) == prompts


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("question;answer\na;b\nc\n", r"line 3 has 1 fields, the header has 2 \(columns are separated by ';'\)"),
        ("question,answer\na,b,c\n", r"line 2 has 3 fields, the header has 2 \(columns are separated by ','\)"),
        ("x;y\na;b\n", r"say which column holds the prompts; there are x, y \(columns are separated by ';'\)"),
    ],
)
def test_a_table_that_is_refused_names_the_separator(text, says, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        load_prompts(tmp_path / "a.csv")


def test_files_are_utf_8_whatever_the_machine_speaks(tmp_path):
    """A place that is not ASCII, in a locale that has no such letters."""
    code = f"""
import sys, locale
from pathlib import Path
from sparseact.utils.plain_json import read_json, write_json
assert locale.getpreferredencoding(False).lower() != "utf-8", locale.getpreferredencoding(False)
write_json(Path({str(tmp_path)!r}) / "a.json", {{"text": "\\u00e9\\u4e2d"}})
assert read_json(Path({str(tmp_path)!r}) / "a.json") == {{"text": "\\u00e9\\u4e2d"}}
"""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_nothing_reads_or_writes_text_in_the_encoding_of_the_machine():
    from pathlib import Path

    import sparseact

    found = []
    for file in Path(sparseact.__file__).parent.rglob("*.py"):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            opens = ".read_text()" in line or ("path.write_text(" in line and "encoding" not in line)
            if opens and "/proc" not in line and file.name != "worker.py":
                found.append(f"{file.name}:{number}: {line.strip()}")
    assert not found
    assert isinstance(sys.stdout, io.TextIOBase)
