"""`sparseact check`."""

from typing import Annotated, Literal

from cyclopts import Parameter

from sparseact.cli.options import SHARED, Count, Share, Shared


def check(
    model: Annotated[str, Parameter(group=SHARED)] = "smollm2",
    *,
    text: str | None = None,
    max_perplexity_increase: Share = 0.03,
    tokens: Count = 512,
    dtype: Literal["q8", "q4", "bf16", "f32"] = "q8",
    shared: Shared = Shared(),
) -> str:
    """Say in two minutes whether sparse activation is worth it for a model on this machine.

    Measured are a ceiling (an oracle that knows the neurons exactly, at 50, 70 and 80% off and by layer), what
    three calibrated rules keep, and the engine's speed at these shares. The tokens of training that it would take
    are an extrapolated order of magnitude. Two minutes are for 135 million weights; larger models take longer in
    proportion.

    Examples: sparseact check smollm2; sparseact check Qwen/Qwen3-0.6B --text wiki.txt

    Args:
        model: smollm2, gemma3, a hub id, a folder or a .gguf file.
        text: A txt, csv, jsonl or parquet file: its first half calibrates, its second half measures. By default
            the model's own answers to the built-in questions.
        max_perplexity_increase: What may be lost, such as 3%.
        tokens: Tokens of the text to measure on; layers alone are measured on 128.
        dtype: Type of the weights of the engine whose speed is measured: q8, q4, bf16 or f32.
    """
    with shared.session():
        from sparseact.data import load_text
        from sparseact.feasibility import check
        from sparseact.feasibility.report import as_text
        from sparseact.models import load
        from sparseact.policies import write_text
        from sparseact.utils.processors import processors

        read = load_text(text) if text is not None else None
        language_model, tokenizer = load(model, device=shared.device)
        if read is None:
            read = write_text(language_model, tokenizer, tokens=2 * tokens + 512, seed=shared.seed)
        threads = shared.threads or processors()
        outlook = check(
            language_model,
            tokenizer,
            read,
            max_perplexity_increase=max_perplexity_increase,
            tokens=tokens,
            dtype=dtype,
            threads=threads,
        )
    source = text or f"the model's own answers, seed {shared.seed}"
    record = outlook.as_record() | {"model": model, "text": source, "dtype": dtype, "threads": threads}
    record["device"] = str(language_model.device)
    return shared.answer(record, as_text(outlook, model=model, dtype=dtype, threads=threads))
