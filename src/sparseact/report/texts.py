"""The page's sampled texts: what the sparse model wrote beside what the dense one wrote."""

from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from sparseact.report.frames import cells
from sparseact.report.style import in_order
from sparseact.report.words import Focus

_TEXTS: Final = 3


@dataclass(frozen=True)
class Answer:
    """One metric's free-running text beside the dense one: the shared beginning, then the rest."""

    metric: str
    agreement: float
    shared: str
    rest: str
    identical: bool


def sampled_texts(samples: pd.DataFrame, at: Focus) -> list[dict[str, Any]]:
    """The prompts where the headline's metric agrees least, in the middle and most, with all metrics' texts."""
    at_level = cells(samples, units=at.units, sparsity=at.sparsity)
    ranked = at_level[at_level["metric"] == at.main["metric"]].sort_values(["agreement", "prompt"])
    places = sorted({0, len(ranked) // 2, len(ranked) - 1})[:_TEXTS] if len(ranked) else []
    ranks = ["the lowest", "the middle", "the highest"] if len(places) == _TEXTS else [""] * len(places)
    sampled = []
    for place, rank in zip(places, ranks, strict=True):
        chosen = ranked.iloc[place]
        of_prompt = at_level[at_level["prompt"] == chosen["prompt"]].drop_duplicates("metric").set_index("metric")
        answers = [answer(metric, of_prompt.loc[metric]) for metric in in_order(of_prompt.index)]
        sampled.append(
            {
                "number": int(chosen["prompt"]),
                "rank": rank,
                "question": _printable(chosen["question"]),
                "dense": _printable(chosen["text_dense"]),
                "answers": answers,
            }
        )
    return sampled


def answer(metric: str, sample: pd.Series) -> Answer:
    """Split a metric's text where it parts from the dense one, at the beginning of the word."""
    text, dense = _printable(sample["text"]), _printable(sample["text_dense"])
    same = next((i for i, (a, b) in enumerate(zip(text, dense, strict=False)) if a != b), min(len(text), len(dense)))
    if same < len(text):
        same = max(text.rfind(" ", 0, same), text.rfind("\n", 0, same)) + 1
    return Answer(metric, float(sample["agreement"]), text[:same], text[same:], text == dense)


def _printable(text: object) -> str:
    """The text without control characters, which HTML does not allow, but with its line breaks."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in str(text))
