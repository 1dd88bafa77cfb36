"""Text from the engine, and from torch the same: seeds, stop strings, ends, counts of what was read."""

import pytest
import torch

from sparseact import generate
from sparseact.data import prompt_ids
from sparseact.engine.engine import Engine
from sparseact.errors import InputError
from sparseact.generation.backend import Backend
from sparseact.generation.stream import special_tokens
from sparseact.models import load_tokenizer
from sparseact.policies import CATS, TEAL, Phases
from sparseact.testing import EOS, tiny_model, tiny_tokenizer

PROMPT = "Why is it so?"
TEXT = "the quick brown fox jumps over the lazy dog. " * 50
NEVER = frozenset()


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def engine(model):
    with Engine.from_model(model, dtype="f32", threads=1) as engine:
        yield engine


def on_engine(engine, **options):
    return generate(engine, tiny_tokenizer(), PROMPT, **{"max_new_tokens": 24, "ends": NEVER} | options)


@pytest.mark.parametrize("penalty", [1.0, 1.4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_greedy_text_is_that_of_transformers(seed, penalty):
    model, tokenizer = tiny_model("llama", seed=seed), tiny_tokenizer()
    prompt = tokenizer(PROMPT, return_tensors="pt")
    options = {"do_sample": False, "max_new_tokens": 24, "repetition_penalty": penalty}
    expected = model.generate(**prompt, **options)[0, prompt.input_ids.shape[1] :]
    with Engine.from_model(model, dtype="f32", threads=1) as engine:
        found = generate(engine, tokenizer, PROMPT, max_new_tokens=24, repetition_penalty=penalty)
    assert found.text == " " + tokenizer.decode(expected, skip_special_tokens=True)  # which it puts between words
    assert (found.tokens, found.prompt_tokens) == (len(expected), prompt.input_ids.shape[1])


def test_the_two_engines_say_the_same_of_the_same_recipe(model):
    for policy in (TEAL(0.5), CATS(0.5), TEAL(0.5, phases=Phases(prefill=False))):
        recipe = policy.calibrate(model, tiny_tokenizer(), TEXT)
        options = {"max_new_tokens": 24, "stop": ["q"]}
        theirs = generate(model, tiny_tokenizer(), PROMPT, recipe=recipe, **options)
        with Engine.from_model(model, recipe, dtype="f32", threads=1) as engine:
            ours = generate(engine, tiny_tokenizer(), PROMPT, **options)
        assert (ours.text, ours.tokens) == (theirs.text, theirs.tokens)
        assert 0.2 < ours.achieved < 0.8
        assert ours.achieved == pytest.approx(theirs.achieved, abs=0.02)
        assert ours.density == pytest.approx(theirs.density, abs=0.03)
        assert set(ours.density) == {"0", "1", "2"}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt2"])
def test_a_seed_draws_the_same_text_from_both(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    drawn = []
    with Engine.from_model(model, dtype="f32", threads=1) as engine:
        for seed, options in enumerate([{}, {"top_k": 9}, {"top_p": 0.8, "repetition_penalty": 1.3}, {"min_p": 0.1}]):
            options |= {"temperature": 1.1, "seed": seed, "max_new_tokens": 40}
            one, two = (generate(runs, tokenizer, PROMPT, **options) for runs in (model, engine))
            assert (one.text, one.tokens) == (two.text, two.tokens)
            drawn.append(one.text)
    assert len(set(drawn)) == 4


def test_an_engine_has_its_recipe_already(model, engine):
    assert isinstance(engine, Backend)
    recipe = TEAL(0.5).calibrate(model, tiny_tokenizer(), TEXT)
    with pytest.raises(InputError, match="recipe: an engine has its own"):
        on_engine(engine, recipe=recipe)


def test_a_special_token_is_a_stop_string(model, engine):
    """Of which the text shows nothing. The unknown token stands for others, and does not count."""
    found = special_tokens(tiny_tokenizer(), ["</s>", "<pad>", "<unk>", "a", "ab", "@", "</s>a"])
    assert found == {EOS: "</s>", 0: "<pad>", 3: "<unk>"}
    assert special_tokens(tiny_tokenizer(), ["a", "@"]) == {}
    engine.reset()
    engine.prefill(prompt_ids(tiny_tokenizer(), PROMPT))
    answer = engine.greedy(24)
    for runs in (model, engine):
        tokenizer = tiny_tokenizer()
        whole = generate(runs, tokenizer, PROMPT, max_new_tokens=24, ends=NEVER)
        letter = tokenizer.decode(answer[6])
        tokenizer.add_special_tokens({"additional_special_tokens": [letter]})
        without = generate(runs, tokenizer, PROMPT, max_new_tokens=24, ends=NEVER)
        assert (letter in without.text, without.tokens) == (False, 24)
        found = generate(runs, tokenizer, PROMPT, max_new_tokens=24, ends=NEVER, stop=[letter])
        assert found.text == whole.text[: whole.text.index(letter)].rstrip()
        assert found.tokens == answer.index(answer[6]) + 1


def test_pieces_add_up(engine):
    pieces = []
    found = on_engine(engine, on_text=pieces.append)
    assert "".join(pieces) == found.text
    assert len(pieces) > 10
    assert (found.achieved, found.density) == (0, {})
    assert found.bytes_per_token == engine.bytes_per_token() > 0


def test_every_text_begins_anew(engine):
    assert on_engine(engine).text == on_engine(engine).text


def test_the_seed_decides(engine):
    def sample(seed, **options):
        return on_engine(engine, temperature=1.0, seed=seed, **options).text

    assert sample(1) == sample(1) != sample(2)
    assert sample(1, top_k=1) == sample(2, top_p=1e-6) == sample(3, min_p=1.0) == on_engine(engine).text


def test_a_stop_string_ends_the_text(engine):
    whole = on_engine(engine)
    stop = whole.text[6:8]
    pieces = []
    found = on_engine(engine, stop=["@", stop], on_text=pieces.append)
    assert found.text == "".join(pieces) == whole.text[: whole.text.index(stop)]
    assert found.tokens < whole.tokens


def test_an_end_token_ends_the_text(engine):
    whole = on_engine(engine)
    written = []
    engine.reset()
    engine.prefill(prompt_ids(tiny_tokenizer(), PROMPT))
    written = engine.greedy(24)
    found = on_engine(engine, ends={written[4], 63})
    assert found.tokens == written.index(written[4]) + 1
    assert whole.text.startswith(found.text)


def test_the_tokenizers_own_end_is_the_default(model):
    """With logits of the end token raised, so that it comes first."""
    model = tiny_model("llama", seed=5)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[EOS] = 1.0
        model.model.norm.weight.fill_(1.0)
        model.lm_head.weight[EOS] *= torch.sign(
            model(torch.tensor([[5, 6]]), output_hidden_states=True).hidden_states[-1][0, -1]
        )
    with Engine.from_model(model, dtype="f32", threads=1) as engine:
        found = generate(engine, tiny_tokenizer(), "ab", max_new_tokens=9)
    assert (found.tokens, found.text) == (1, "")
    assert found.tokens_per_second == 0


def test_a_text_may_fill_the_context(model, engine):
    room = engine.context - len(PROMPT)
    assert on_engine(engine, max_new_tokens=room).tokens == room
    with pytest.raises(InputError, match="context of 128 tokens"):
        on_engine(engine, max_new_tokens=room + 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -1.0}, "temperature: -1.0"),
        ({"stop": [""]}, "stop"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0"),
    ],
)
def test_options_out_of_range_are_refused(engine, options, said):
    with pytest.raises(InputError, match=said):
        on_engine(engine, **options)


def test_ctrl_c_leaves_the_engine_as_good_as_new(engine):
    before = on_engine(engine).text

    def interrupt(piece):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_engine(engine, on_text=interrupt)
    assert on_engine(engine).text == before


@pytest.mark.smollm2
def test_the_real_model_answers_as_with_transformers(smollm2):
    """From the GGUF file as it is, with the tokenizer alone, against the weights unpacked by transformers."""
    from sparseact.models import weights_path

    model, tokenizer = smollm2
    prompt = "What is the capital of France?"
    expected = generate(model, tokenizer, prompt, max_new_tokens=24)
    alone, ends = load_tokenizer("smollm2")
    with Engine.from_model(weights_path("smollm2"), dtype="f32", threads=1) as engine:
        found = generate(engine, alone, prompt, max_new_tokens=24, ends=ends)
    assert found.text == expected.text
    assert (found.tokens, found.prompt_tokens) == (expected.tokens, expected.prompt_tokens)
    assert "Paris" in found.text
