"""lm-evaluation-harness on a sparse model; import this module only where the extra `eval` is installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from sparseact.errors import InputError
from sparseact.masked.decoding import check_each_step, check_logits, ends_only
from sparseact.masked.density import Density
from sparseact.models.quiet import first_line
from sparseact.recipes.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SparseHFLM(HFLM):
    """lm-eval's model class for a transformers model, under a recipe while it is asked something.

    What HFLM reads at once is prefill: a recipe for decoding only changes nothing in tasks that score
    given answers, and works in tasks that generate.

    Attributes:
        density: what was read so far, without padding; None without a recipe.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe | None = None,
        *,
        batch_size: int = 1,
        **options: Any,
    ) -> None:
        """options: those of HFLM."""
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, **options)
        self.recipe = recipe
        self.density: Density | None = None
        self._asked: set[tuple[int, ...]] = set()

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *args: Any, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """As HFLM, whose batches are padded on the right without a mask; what is asked for is remembered."""
        longest = self.max_length + 1
        self._asked = {tuple((context + answer)[-longest:][:-1]) for _, context, answer in requests}
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def _model_call(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self._padding_told(args[0] if args else kwargs["inps"]):
            logits = self._under_recipe(super()._model_call, *args, **kwargs)
        check_logits(logits)
        return logits

    def _model_generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with ends_only(self.model):
            kwargs["logits_processor"] = check_each_step()
            return self._under_recipe(super()._model_generate, *args, **kwargs)

    @contextmanager
    def _padding_told(self, ids: torch.Tensor) -> Iterator[None]:
        """Give the model the mask of a batch [texts, tokens], where a text is shorter and a recipe counts its tokens.

        What comes after a text changes nothing in it, so that the mask changes only what is counted.
        """
        counts = torch.tensor([self._tokens_of(row) for row in ids.tolist()], device=ids.device)
        mask = (torch.arange(ids.shape[1], device=ids.device) < counts[:, None]).long()
        if self.recipe is None or bool(mask.all()):
            yield
            return
        hook = self.model.register_forward_pre_hook(
            lambda _, args, kwargs: (args, kwargs | {"attention_mask": mask}), with_kwargs=True, prepend=True
        )
        try:
            yield
        finally:
            hook.remove()

    def _tokens_of(self, row: list[int]) -> int:
        """The tokens of a row that HFLM filled up with 0, which may be a token of the text too."""
        shortest = max((place + 1 for place, token in enumerate(row) if token), default=0)
        whole = (count for count in range(shortest, len(row) + 1) if tuple(row[:count]) in self._asked)
        return next(whole, len(row))

    def _under_recipe(self, function: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.recipe(self.model) if self.recipe is not None else nullcontext() as density:
            answer = function(*args, **kwargs)
        if density is not None:
            self._add(density)
        return answer

    def _add(self, new: Density) -> None:
        if self.density is None:
            self.density = new
            return
        for counts in ("off", "tokens", "sparse"):
            total = getattr(self.density, counts)
            for key, count in getattr(new, counts).items():
                total[key] += count


def run_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    recipe: Recipe | None = None,
    limit: int | None = None,
    batch_size: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Run tasks of lm-evaluation-harness.

    Args:
        tasks: names as lm-eval knows them, or .yaml files of tasks.
        limit: use only so many documents of each task.

    Returns:
        `tasks` {task: {metric: value}} as lm-eval names them, and `achieved`.

    Raises:
        InputError: an unknown task, or one whose data set cannot be had.
    """
    manager = TaskManager()
    names = [_checked_name(task, manager) for task in tasks]
    try:
        manager.load(names)
    except Exception as error:  # a task's data set fails as it likes
        raise InputError(f"tasks: {', '.join(names)} cannot be loaded: {first_line(error)}") from error
    language_model = SparseHFLM(model, tokenizer, recipe, batch_size=batch_size)
    found = simple_evaluate(
        language_model,
        tasks=names,
        task_manager=manager,
        limit=limit,
        log_samples=False,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    results = {
        task: {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
        for task, metrics in found["results"].items()
    }
    return {"tasks": results, "achieved": language_model.density.achieved() if language_model.density else 0.0}


def _checked_name(task: str, manager: TaskManager) -> str:
    if Path(task).suffix == ".yaml":
        if not Path(task).is_file():
            raise InputError(f"tasks: no such file: {task}")
        return str(Path(task).resolve())
    if task not in manager.all_tasks:  # thousands of them
        close = get_close_matches(task, manager.all_tasks, n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else "lm-eval ls tasks lists them."
        raise InputError(f"tasks: unknown task {task!r}. {hint}")
    return task
