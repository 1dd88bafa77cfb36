"""The two kinds of pipeline that language models have: BPE over bytes, and SentencePiece's BPE over characters."""

from collections.abc import Mapping, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(ENDING)?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(ENDING)?"
_CASED_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = _WORDS + r"|\p{N}{1,3}" + _REST
_QWEN2 = _WORDS + r"|\p{N}" + _REST
_GPT4O = _CASED.replace("(ENDING)", "(?i:'s|'t|'re|'ve|'m|'ll|'d)") + r"|\p{N}{1,3}" + _CASED_REST
_TEKKEN = _CASED.replace("(ENDING)?", "") + r"|\p{N}" + _CASED_REST

_DIGITS = r"\p{N}{1,3}"
_CHINESE = "[一-龥\u3040-ゟ゠-ヿ]+"
_MARKED = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
)
_DEEPSEEK = (_DIGITS, _CHINESE, _MARKED + r"|\s*[\r\n]+|\s+(?!\S)|\s+")
_DEFAULT = (r"[\p{P}\$\+<=>\^\~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")

WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken")
"""Names of those that take a word whole if it is a token, whatever the merges say; and begin with BOS unless told."""

SPLITS: dict[str, tuple[str, ...]] = (
    dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "exaone4"), (_GPT2,))
    | dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), (r"\p{N}", _GPT2))
    | dict.fromkeys((*WHOLE_WORDS, "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), (_LLAMA3,))
    | dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan"), (_QWEN2,))
    | dict.fromkeys(("gpt-4o", "llama4"), (_GPT4O,))
    | dict.fromkeys(("deepseek-v3", "hunyuan-dense"), _DEEPSEEK)
    | {"tekken": (_TEKKEN,), "default": _DEFAULT}
)
"""What cuts a text before BPE, one expression after the other, by llama.cpp's names (src/llama-vocab.cpp)."""


def byte_level(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], name: str, *, prefix_space: bool = False
) -> Tokenizer:
    """BPE over bytes, written as 256 printable characters (GPT-2's way; Radford et al. 2019).

    Args:
        vocab: ids by token.
        merges: pairs of tokens, those that are joined first first.
        name: a key of `SPLITS`.
        prefix_space: put a space before the text.
    """
    tokenizer = Tokenizer(models.BPE(dict(vocab), list(merges), ignore_merges=name in WHOLE_WORDS))
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(split), "isolated") for split in SPLITS[name]),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece(
    vocab: Mapping[str, int], pieces: Sequence[str], unknown: str | None, *, prefix_space: bool
) -> Tokenizer:
    """SentencePiece's BPE: what is no piece falls back to the bytes <0x00> to <0xFF> (Kudo and Richardson 2018).

    SentencePiece joins the neighbours that make the best piece; merges are written for each way to cut a piece in two.

    Args:
        vocab: ids by token.
        pieces: the tokens that text is made of, best first.
        unknown: the token of what is neither a piece nor a byte.
        prefix_space: put a space before the text and behind special tokens, if none is there; take it away again.
    """
    known = frozenset(pieces)
    merges = [
        (left, right)
        for piece in pieces
        for cut in range(len(piece) - 1, 0, -1)
        if (left := piece[:cut]) in known and (right := piece[cut:]) in known
    ]
    tokenizer = Tokenizer(models.BPE(dict(vocab), merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    spaces, prefix = normalizers.Replace(" ", "▁"), normalizers.Prepend("▁")
    only_one = normalizers.Replace(Regex(r"\A▁▁"), "▁")
    tokenizer.normalizer = normalizers.Sequence([spaces, prefix, only_one]) if prefix_space else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix_space else steps)
    return tokenizer


def add_at_ends(tokenizer: Tokenizer, before: str | None, behind: str | None) -> None:
    """Let texts begin and end with these special tokens."""
    template = [*([before] if before else []), "$A", *([behind] if behind else [])]
    special = [(token, tokenizer.token_to_id(token)) for token in (before, behind) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
