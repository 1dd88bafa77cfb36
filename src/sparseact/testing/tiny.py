"""Tiny random models of every known family, for tests that never download.

The weights are larger than a fresh model's and the biases are not zero, so that every part of a
block moves the logits; a test that passes on them could have failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, PreTrainedModel
from transformers.masking_utils import eager_mask

from sparseact.errors import unknown_name

VOCABULARY, HIDDEN, LAYERS, HEADS, NEURONS, POSITIONS = 64, 32, 3, 4, 48, 128
PAD, BOS, EOS = 0, 1, 2
SLIDING_WINDOW = 4

Config = Callable[..., Any]


def _grouped(config: Config, **options: Any) -> Any:
    """A config whose heads share 2 keys and values, with a gated MLP."""
    return _plain(config, num_key_value_heads=2, **options)


def _plain(config: Config, **options: Any) -> Any:
    return config(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": NEURONS,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "max_position_embeddings": POSITIONS,
            "initializer_range": 0.2,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "tie_word_embeddings": False,  # tied, a random model repeats its last token
            **options,
        }
    )


def _opt(**options: Any) -> Any:
    config = transformers.OPTConfig
    return _plain(config, ffn_dim=NEURONS, init_std=0.2, **{"word_embed_proj_dim": HIDDEN, **options})


def _gpt2() -> Any:
    names = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS, "n_inner": NEURONS}
    tokens = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    return transformers.GPT2Config(vocab_size=VOCABULARY, initializer_range=0.2, **names, **tokens)


def _gemma2() -> Any:
    capped = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8}
    return _grouped(transformers.Gemma2Config, head_dim=8, sliding_window=SLIDING_WINDOW, **capped)


def _gemma3() -> Any:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    window = {"sliding_window": SLIDING_WINDOW, "layer_types": kinds, "query_pre_attn_scalar": 16}
    return _plain(transformers.Gemma3TextConfig, head_dim=16, num_key_value_heads=1, **window)


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: _grouped(transformers.LlamaConfig),
    "mobillama": lambda: _plain(transformers.LlamaConfig),
    "mistral": lambda: _grouped(transformers.MistralConfig, sliding_window=SLIDING_WINDOW),
    "qwen2": lambda: _grouped(transformers.Qwen2Config),
    "qwen3": lambda: _grouped(transformers.Qwen3Config, head_dim=16),
    "phi": lambda: _plain(transformers.PhiConfig),
    "phi3": lambda: _grouped(transformers.Phi3Config),
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "opt": _opt,
    "opt-post-norm": lambda: _opt(do_layer_norm_before=False, word_embed_proj_dim=16),
    "gpt2": _gpt2,
    "gpt-neox": lambda: _plain(transformers.GPTNeoXConfig, use_parallel_residual=True, rotary_pct=0.5),
    "gpt-neox-sequential": lambda: _plain(transformers.GPTNeoXConfig, use_parallel_residual=False, rotary_pct=0.5),
    "stablelm": lambda: _grouped(transformers.StableLmConfig, use_qkv_bias=True),
    "olmo2": lambda: _grouped(transformers.Olmo2Config),
}
"""Config of a tiny model by family: 3 layers, 4 heads, 48 neurons, 64 tokens, float32."""


def tiny_model(family: str, *, seed: int = 0) -> PreTrainedModel:
    """A random model of a family in `FAMILIES`, in evaluation mode.

    Raises:
        InputError: the family is not one of them.
    """
    if family not in FAMILIES:
        raise unknown_name("unknown family", family, FAMILIES)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(FAMILIES[family]())
        with torch.no_grad():
            for parameter in model.parameters():  # no bias stays 0, no norm's weight 1
                parameter.add_(0.1 * torch.randn_like(parameter))
    if family == "mobillama":  # all blocks run one MLP
        for block in model.model.layers:
            block.mlp = model.model.layers[0].mlp
    return model.eval()


def tiny_tokenizer() -> Any:
    """A tokenizer for the tiny models: one token per character of printable ASCII, without a chat template."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,?!-'"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def float64_model(model: PreTrainedModel) -> PreTrainedModel:
    """Turn a model, in place, to float64 that is exact throughout.

    transformers computes RMS norms and the softmax of eager attention in float32 whatever the dtype;
    the norms' forwards are replaced on this model's modules, and a model that runs eager attention
    gets one of its own, named `float64`, in transformers' table.
    """
    model.double()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _exact_norm(module)
    if model.config._attn_implementation == "eager":  # noqa: SLF001 - transformers has no public getter
        AttentionInterface.register("float64", _exact_attention)
        AttentionMaskInterface.register("float64", eager_mask)
        model.set_attn_implementation("float64")
    return model


def _exact_norm(module: Any) -> Callable[[Tensor], Tensor]:
    epsilon = module.eps if hasattr(module, "eps") else module.variance_epsilon
    shift = 1.0 if type(module).__name__.startswith("Gemma") else 0.0

    def forward(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * (module.weight + shift)

    return forward


def _exact_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    softcap: float | None = None,
    **_options: Any,
) -> tuple[Tensor, None]:
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    logits = query @ key.mT * scaling
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return ((logits + attention_mask).softmax(-1) @ value).transpose(1, 2).contiguous(), None
