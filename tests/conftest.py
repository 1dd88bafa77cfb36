"""What all tests share: no network, the built-in model from the cache, a tiny GGUF file."""

import os

# Before transformers is imported anywhere: a test that would download fails instead.
os.environ["HF_HUB_OFFLINE"] = "1"

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from sparseact.models import cached_folder, load

NO_WEIGHTS = "the weights of smollm2 are not in the cache; get them with: make env"


# `nox -s light` has no torch: what stops at a package that an extra brings is skipped there, and counted as such. That
# the engine itself does not stop is tried by scripts/try_wheel.py.
WITHOUT_TORCH = find_spec("torch") is None
MISSING = re.compile(
    r"No module named '(captum|grimp|lm_eval|matplotlib|pandas|pyarrow|sacrebleu|sphinx|torch|transformers)\b"
)


def _skipped_for_what_is_missing(report, where):
    missing = MISSING.search(str(report.longrepr)) if WITHOUT_TORCH and report.failed else None
    if missing:
        report.outcome, report.longrepr = "skipped", (str(where), 0, f"Skipped: needs {missing[1]}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _skipped_for_what_is_missing((yield), collector.path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    return _skipped_for_what_is_missing((yield), item.path)


@pytest.fixture(autouse=True)
def _weights_of_smollm2(request):
    """A test marked `smollm2` fails without the weights: skipped, it would look as good as passed."""
    if request.node.get_closest_marker("smollm2") and cached_folder("smollm2") is None:
        pytest.fail(NO_WEIGHTS, pytrace=False)


@pytest.fixture(scope="session")
def smollm2():
    """The real SLM: (model, tokenizer), shared by all tests, so leave it as it was."""
    if cached_folder("smollm2") is None:
        pytest.fail(NO_WEIGHTS, pytrace=False)
    return load("smollm2", device="cpu")


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> Path:
    """A Llama of two layers with random weights in Q8_0, and a byte-level tokenizer of SmolLM's kind."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    _write_tiny_gguf(path)
    return path


def _write_tiny_gguf(path: Path) -> None:
    import gguf
    import numpy as np
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    layers, hidden, width, heads, key_heads = 2, 64, 96, 4, 2
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values(), "ĠĠ"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)  # openvino-genai asks for it
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    random = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        weights = random.normal(0, 0.05, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, 1 + weights)
        else:
            q8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(weights, q8), raw_dtype=q8)

    add("token_embd.weight", len(tokens), hidden)
    add("output_norm.weight", hidden)
    for layer in range(layers):
        block = f"blk.{layer}"
        add(f"{block}.attn_norm.weight", hidden)
        add(f"{block}.attn_q.weight", hidden, hidden)
        add(f"{block}.attn_k.weight", hidden * key_heads // heads, hidden)
        add(f"{block}.attn_v.weight", hidden * key_heads // heads, hidden)
        add(f"{block}.attn_output.weight", hidden, hidden)
        add(f"{block}.ffn_norm.weight", hidden)
        add(f"{block}.ffn_gate.weight", width, hidden)
        add(f"{block}.ffn_up.weight", width, hidden)
        add(f"{block}.ffn_down.weight", hidden, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
