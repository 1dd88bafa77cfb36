"""Write a GGUF file in another type, with llama.cpp's own quantiser; run by the Python that has llama-cpp-python.

python requantise.py shipped.gguf other.gguf q8_0
"""

from __future__ import annotations

import sys

import llama_cpp.llama_cpp as api

FILE_TYPES = {
    "f32": api.LLAMA_FTYPE_ALL_F32,
    "f16": api.LLAMA_FTYPE_MOSTLY_F16,
    "bf16": api.LLAMA_FTYPE_MOSTLY_BF16,
    "q8_0": api.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": api.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_1": api.LLAMA_FTYPE_MOSTLY_Q4_1,
}
"""`llama-quantize` names them so too; it keeps a shared embedding at 8 bits where the others get 4."""


def main() -> None:
    """Quantise on one thread."""
    source, target, name = sys.argv[1:]
    options = api.llama_model_quantize_default_params()
    options.nthread, options.ftype, options.allow_requantize = 1, FILE_TYPES[name], True
    if api.llama_model_quantize(source.encode(), target.encode(), options):
        raise SystemExit(f"{source}: llama.cpp cannot quantise it to {name}")


if __name__ == "__main__":
    main()
