"""`calibrate`, `eval` and `generate` as a user meets them: real calls on a tiny model in a folder."""

import json

import pytest

from sparseact.cli import USERS_MISTAKE, main
from sparseact.data import builtin_questions
from sparseact.policies import POLICIES, load_recipe
from sparseact.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, another model, two texts and a recipe."""
    place = tmp_path_factory.mktemp("cli")
    for name, seed in (("model", 0), ("other", 1)):
        tiny_model("llama", seed=seed).save_pretrained(place / name)
        tiny_tokenizer().save_pretrained(place / name)
    questions = [row["question"] for row in builtin_questions()]
    (place / "a.txt").write_text("\n".join(questions[0::2]))
    (place / "b.txt").write_text("\n".join(questions[1:40:2]))
    arguments = ["--policy", "teal", "--sparsity", "0.4", "--text", str(place / "a.txt"), "--out", str(place / "r")]
    assert main(["calibrate", *arguments, "--model", str(place / "model")]) == 0
    return place


@pytest.fixture
def run(place, capsys, monkeypatch):
    """Run one command in that folder, on its model: (status, standard output, standard error)."""
    monkeypatch.chdir(place)

    def run(*arguments: str) -> tuple[int, str, str]:
        model = [] if "--model" in arguments else ["--model", "model"]
        capsys.readouterr()
        status = main([*arguments, *model])
        return status, *capsys.readouterr()

    return run


def test_the_policies_are_listed(run):
    status, out, _ = run("calibrate", "--list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(POLICIES)
    _, out, _ = run("calibrate", "--list", "--json")
    assert json.loads(out)["policies"].keys() == POLICIES.keys()


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_calibrated_and_measured(run, name):
    status, out, err = run(
        "calibrate", "--policy", name, "--sparsity", "0.4", "--text", "a.txt", "--out", name, "--json"
    )
    assert (status, err) == (0, "")
    assert json.loads(out) | {"policy": name, "sparsity": 0.4, "out": name, "text": "a.txt"} == json.loads(out)
    status, out, err = run("eval", "--recipe", name, "--text", "b.txt", "--context", "64", "--limit", "2", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["perplexity"] != found["perplexity_dense"]
    assert found["achieved"] == pytest.approx(0.4, abs=0.06)


def test_eval_has_the_keys_that_are_promised(run):
    status, out, _ = run("eval", "--recipe", "r", "--text", "b.txt", "--json")
    assert status == 0
    promised = {"perplexity", "perplexity_dense", "kl", "agreement", "achieved", "tokens", "model", "recipe"}
    assert promised | {"context", "stride", "phase"} <= json.loads(out).keys()
    assert (json.loads(out)["model"], json.loads(out)["recipe"]) == ("model", "r")


def test_eval_for_a_reader(run):
    status, out, err = run("eval", "--recipe", "r", "--text", "b.txt")
    assert (status, err) == (0, "")
    names = [line.split()[0] for line in out.splitlines()]
    assert names == ["perplexity", "KL", "agreement", "achieved", "bytes", "on", "(device"]
    assert "context 128, stride 127" in out


def test_eval_of_the_dense_model(run):
    status, out, _ = run("eval", "--text", "b.txt", "--json")
    found = json.loads(out)
    assert (status, found["kl"], found["achieved"], found["recipe"]) == (0, 0, 0, None)


def test_text_that_overlaps_is_warned_of_in_a_line(run, place):
    status, _, err = run("eval", "--recipe", "r", "--text", "a.txt", "--limit", "1")
    assert status == 0
    assert err == (
        "sparseact: warning: 100.0% of the text that the recipe was calibrated on is in a.txt; on unseen text it may "
        "do worse\n"
    )
    (place / "part.txt").write_text((place / "b.txt").read_text() + (place / "a.txt").read_text()[:500])
    _, _, err = run("eval", "--recipe", "r", "--text", "part.txt", "--limit", "1")
    assert err.startswith("sparseact: warning: ")


def test_without_a_text_the_model_writes_its_own(run):
    for out in ("own1", "own2"):
        status, *_ = run("calibrate", "--policy", "teal", "--sparsity", "0.4", "--out", out, "--seed", "3")
        assert status == 0
    one, two = load_recipe("own1"), load_recipe("own2")
    assert one.meta["calibration"]["source"] == "the model's own answers, seed 3"
    assert one.meta["calibration"] == two.meta["calibration"]
    assert one.gates == two.gates


def test_a_level_is_found_for_a_loss(run):
    status, out, _ = run(
        *(
            "calibrate",
            "--policy",
            "teal",
            "--max-perplexity-increase",
            "2%",
            "--text",
            "a.txt",
            "--out",
            "found",
            "--json",
        )
    )
    found = json.loads(out)
    assert status == 0
    assert 0.01 < found["sparsity"] < 0.7
    assert found["perplexity_increase"]["asked"] == 0.02
    assert found["perplexity_increase"]["found"] <= 0.02


def test_options_reach_the_policy(run):
    arguments = ["--policy", "wina", "--option", "as_released=true", "--dense-prompt", "--dense-first", "4"]
    status, *_ = run("calibrate", *arguments, "--sparsity", "0.4", "--text", "a.txt", "--out", "wina-as-released")
    recipe = load_recipe("wina-as-released")
    assert (status, recipe.meta["options"]["as_released"]) == (0, True)
    assert (recipe.phases.prefill, recipe.phases.dense_first) == (False, 4)
    _, out, _ = run("eval", "--recipe", "wina-as-released", "--text", "b.txt", "--limit", "1", "--json")
    assert json.loads(out)["phase"] == "decode"


def test_generate_streams_what_it_says_as_json(run):
    arguments = ["generate", "--recipe", "r", "--prompt", "Why?", "--max-new-tokens", "12"]
    status, out, err = run(*arguments)
    assert status == 0
    assert "12 tokens" in err
    record = json.loads(run(*arguments, "--json")[1])
    assert out.strip() == record["text"].strip()
    assert record["achieved"] == pytest.approx(0.4, abs=0.1)
    assert run(*arguments, "--temperature", "1", "--seed", "1")[1] != out


def test_generate_in_bfloat16(run):
    status, out, _ = run(
        *("generate", "--recipe", "r", "--prompt", "Why?", "--max-new-tokens", "4", "--dtype", "bfloat16", "--json")
    )
    assert (status, json.loads(out)["tokens"]) == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["calibrate", "--policy", "tael", "--sparsity", "0.4"], "unknown policy 'tael'. Did you mean teal?"),
        (["calibrate", "--policy", "teal"], "--sparsity or --max-perplexity-increase: one of the two"),
        (["calibrate", "--sparsity", "1.4"], "--sparsity: 1.4 is not between 0 and 1"),
        (["calibrate", "--sparsity", ".4", "--max-perplexity-increase", "1%"], "one of the two"),
        (["calibrate", "--max-perplexity-increase", "1 percent"], "'1 percent' is neither a share such as 0.01 nor 1%"),
        (["calibrate", "--max-perplexity-increase=-1%", "--text", "a.txt"], "--max-perplexity-increase: -0.01"),
        (["calibrate", "--sparsity", ".4", "--option", "as_released"], "'as_released' is not NAME=VALUE"),
        (["calibrate", "--policy", "teal", "--sparsity", ".4", "--option", "x=1"], "'x'"),
        (["calibrate", "--sparsity", ".4", "--text", "none.txt"], "--text: no such file: none.txt"),
        (["calibrate", "--sparsity", ".4", "--dense-first", "-1", "--text", "a.txt"], "--dense-first: -1 is negative"),
        (["eval"], "--text or --tasks: say what to measure on"),
        (["eval", "--text", "b.txt", "--recipe", "none"], "--recipe: none: no readable recipe.json here"),
        (["eval", "--text", "b.txt", "--recipe", "r", "--model", "other"], "calibrated on another model"),
        (["eval", "--text", "b.txt", "--stride", "600"], "--stride: 600 is not between 1 and 127"),
        (["eval", "--text", "b.txt", "--phase", "dense"], "--phase"),
        (["eval", "--text", "b.txt", "--dtype", "q8"], '"q8" for --dtype'),
        (["generate", "--prompt", "x", "--temperature", "-1"], "--temperature: -1.0 is not 0 or between"),
        (["generate"], "--prompt requires an argument"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(run, arguments, said):
    status, out, err = run(*arguments)
    assert (status, out) == (USERS_MISTAKE, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: record | {"version": 2}, "version 2; this sparseact reads version 1"),
        (lambda record: record | {"tensors_sha256": "0"}, "is not the file that recipe.json was written with"),
        (lambda record: {key: record[key] for key in record if key != "gates"}, "damaged"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_one_line_and_exit_2(run, place, change, said):
    recipe = load_recipe(place / "r")
    recipe.save(place / "changed")
    file = place / "changed" / "recipe.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    status, out, err = run("eval", "--text", "b.txt", "--recipe", "changed")
    assert (status, out, err.count("\n")) == (USERS_MISTAKE, "", 1)
    assert said in err


def test_nothing_is_left_half_written(run, place):
    (place / "file").write_text("not a folder")
    status, _, err = run("calibrate", "--policy", "teal", "--sparsity", "0.4", "--text", "a.txt", "--out", "file")
    assert (status, err.count("\n")) == (USERS_MISTAKE, 1)
    assert (place / "file").read_text() == "not a folder"


@pytest.mark.smollm2
def test_the_real_model(run):
    """The ten lines of the README, by command line."""
    arguments = ["--model", "smollm2", "--sparsity", "0.25", "--text", "a.txt", "--out", "real"]
    status, *_ = run("calibrate", "--policy", "teal", *arguments)
    assert status == 0
    options = ["--context", "64", "--limit", "2", "--model", "smollm2", "--json"]
    found = json.loads(run("eval", "--recipe", "real", "--text", "b.txt", *options)[1])
    assert found["agreement"] > 0.7
    assert found["achieved"] == pytest.approx(0.25, abs=0.06)
    assert found["bytes_per_token"] < 0.85 * found["bytes_per_token_dense"]
    prompt = ["--prompt", "What is the capital of France?", "--max-new-tokens", "8", "--model", "smollm2"]
    status, out, _ = run("generate", "--engine", "torch", "--recipe", "real", *prompt)
    assert "Paris" in out
