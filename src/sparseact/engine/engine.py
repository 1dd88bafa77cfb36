"""The engine: a model that runs on the CPU without torch, one token per compiled call."""

from __future__ import annotations

import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sparseact.engine.counters import Usage
from sparseact.engine.forward.entries import run
from sparseact.engine.forward.model import Model
from sparseact.engine.forward.planes import HighPlanes
from sparseact.engine.forward.prefill import Cache, Forward, Product
from sparseact.engine.forward.products import products
from sparseact.engine.forward.prompt_choice import PromptScores
from sparseact.engine.forward.state import BY_PROMPT, DENSE, FOUND, GIVEN, HIGHEST, POSITION, SCREENED, Tables, X
from sparseact.engine.lm_head.cache import keep_screen, read_screen, screen_path
from sparseact.engine.lm_head.fit import SCREEN, fill_screen, write_texts
from sparseact.engine.load.assemble import assemble, load_gated
from sparseact.engine.load.gates import read_gates
from sparseact.engine.options import check_modes, checked, checked_tokens
from sparseact.engine.pace import Pace
from sparseact.engine.simd.entry import Call
from sparseact.engine.speculative import Speculation
from sparseact.engine.threads import MEMBERS, Team
from sparseact.errors import InputError, NotFiniteError
from sparseact.models.architecture import Architecture
from sparseact.models.end_tokens import end_tokens, end_tokens_in_memory
from sparseact.models.formats import Array, Floats
from sparseact.models.resolve import resolve
from sparseact.models.weights import Weights, open_weights
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe, load_recipe
from sparseact.utils.processors import processors


class Engine:
    """A model ready to generate, one text at a time::

        with Engine.from_model("smollm2") as engine:
            engine.prefill(tokenizer("The sky is").input_ids)
            print(tokenizer.decode(engine.greedy(20)))

    Tokens are added by `prefill`, `step` and `greedy`, in any order; `reset` begins a new text. The
    engine is for one thread of Python at a time.

    Attributes:
        architecture: of the model.
        dtype: what was asked for: f32, bf16, q8, q4 or file.
        threads: that run a step; fewer of them while other programs want their processors.
        context: tokens that a text can have.
        screen: whether `greedy` reads a screen and a part of the head instead of all of it.
        lossless: whether `greedy` gives the dense model's text, drafted by the recipe.
        ends: tokens that end a text, as far as the model's files or its generation config say.
    """

    architecture: Architecture
    dtype: str
    threads: int
    context: int
    screen: bool
    lossless: bool
    ends: frozenset[int] = frozenset()

    def __init__(
        self,
        weights: Weights,
        *,
        recipe: Recipe | None = None,
        dtype: str = "q8",
        threads: int | None = None,
        context: int | None = None,
        screen: bool = False,
        lossless: bool = False,
    ) -> None:
        """See `from_model`."""
        self.architecture, self.dtype = weights.architecture, dtype
        self.screen, self.lossless = screen, lossless
        self.threads = checked("threads", threads, processors(), 1, 256)
        self.context = checked("context", context, self.architecture.context, 1, self.architecture.context)
        self._phases: Phases | None = None if recipe is None else recipe.phases
        self._gatings = {} if recipe is None else read_gates(recipe, weights)
        masks_head = self.architecture.head in self._gatings
        check_modes(screen=screen, lossless=lossless, recipe=recipe is not None, masks_head=masks_head)
        self._model = load_gated(weights, dtype, self._gatings, screen=screen)
        sizes, tables, buffers = assemble(
            self._model, self.architecture, self._gatings, threads=self.threads, context=self.context
        )
        self._buffers = buffers
        self._heads = tables.heads
        size = self.architecture.head_dim
        self._cache = Cache(_numbers(buffers.keys)[..., :size], _numbers(buffers.values)[..., :size])
        self._vectors = _vectors(self._model, self.architecture)
        self._high_planes = HighPlanes(self._model)
        self._by_prompt = any(gating.choice == BY_PROMPT for gating in self._gatings.values())
        self._units_are_chosen = False  # by the prompt, and all copied
        self._prompt_scores: PromptScores | None = None  # of the text so far
        self._logits_are_finite = True
        self._pending: int | None = None  # by `greedy`, part of the text, not run yet
        self._known: list[int] = []  # dense tokens that follow the chosen one; all but the last have been run
        self._usage = Usage(self.architecture, self._model, self._gatings, buffers.counts)
        self._speculation = Speculation(sizes, tables, buffers) if lossless else None
        arguments = 0 if self._gatings or screen else None, sizes, tables, buffers
        self._lead = Call(run, (*arguments, 0))
        help_ = partial(run, *arguments) if self._speculation is None else self._speculation.help
        self._team = Team(self.threads, buffers.control, help_)
        self._pace = Pace(self.threads)
        self._end = weakref.finalize(self, self._team.close)
        if screen:
            self._make_screen(tables)

    @classmethod
    def from_model(
        cls,
        model: Any,
        recipe: Recipe | str | Path | None = None,
        dtype: str = "q8",
        threads: int | None = None,
        context: int | None = None,
        *,
        screen: bool = False,
        lossless: bool = False,
    ) -> Self:
        """An engine for a model; the model itself is not kept.

        Args:
            model: a loaded model of transformers, or the name of one as for `sparseact.load`.
            recipe: what to leave out, calibrated on the same weights, or its folder; dense if None.
            dtype: f32, bf16, q8 (8 bits, a scale for 32 weights), q4 (4 bits, a scale and a minimum for
                32 weights; 8 bits for the embedding and the head), or file: as they come.
            threads: that share each step; all processors that this process may use if None.
            context: tokens that a text can have; the model's own limit if None. Memory for keys and
                values is taken as a text grows.
            screen: find the likeliest token without reading all of the head: by `greedy` alone, for `step` gives
                all logits. One token in 1000 or fewer differs. Takes a third more memory for the head, and the
                first time some seconds, see docs/engine.md.
            lossless: `greedy` gives the dense model's text. The recipe only drafts it, where that saves time; the
                prompt and tokens run by `step` are dense.

        Raises:
            InputError: no such model, a wrong option, or a recipe that was made for another model, or of
                a policy that the engine does not run.
            UnsupportedModelError: a family that the engine does not run.
        """
        if isinstance(recipe, str | Path):
            recipe = load_recipe(recipe)
        named = resolve(model).weights if isinstance(model, str | Path) else None
        engine = cls(
            open_weights(named or model),
            recipe=recipe,
            dtype=dtype,
            threads=threads,
            context=context,
            screen=screen,
            lossless=lossless,
        )
        engine.ends = end_tokens(named) if named else end_tokens_in_memory(model)
        return engine

    @property
    def position(self) -> int:
        """Tokens of the text so far."""
        return self._cache.length + (self._pending is not None)

    def prefill(self, ids: Sequence[int] | Array) -> Floats:
        """Add tokens to the text, all at once.

        With a recipe that chooses neurons or heads from the prompt, all of a prompt that comes in parts
        chooses those of the tokens that follow; a single token after others does not.

        Args:
            ids: at least one token.

        Returns:
            Logits [vocabulary] of the token that follows.

        Raises:
            InputError: a token outside the vocabulary, or more than the context has room for.
        """
        tokens = checked_tokens(ids, self.architecture.vocabulary)
        self._need_room(len(tokens))
        self._run_pending()
        choosing = self._by_prompt and (len(tokens) > 1 or not self._cache.length)
        if self._by_prompt and not choosing and not self.lossless:
            return self.step(int(tokens[0]))
        sparse = bool(self._gatings) and self._phases is not None and self._phases.prefill
        sparse = sparse and not self._by_prompt and not self.lossless
        scores = PromptScores(self._gatings, self._prompt_scores if self._cache.length else None)
        with products(self._model, self.threads) as product:
            mask = scores.note if choosing else partial(self._mask, product) if sparse else None
            forward = Forward(self.architecture, product, self._vectors, partial(self._model.rows, "embed"), mask)
            last = forward.prefill(tokens, self._cache)[-1:]
            if sparse:
                last = self._mask(product, self.architecture.head, last, {}, self._cache.length - 1)
            logits = forward.logits(last)[0]
        self._buffers.control[FOUND] = int(logits.argmax())
        self._logits_are_finite = bool(np.isfinite(logits.max()))
        if choosing:
            self._prompt_scores = scores
            self._choose_units(scores)
        return logits

    def step(self, token: int) -> Floats:
        """Add one token to the text.

        Returns:
            Logits [vocabulary] of the token that follows.

        Raises:
            InputError: a token outside the vocabulary, or no room in the context.
        """
        (wanted,) = checked_tokens([token], self.architecture.vocabulary).tolist()
        if self._by_prompt and self.position == 0 and not self.lossless:
            return self.prefill([wanted])
        self._need_room(1)
        self._run_pending()
        self._run(wanted)
        if self._speculation is not None:
            return self._speculation.logits(self.architecture.vocabulary)
        return self._buffers.logits[0, : self.architecture.vocabulary].copy()

    def greedy(self, n: int, stop: Collection[int] = ()) -> list[int]:
        """Add up to `n` tokens to the text, each the likeliest one.

        Args:
            n: tokens.
            stop: tokens after which to stop; the one that was found is the last one returned.

        Raises:
            InputError: the text is empty, no room for n tokens in the context, or logits that are no numbers.
        """
        if self.position == 0:
            raise InputError("the text is empty; give the engine a prompt with prefill first")
        self._need_room(checked("n", n, n, 0, None))
        found: list[int] = []
        while len(found) < n and not (found and found[-1] in stop):
            self._pending = self._next()
            found.append(self._pending)
        return found

    def reset(self) -> None:
        """Begin a new text, and count anew."""
        self._pending, self._known = None, []
        self._units_are_chosen = False
        self._cache.length = 0
        self._usage.reset()
        if self._speculation is not None:
            self._speculation.reset()

    def density(self) -> dict[str, float]:
        """Share of the inputs that were on in the tokens run one by one, for each linear, by canonical name.

        Of a screen it is the share of the tokens that read it; of its head, the share that was read.
        """
        return self._usage.density()

    def bytes_per_token(self) -> float:
        """Bytes of weights that a token read on average, scales included, of the tokens run one by one.

        A linear that is on so often that a stream of all its weights is quicker is read whole, whatever its density.
        """
        read = self._usage.bytes_per_token()
        s = self._speculation
        if s is None or not s.passes:
            return read
        # Drafts, and dense passes, each of which gave one token more than were accepted.
        everything = sum(self._model.arena.bytes_of(self._model.numbers[name]) for name in self.density())
        return (s.drafted * read + s.passes * everything) / (s.passes + s.accepted)

    def acceptance(self) -> float | None:
        """Share of the drafted tokens that the dense model accepted; None where none were drafted."""
        s = self._speculation
        return s.accepted / s.drafted if s is not None and s.drafted else None

    def head_bytes_per_token(self) -> float:
        """The part of `bytes_per_token` that is the head of the model, and its screen."""
        return self._usage.head_bytes_per_token()

    def gated_bytes(self) -> dict[str, int]:
        """Bytes of each linear of whose inputs or rows the recipe switches some off, by canonical name."""
        return self._usage.gated_bytes()

    def achieved(self) -> float:
        """Share of those bytes that the tokens run one by one did not read; 0 without a recipe."""
        return self._usage.achieved()

    def density_by_layer(self) -> dict[str, float]:
        """Share of those bytes that they read, by the layer's number or "head"; empty without a recipe."""
        return self._usage.density_by_layer()

    def weight_bytes(self) -> int:
        """Bytes of all weights in memory."""
        return int(self._model.arena.data.nbytes + self._model.vectors.nbytes)

    def close(self) -> None:
        """End the helper threads. The engine cannot be used any more."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> int:
        """The likeliest token, with the chosen one run before."""
        if self._speculation is None or self._pending is None:
            self._run_pending()
            self._check_numbers()
            return int(self._buffers.control[FOUND])
        self._check_numbers()
        if not self._known:
            most = self.context - self._cache.length - 1
            before = self._speculation.drafted
            self._known = self._speculation.tokens_after(self._pending, self._cache.length, most, self._team)
            self._usage.add_drafts(self._speculation.drafted - before)
            self._logits_are_finite = self._speculation.logits_are_finite
            self._check_numbers()
        self._cache.length += 1
        return self._known.pop(0)

    def _check_numbers(self) -> None:
        """Refuse to choose among logits that are no numbers, of which every token is as likely as any."""
        if not self._logits_are_finite:
            raise NotFiniteError

    def _run_pending(self) -> None:
        """Run the token that `greedy` left."""
        if self._pending is not None:
            token, self._pending = self._pending, None
            if self._known:  # it was run with others
                self._cache.length += 1
                self._known = []
            else:
                self._run(token, screened=self.screen)

    def _run(self, token: int, *, screened: bool = False) -> None:
        if self._speculation is not None:
            self._speculation.run([token], self._cache.length, self._team)
            self._logits_are_finite = self._speculation.logits_are_finite
            self._cache.length += 1
            return
        control = self._buffers.control
        control[SCREENED] = screened
        control[GIVEN] = token
        control[POSITION] = self._cache.length
        control[DENSE] = self._cache.length < self._dense_first() or (self._by_prompt and not self._units_are_chosen)
        members = control[MEMBERS] = self._pace.members
        began = time.perf_counter()
        self._team.run(self._lead)
        self._pace.note(time.perf_counter() - began)
        self._logits_are_finite = bool(np.isfinite(self._buffers.floats[:members, HIGHEST, 0].max()))
        self._cache.length += 1
        self._usage.add_token(dense=bool(control[DENSE]), screened=screened)

    def _choose_units(self, scores: PromptScores) -> None:
        """Have the prompt choose. Until all is copied tokens run dense: Ctrl-C would leave a mixture of two prompts."""
        self._units_are_chosen = False
        scores.choose(self._model, self._heads)
        self._units_are_chosen = True

    def _make_screen(self, tables: Tables) -> None:
        """Take the screen of this head that was kept, or have the model write some text, and make it by that."""
        path = screen_path(self._model, self.architecture.head)
        factors = read_screen(path, self._model)
        if factors is None:
            x = self._buffers.floats[0, X, : self.architecture.hidden]
            inputs = write_texts(self.step, self.reset, x, self.architecture.first_token, self.context)
            factors = fill_screen(self._model, self.architecture.head, inputs)
            keep_screen(path, self._model, factors)
        for name, factor in zip(SCREEN, factors, strict=True):
            tables.thresholds[self._model.numbers[name]] = factor

    def _dense_first(self) -> int:
        return 0 if self._phases is None else self._phases.dense_first

    def _need_room(self, n: int) -> None:
        if self.position + n > self.context:
            why = self.architecture.why_context if self.context == self.architecture.context else ""
            raise InputError(
                f"the context has room for {self.context} tokens: {self.position} are there, and {n} more do not fit"
                + (f"; {why}" if why else "")
            )

    def _mask(self, product: Product, name: str, x: Floats, outputs: Mapping[str, Floats], start: int) -> Floats:
        """What a linear sees of the inputs [tokens, inputs] of tokens from position `start` on."""
        gating = self._gatings.get(name)
        if gating is None:
            return x
        guess = partial(self._guess, product, name.partition(".")[0], outputs)
        kept = gating.keep(x, outputs, self.architecture.activation, guess)
        dense = max(0, self._dense_first() - start)
        kept[:dense] = x[:dense]
        return kept

    def _guess(self, product: Product, layer: str, outputs: Mapping[str, Floats], part: str) -> Floats:
        """What gate or up of a layer put out by their high planes."""
        name = f"{layer}.{part}"
        guess = self._high_planes.guess(product, name, outputs["mlp"])
        return guess + self._vectors.get(f"{name}.bias", np.float32(0))


def _vectors(model: Model, architecture: Architecture) -> dict[str, Floats]:
    """Norms, biases and learned positions by canonical name."""
    shapes = architecture.shapes
    wanted = {name: shapes[name] for name in model.offsets if name in shapes}
    return {name: model.vector(name, int(np.prod(shape))).reshape(shape) for name, shape in wanted.items()}


def _numbers(cached: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Keys or values as NumPy reads them."""
    return cached if cached.dtype == np.float32 else cached.view(np.float16)
