"""The formulas of docstrings, which are written as plain text, and the same in LaTeX.

    CHESS: score = |act(gate)| * RMS(up), one threshold per layer, so one per channel of act(gate).
    SNIP: s = |mean_d(g x)| (Lee et al. 2019, eq. 4, per token).

The first has the title CHESS, the formula `score = |act(gate)| * RMS(up)`, and a rule that says what is done with the
score; the second a source.
"""

import re
from typing import NamedTuple

_BEGIN = re.compile(r"\b(?:score|s) [=~] ")
_SOURCE = re.compile(r" \(([A-Z]\w+ et al\. \d{4}.*)\)(?=\.)")
_END = re.compile(r"[,;:.]?(?:\s|$)")
_TOKENS = re.compile(r"sqrt\(|\|\||[A-Za-z]+|\d[\d.]*|_[\w,:]+|\^\w+|\s+|\S")
_BARS = {"||": "Vert", "|": "vert"}
_PAIRS = {")": ("(", "sqrt("), "]": ("[",)}
_OPERATORS = {"*": r"\cdot ", "~": r"\sim ", "=": "=", "+": "+", "-": "-", "/": "/", ",": ", "}


class Line(NamedTuple):
    """The first line of a docstring, taken apart; what it does not have is empty."""

    title: str
    formula: str
    rule: str
    source: str


def first_line(docstring: str) -> Line:
    """Title, formula, rule and source of a docstring; the formula may also stand further down.

    Args:
        docstring: of a method's file.
    """
    title, _, text = docstring.strip().partition("\n")[0].partition(": ")
    cited = _SOURCE.search(text)
    text = text.replace(cited[0], "") if cited else text
    formula = formula_of(text)
    before, _, after = text.partition(formula) if formula else (text, "", "")
    rule = f"{before} {after.lstrip(',:;. ')}".strip()
    return Line(title, formula or formula_of(docstring), rule, cited[1] if cited else "")


def formula_of(text: str) -> str:
    """The first `score = ...` or `s = ...` of a text, up to a comma, colon or line's end outside all brackets."""
    begin = _BEGIN.search(text)
    if not begin:
        return ""
    depth, position = 0, begin.end()
    while position < len(text) and text[position] != "\n":
        depth += (text[position] in "([") - (text[position] in ")]")
        if not depth and text[position] in ",;:." and _END.match(text, position):
            break
        position += 1
    return text[begin.start() : position].strip()


def latex(plain: str) -> str:
    r"""A formula in LaTeX: `|x| * ||W_column||` is `\lvert x\rvert \cdot \lVert W_{\mathrm{column}}\rVert`.

    A bar closes the one that was opened last, unless a bracket was opened since. Names of several letters are upright.

    Raises:
        ValueError: bars or brackets do not pair up.
    """
    opened: list[str] = []
    parts: list[str] = []
    tokens = _TOKENS.findall(plain)
    for before, token, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
        if token.isspace():
            operators = {before[-1:], after[:1]} & {*_OPERATORS, ""}
            parts.append("" if operators else r"\,")
        else:
            parts.append(_set(token, opened, plain))
    if opened:
        raise ValueError(f"{plain!r} leaves {' '.join(opened)} open")
    return "".join(parts).strip()


def _set(token: str, opened: list[str], plain: str) -> str:
    if token in _BARS:
        closes = opened[-1:] == [token]
        opened.pop() if closes else opened.append(token)
        return rf"\{'r' if closes else 'l'}{_BARS[token]} "
    if token in ("(", "[", "sqrt("):
        opened.append(token)
        return r"\sqrt{" if token == "sqrt(" else token
    if token in _PAIRS:
        if not opened or opened[-1] not in _PAIRS[token]:
            raise ValueError(f"{plain!r} closes {token} where it was not opened")
        return "}" if opened.pop() == "sqrt(" else token
    if token[0] in "_^":
        return token[0] + "{" + ",".join(_index(part) for part in token[1:].split(",")) + "}"
    is_name = token.isalpha() and len(token) > 1
    return rf"\operatorname{{{token}}}" if is_name else _OPERATORS.get(token, token)


def _index(part: str) -> str:
    return rf"\mathrm{{{part}}}" if len(part) > 2 or part == "up" else part
