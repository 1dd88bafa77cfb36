"""What engines run that read no GGUF file, made of one by their own tools."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf

from sparseact.bench.runner import RunnerError
from sparseact.bench.spec import Spec
from sparseact.models import load

PRECISIONS = {"f32": "fp32", "q8_0": "int8", "q4_0": "int4"}
"""The name that onnxruntime-genai's builder has for each type: whole numbers times a scale for every 32 weights, as in
the file. At 4 bits the numbers come out as they were; at 8 its scale is another, and they are rounded once more."""
BUILDER_OPTIONS = (
    "prune_lm_head=true",  # logits of the last token only, as the other engines have them
    "matmul_mixed_precision=last_matmul:int8",  # at 4 bits llama.cpp's quantiser keeps a shared head at 8, too
    "shared_embeddings=false",  # a shared one at other bits than the rest is written wrong (0.18.0)
)


def convert(spec: Spec, python: Path, source: Path, target: Path) -> None:
    """Make the folder that an engine loads.

    Args:
        spec: engine and type.
        python: the Python that has the engine.
        source: a GGUF file of the type.
        target: the folder; it is there when it is whole.

    Raises:
        RunnerError: the engine's tool cannot convert it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".partial-") as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        if reason := _make(spec, python, source, Path(scratch), made):
            raise RunnerError(f"{spec.engine} cannot convert {source.name}: {reason}")
        try:
            made.rename(target)
        except OSError:
            if not target.exists():  # else another process was quicker
                raise


def _make(spec: Spec, python: Path, source: Path, scratch: Path, made: Path) -> str:
    """Fill the folder `made`: why it cannot be, or nothing."""
    if spec.engine == "mistralrs":
        return _word_tokenizer(source, made)
    is_onnx = spec.engine == "onnxruntime-genai"
    return failure(python, *(_builder(source, scratch, made, spec.dtype) if is_onnx else _reader(source, made)))


def failure(python: Path, *arguments: str) -> str:
    """Run a Python without the hub: the last line that it says if it fails, else nothing."""
    done = subprocess.run(  # noqa: S603 - our own command
        [str(python), "-P", *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return said[-1] if done.returncode else ""


def _builder(source: Path, scratch: Path, made: Path, dtype: str) -> list[str]:
    """onnxruntime-genai's model builder, which wants the model as transformers saves it."""
    model, tokenizer = load(str(source), device="cpu", dtype="float32")
    model.save_pretrained(scratch / "model")
    tokenizer.save_pretrained(scratch / "model")
    paths = ["-i", str(scratch / "model"), "-o", str(made), "-c", str(scratch / "cache")]
    kind = ["-e", "cpu", "-p", PRECISIONS[dtype], "--extra_options", *BUILDER_OPTIONS]
    return ["-m", "onnxruntime_genai.models.builder", *paths, *kind]


def _reader(source: Path, made: Path) -> list[str]:
    """openvino-genai's reader of GGUF files, which saves the model beside the file that it is given."""
    link = made / "model.gguf"
    link.symlink_to(source.resolve())
    script = "import sys, openvino_genai; openvino_genai.LLMPipeline(sys.argv[1], 'CPU', enable_save_ov_model=True)"
    return ["-c", script, str(link)]


def _word_tokenizer(source: Path, made: Path) -> str:
    """For mistralrs, which takes text only: a tokenizer of the file's words that splits at spaces, and a template that
    adds nothing. So any tokens can be given, and are read as they are. Why it cannot be, or nothing.
    """
    field = gguf.GGUFReader(source).fields["tokenizer.ggml.tokens"]
    words = [bytes(field.parts[part]).decode() for part in field.data]
    if spaced := next((word for word in words if word.split() != [word]), None):
        return f"it takes text only, and the token {spaced!r} has a space"
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": words[0]},
    }
    (made / "model.gguf").symlink_to(source.resolve())
    (made / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (made / "prompt.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    return ""
