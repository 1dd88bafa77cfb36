"""`sparseact bench`."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sparseact.cli.options import Count, ModelName, Names, NamesIfAny, Shared
from sparseact.errors import InputError


def bench(
    *,
    recipe: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)] = (),
    dtype: Names = ("q8",),
    against: NamesIfAny = (),
    screen: bool = False,
    text: str | None = None,
    rounds: Count = 5,
    prompt_tokens: Count = 128,
    tokens: Count = 64,
    context: Count = 384,
    peers_python: Path | None = None,
    model: ModelName = "smollm2",
    shared: Shared = Shared(),
) -> str:
    """Measure the engine's tokens per second, dense and sparse, beside other engines on the same tokens.

    Every engine runs in a process of its own and all take turns, round after round; ratios are of the same
    round. An engine whose perplexity is not that of its own weights in float32 is named, and gets no row.

    Examples: sparseact bench --recipe runs/25 --recipe runs/40 --dtype q8,bf16;
    sparseact bench --dtype file --against transformers,llama.cpp,ik_llama.cpp --threads 1

    Args:
        recipe: A folder that calibrate wrote; may be given several times. The dense engine is always measured.
        dtype: Types of the engine's weights: q8, q4, bf16, f32, or file for the types that the file has.
        against: Other engines, at the same types: transformers (float32, and bfloat16 beside bf16), llama.cpp,
            ik_llama.cpp, onnxruntime-genai (q8, f32), openvino-genai (q8, q4, file). Or one of their types, as
            transformers:bf16, llama.cpp:q4_0 or ik_llama.cpp:q4_0+rtr.
        screen: Measure the dense engine with a screened head too (see generate --screen).
        text: A txt, csv, jsonl or parquet file whose second half perplexity is measured on; by default the
            model's own answers to the built-in questions.
        rounds: How often everything is timed.
        prompt_tokens: Tokens that are read before decoding.
        tokens: Tokens that are decoded.
        context: Tokens of the text that are read for perplexity, those of the prompt among them.
        peers_python: The Python that has llama-cpp-python and the other engines' packages; by default that of
            .venv-peers if it is here, else this one.
        model: smollm2, gemma3, a hub id, a folder or a .gguf file.
    """
    if shared.device not in {"auto", "cpu"}:
        raise InputError(f"--device: {shared.device} does not go with bench, which measures on the CPU")
    with shared.session():
        from sparseact.bench.spec import runners

        specs = runners(dtype, [str(folder) for folder in recipe], against, screen=screen)

        from sparseact.bench.measure import measure, read_work
        from sparseact.bench.peers import setup
        from sparseact.bench.report import as_rows, as_text
        from sparseact.utils.environment import usable_cores

        where = setup(model, peers_python, specs)
        work = read_work(model, text, context=context, prompt=prompt_tokens, tokens=tokens, seed=shared.seed)
        threads = shared.threads or usable_cores()
        group = measure(specs, where, work, threads=threads, rounds=rounds, seed=shared.seed)
    for runner, reason in group.refused.items():
        sys.stderr.write(f"sparseact: no speed of {runner}: {reason}\n")
    if group.disturbed:
        sys.stderr.write(
            f"sparseact: warning: other programs wanted the processors in {group.disturbed} of {group.samples} "
            "measurements\n"
        )
    return shared.answer(as_rows(group), as_text(group))
