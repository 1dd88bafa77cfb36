"""Question sets of the hub that are known by name."""

from dataclasses import dataclass

from sparseact.data.readers import choose_column
from sparseact.errors import InputError, MissingExtraError


@dataclass(frozen=True)
class DataSet:
    """Where `datasets` finds a set of questions."""

    path: str
    configuration: str | None
    split: str
    column: str


DATA_SETS = {
    "truthful_qa": DataSet("truthfulqa/truthful_qa", "generation", "validation", "question"),
    "yahoo_answers_qa": DataSet("community-datasets/yahoo_answers_qa", None, "train", "question"),
    "web_questions": DataSet("stanfordnlp/web_questions", None, "test", "question"),
    "nq_open": DataSet("google-research-datasets/nq_open", None, "validation", "question"),
    "gsm8k": DataSet("openai/gsm8k", "main", "test", "question"),
}


def load_data_set(name: str, *, column: str | None = None, limit: int | None = None) -> list[str]:
    """Prompts of a known data set of the hub.

    Raises:
        MissingExtraError: `datasets` is not installed.
        InputError: the hub cannot be reached, or the data set has no such column or no prompts.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "datasets") from None

    known = DATA_SETS[name]
    try:
        rows = datasets.load_dataset(known.path, known.configuration, split=known.split)
    except Exception as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"prompts: {name} cannot be loaded from the hub ({known.path}): {said}") from error
    chosen = choose_column(name, list(rows.column_names), column or known.column)
    prompts = [text for value in rows[chosen] if isinstance(value, str) and (text := value.strip())]
    if not prompts:
        raise InputError(f"prompts: column {chosen!r} of {name} holds no text")
    return prompts[:limit]
