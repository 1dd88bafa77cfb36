"""MobiLlama: a Llama whose blocks all run one MLP. Its files name it llama."""

from dataclasses import replace

from sparseact.models.families import llama

FAMILY = replace(llama.FAMILY, shared="mlp", tiny={"mobillama": {}})
