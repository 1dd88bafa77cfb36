"""A disk that is full or may only be read costs no answer: caches are left out, results are kept elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparseact.cli import USERS_MISTAKE, main
from sparseact.data import builtin_questions
from sparseact.engine.simd.entry import _folder
from sparseact.errors import InputError
from sparseact.models import fetching
from sparseact.policies import TEAL
from sparseact.testing import tiny_model, tiny_tokenizer
from sparseact.utils.files import check_folder, save_somewhere

PROMPT = ("generate", "--prompt", "Why?", "--max-new-tokens", "6", "--threads", "1", "--dtype", "f32")
SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))\n"
NO_ROOM = "import sys; from sparseact.engine.load import packed; packed.LEAST = 0\n"
RUN = "from sparseact.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "a.txt").write_text("\n".join(row["question"] for row in builtin_questions()))
    return str(folder)


@pytest.fixture(scope="module")
def answer(model):
    """The text, and compiled code for those who may not compile it again."""
    return run(model).stdout


def run(model, before="", **environment):
    command = [sys.executable, "-c", before + NO_ROOM + RUN, *PROMPT, "--model", model]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def test_files_that_cannot_be_written_whole_cost_no_answer(model, answer):
    """As on a full disk: compiled code is there, packed weights have no room."""
    found = run(model, before=SMALL_FILES.format(2048))
    assert (found.returncode, found.stdout) == (0, answer)


def test_a_cache_that_is_no_folder_costs_no_answer(model, answer, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with_code = str(Path(_folder()).parent)  # compiled code is there
    found = run(model, SPARSEACT_CACHE=str(tmp_path / "file"), NUMBA_CACHE_DIR=with_code)
    assert (found.returncode, found.stdout) == (0, answer)
    assert "the weights are packed anew at each load: cannot write" in found.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("calibrate", "--policy", "teal", "--sparsity", "0.5"),
        ("score", "--prompt", "Why?"),
        ("sweep", "--limit", "1"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_before_the_work(command, model, tmp_path, capsys, monkeypatch):
    import sparseact.models

    monkeypatch.setattr(sparseact.models, "load", lambda *_, **__: pytest.fail("the work began"))
    (tmp_path / "file").write_text("x")
    assert main([*command, "--model", model, "--out", str(tmp_path / "file" / "out")]) == USERS_MISTAKE
    assert capsys.readouterr().err.endswith("out cannot be written: a part of the path is a file, not a folder\n")


def test_trying_a_folder_leaves_nothing(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/a").write_text("a")
    for folder in (tmp_path / "there", tmp_path / "new" / "deep"):
        check_folder(folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "there"]


def test_what_was_long_in_the_making_is_kept_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)

    def save(folder):
        if folder.name == "out":
            raise InputError("cannot write out: no space left on the device")
        (folder / "recipe.json").write_text("{}")

    with pytest.raises(InputError, match=r"no space left on the device; what was computed is in .*sparseact-") as said:
        save_somewhere(tmp_path / "out", save)
    assert (Path(str(said.value).rpartition(" ")[2]) / "recipe.json").read_text() == "{}"

    def never(_):
        raise InputError("it holds a number that is not finite")

    with pytest.raises(InputError, match=r"not finite$"):
        save_somewhere(tmp_path / "out", never)
    assert len(list((tmp_path / "tmp").iterdir())) == 1


def test_a_recipe_for_which_there_is_no_room_is_kept_elsewhere(model, tmp_path):
    """Files of more than 8 KB cannot be written beside --out, nor anywhere; of less they are."""
    out = tmp_path / "out"
    calibrate = ["calibrate", "--policy", "teal", "--sparsity", "0.5", "--text", f"{model}/a.txt", "--out", str(out)]
    command = [sys.executable, "-c", SMALL_FILES.format(4500) + "import sys\n" + RUN, *calibrate, "--model", model]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == USERS_MISTAKE
    assert "this system allows; what stood there before is unchanged" in found.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [("models",), ("models", "--json"), ("--version",)])
def test_standard_output_on_a_full_disk_is_one_line(arguments):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "sparseact", *arguments]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert found.returncode == USERS_MISTAKE
    assert found.stderr == "sparseact: the output cannot be written: no space left on the device\n"


def test_weights_in_a_cache_that_may_only_be_read_are_read(tmp_path, monkeypatch):
    """They came without torch; what torch would read sooner cannot be made, and is not needed."""
    import hashlib
    from dataclasses import replace

    monkeypatch.setenv("SPARSEACT_CACHE", str(tmp_path))
    file = tmp_path / "smollm2" / fetching.BUILTIN["smollm2"].gguf
    file.parent.mkdir()
    file.write_bytes(b"weights")
    small = replace(fetching.BUILTIN["smollm2"], sha256=hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(fetching.BUILTIN, "smollm2", small)

    def no_room(*_, **__):
        raise InputError("no space for smollm2")

    monkeypatch.setattr(fetching, "fetch", no_room)
    assert fetching.gguf_path("smollm2") == file
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match="no space for smollm2"):
        fetching.gguf_path("smollm2")


def test_a_sweep_that_the_disk_stops_keeps_its_prompts(tmp_path, monkeypatch):
    from sparseact.sweep.folder import SweepFolder

    meta = {"version": 1, "model": {"name": "m"}, "plan": {}, "prompts_sha256": "", "seconds": 0.0}
    row = {"metric": "magnitude", "units": "mlp", "sparsity": 0.5, "heads_sparsity": 0.5, "achieved": 0.5, "tokens": 3}
    row |= {"agreement": 1.0, "nll": 1.0, "nll_dense": 1.0, "kl": 0.0, "bleu": 1.0, "exact": True, "leak": 0.0}
    row |= {"text": "a", "text_dense": "a", "question": "q", "prompt_tokens": 3}
    folder = SweepFolder(tmp_path / "out", meta)
    for prompt in range(2):
        folder.add(prompt, [row | {"prompt": prompt}], [{"prompt": prompt}], 1.0)

    def full(*_, **__):
        raise InputError("no space left on the device")

    monkeypatch.setattr("sparseact.sweep.folder.write_json", full)
    with pytest.raises(InputError):
        folder.add(2, [row | {"prompt": 2}], [{"prompt": 2}], 1.0)
    monkeypatch.undo()
    assert SweepFolder(tmp_path / "out", meta).done == {0, 1}
    assert json.loads((tmp_path / "out/meta.json").read_bytes())["prompts_done"] == 2
    assert np.isfinite(SweepFolder(tmp_path / "out", meta).meta["seconds"])


def test_a_disk_that_is_too_full_for_the_second_file_keeps_both_of_an_older_recipe(tmp_path, monkeypatch):
    from dataclasses import replace

    recipe = TEAL(sparsity=0.5).calibrate(tiny_model("llama"), tiny_tokenizer(), "the quick brown fox. " * 50)
    recipe.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_, **__):
        raise InputError("no space left on the device")

    monkeypatch.setattr("sparseact.recipes.recipe.write_json", full)
    with pytest.raises(InputError, match="no space"):
        replace(recipe, gates=recipe.gates[:2]).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
