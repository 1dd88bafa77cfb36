"""`sparseact bench`."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sparseact.cli.options import Count, ModelName, Names, NamesIfAny, NumbersOrNone, Shared
from sparseact.errors import InputError


def bench(
    *,
    recipe: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)] = (),
    dtype: Names = ("q8",),
    against: NamesIfAny = (),
    screen: bool = False,
    shape: str | None = None,
    density: NumbersOrNone = None,
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
    Time, bytes and processor time of a token are given, and joules where the machine tells (extra energy).

    Examples: sparseact bench --recipe runs/25 --recipe runs/40 --dtype q8,bf16;
    sparseact bench --dtype file --against transformers,llama.cpp,ik_llama.cpp --threads 1;
    sparseact bench --shape qwen3-0.6b --density 0.5,0.3

    Args:
        recipe: A folder that calibrate wrote; may be given several times. The dense engine is always measured.
        dtype: Types of the engine's weights: q8, q4, bf16, f32, or file for the types that the file has.
        against: Other engines, at the same types: transformers (float32, and bfloat16 beside bf16), llama.cpp,
            ik_llama.cpp, mistralrs, onnxruntime-genai (q8, f32), openvino-genai (q8, q4, file). Or one of their
            types, as transformers:bf16, llama.cpp:q4_0 or ik_llama.cpp:q4_0+rtr.
        screen: Measure the dense engine with a screened head too (see generate --screen).
        shape: A shape such as qwen3-0.6b or llama3.2-3b instead of a model: random weights, so speed only, of
            the dense engine and of recipes that switch off exactly what --density leaves.
        density: With --shape, shares that are on for a token, by default 0.5: of the neurons where the gate
            decides, of the inputs of all linears where each decides by its inputs.
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
    if shape is None and density is not None:
        raise InputError("--density: goes with --shape; for a model give --recipe")
    if shape is not None and (recipe or against or screen or text):
        raise InputError("--shape: has random weights; --recipe, --against, --screen and --text need a model")
    with shared.session(with_torch=shape is None):
        from sparseact.bench.report import as_rows, as_text
        from sparseact.bench.spec import runners
        from sparseact.utils.processors import processors

        threads = shared.threads or processors()
        common = {"threads": threads, "rounds": rounds, "prompt": prompt_tokens, "tokens": tokens, "seed": shared.seed}
        if shape is not None:
            from sparseact.bench.by_shape import measure_shape

            group = measure_shape(shape, densities=density or (0.5,), dtypes=dtype, **common)
        else:
            specs = runners(dtype, [str(folder) for folder in recipe], against, screen=screen)

            from sparseact.bench.measure import measure

            group = measure(model, specs, peers_python=peers_python, text=text, context=context, **common)
    for warning in group.warnings():
        sys.stderr.write(f"sparseact: {warning}\n")
    return shared.answer(as_rows(group), as_text(group))
