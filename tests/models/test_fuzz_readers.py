"""Whatever bytes a file holds, a reader gives prompts or one clear line, and nothing else."""

import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from sparseact.data import load_prompts
from sparseact.errors import InputError
from sparseact.models.sources.gguf import GGUFTensors
from sparseact.models.sources.gguf_header import read_header
from sparseact.models.tokenizer import Tokenizer
from sparseact.models.tokenizer.gguf import read_gguf_tokenizer

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")

texts = st.text(max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["question", "a\nb", ""]), inner),
    max_leaves=6,
)
json_lines = st.lists(json_values.map(json.dumps), max_size=6).map("\n".join).map(str.encode)
csv_like = st.text(alphabet='question,"\t\r\n ab;\0\x0b\u2028é', max_size=120).map(str.encode)


def read(content: bytes, suffix: str, column: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        try:
            prompts = load_prompts(path, column=column)
        except InputError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017 - most files are refused, some are read
            return
    assert prompts
    for prompt in prompts:
        assert isinstance(prompt, str)
        assert prompt.strip() == prompt != ""
        assert "\0" not in prompt
        prompt.encode("utf-8")  # no half of a surrogate pair, which a tokenizer could not take


@CALM
@given(content=st.binary(max_size=400) | csv_like | json_lines, suffix=st.sampled_from(SUFFIXES))
@example(content=b"\xff\xfeW\0h\0y\0", suffix=".txt")
@example(content=b'"\\u0000"', suffix=".jsonl")
@example(content=b'"\\ud83d"', suffix=".jsonl")
def test_any_bytes(content, suffix):
    read(content, suffix)


@CALM
@given(content=csv_like, suffix=st.sampled_from([".csv", ".tsv"]), column=st.none() | texts)
def test_csv_with_a_header(content, suffix, column):
    read(b"question,a\r\n" + content, suffix, column)


@CALM
@given(content=json_lines, column=st.sampled_from([None, "question", "a\nb"]))
def test_json_lines(content, column):
    read(content, ".jsonl", column)


def damage(data: st.DataObject, whole: bytes) -> bytes:
    """`whole`, cut short or with a few bytes changed."""
    if data.draw(st.booleans(), label="cut"):
        return whole[: data.draw(st.integers(0, len(whole) - 1), label="length")]
    spoilt = bytearray(whole)
    changes = st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(changes, min_size=1, max_size=4), label="changes"):
        spoilt[place] = value
    return bytes(spoilt)


@pytest.fixture(scope="module")
def whole_parquet() -> bytes:
    table = pa.table({"question": ["Why?", None, "How?"] * 20, "id": list(range(60))})
    target = io.BytesIO()
    parquet.write_table(table, target)
    return target.getvalue()


@CALM
@given(data=st.data())
def test_damaged_parquet(data, whole_parquet):
    read(damage(data, whole_parquet), ".parquet")


@pytest.fixture(scope="module")
def gguf_place(tiny_gguf, tmp_path_factory) -> tuple[bytes, Path]:
    return tiny_gguf.read_bytes(), tmp_path_factory.mktemp("damaged") / "model.gguf"


def check(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    try:
        GGUFTensors.open(path)
        assert isinstance(read_gguf_tokenizer(path, read_header(path)), Tokenizer)
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        assert str(path) in str(error)  # noqa: PT017


@CALM
@given(content=st.binary(max_size=300))
def test_any_bytes_as_gguf(content, gguf_place):
    check(content, gguf_place[1])
    check(b"GGUF" + content, gguf_place[1])
    check(b"GGUF\3\0\0\0" + content, gguf_place[1])


@settings(CALM, max_examples=60)
@given(data=st.data())
def test_damaged_gguf(data, gguf_place):
    whole, path = gguf_place
    header = whole[:8000]  # what lies behind are weights, which any bytes are
    check(damage(data, header) + whole[8000:], path)


@settings(CALM, max_examples=20)
@given(data=st.data())
def test_gguf_cut_short_anywhere_is_seen(data, gguf_place):
    whole, path = gguf_place
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 40))])
    with pytest.raises(InputError):
        GGUFTensors.open(path)
