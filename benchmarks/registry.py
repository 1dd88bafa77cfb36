"""Every measurement behind the documentation: its page, the files that are kept, how they are made, how long it takes.

`make results` lists it and remakes one by name. tests/docs/test_results.py makes the tables again from the files and
compares them with the pages; a table that has no file stands in UNKEPT with the reason.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs/results"


@dataclass(frozen=True)
class Result:
    """A measurement.

    Attributes:
        page: that it stands in, from the root.
        hours: that it takes on the two cores of docs/results/engine.md, by what the rows say or by a part of it that
            was run; others take another.
        commands: that measure, in order. `{runs}` is the folder that they write, `{text}` and `{other}` are the texts
            that are given to `make results`. What was interrupted goes on.
        files: that are kept in docs/results, as globs; they are made under the same names in `{runs}`.
        tables: the module of this folder whose `places(files)` are the tables of the page, by the name of their place.
        draw: commands that draw the page's pictures from the kept files.
    """

    page: str
    hours: float
    commands: tuple[str, ...]
    files: tuple[str, ...] = ()
    tables: str = ""
    draw: tuple[str, ...] = ()

    @property
    def text(self) -> Path:
        """The page."""
        return ROOT / self.page

    def kept(self) -> list[Path]:
        """The files that are there."""
        return [path for pattern in self.files for path in sorted(KEPT.glob(pattern))]

    def places(self) -> dict[str, str]:
        """The tables that the kept files make, by the name of their place in the page."""
        if not self.tables:
            return {}
        found: dict[str, str] = importlib.import_module(self.tables).places(self.kept())
        return found


ARMS = (
    '"dense bf16=smollm2:bf16" "dense file (Q4_1)=smollm2:file" "dense q8=smollm2:q8" '
    '"dense q8, screen=smollm2:q8+screen" "dense file, screen=smollm2:file+screen" '
    '"trained .33 on=runs/sparse-model@runs/sparse-model/recipe:q8"'
)

POLICY_ROWS = "python benchmarks/policies.py --windows 6 --text {text}"
COSTS = "python benchmarks/calibration.py --threads 1 --text {text} --recipes {runs}/recipes"
ORACLE = "python benchmarks/oracle_to_runtime.py --threads 1 --out {runs}/oracle-to-run-time.jsonl"
ALSO_ON_OWN_TEXT = (
    'CHESS "up · RMS" "first look" "rank-1/8 predictor of activation" "rank-1/16 guess" "static magnitude"'
)
DECODE = "python benchmarks/decode.py --context 4224 --text {text}"
RECIPES = [
    "smollm2 sparseact 0.25",
    "smollm2 sparseact 0.4",
    "smollm2 sparseact 0.5",
    "smollm2 griffin 0.5",
    "gemma3 sparseact 0.4",
]
PAYS = "python benchmarks/sparse_that_pays.py --windows 8 --out {runs}/sparse-that-pays.jsonl --text {text} {other}"
PREDICTORS = "python benchmarks/predictors.py --tokens 2300 20000 --kinds ridge --windows 3 --out {runs}/predictors"
BUSY = "python benchmarks/busy_machine.py --runners engine:q8 --loops 0 2 4 --tokens 96"

ENGINE_ROWS = "docs/results/engine/gemma3.jsonl docs/results/engine/smollm2.jsonl"
PAYS_ROWS = "docs/results/sparse-that-pays.jsonl"

RESULTS = {
    "song2024": Result(
        page="docs/results/song2024.md",
        hours=3,
        commands=(
            "python benchmarks/song2024.py --model smollm2 --limit 24 --out {runs}/song2024",
            "python benchmarks/song2024.py --model gemma3 --limit 12 --out {runs}/song2024",
        ),
        files=("song2024/*.csv",),
        tables="song2024_tables",
    ),
    "policies": Result(
        page="docs/results/policies.md",
        hours=7,
        commands=(
            f"{POLICY_ROWS} --model smollm2 --out {{runs}}/policies/smollm2.jsonl",
            f"{POLICY_ROWS} --model gemma3 --out {{runs}}/policies/gemma3.jsonl",
        ),
        files=("policies/smollm2.jsonl", "policies/gemma3.jsonl"),
        tables="policies_tables",
        draw=("python benchmarks/policies_tables.py",),
    ),
    "calibration": Result(
        page="docs/results/policies.md",
        hours=0.6,
        commands=(
            f"{COSTS} --model smollm2 --out {{runs}}/policies/calibration.jsonl",
            f"{COSTS} --model gemma3 --out {{runs}}/policies/calibration.jsonl",
        ),
        files=("policies/calibration.jsonl",),
        tables="calibration",
    ),
    "oracle-to-run-time": Result(
        page="docs/results/oracle-to-run-time.md",
        hours=2,
        commands=(
            f"{ORACLE} --model smollm2 --limit 10 --text {{text}}",
            f"{ORACLE} --model gemma3 --limit 5 --text {{text}}",
            f"{ORACLE} --model smollm2 --limit 10 --text own --methods {ALSO_ON_OWN_TEXT}",
        ),
        files=("oracle-to-run-time.jsonl",),
        tables="oracle_to_runtime",
    ),
    "engine": Result(
        page="docs/results/engine.md",
        hours=2,
        commands=(
            "make bench-peers",
            *(
                "sparseact calibrate --model {} --policy {} --sparsity {}".format(*recipe.split())
                + f" --text {{text}} --out {{runs}}/recipes/{recipe.replace(' ', '-')}"
                for recipe in RECIPES
            ),
            *(
                f"{DECODE} --model {model} --out {{runs}}/engine/{model}.jsonl --recipes"
                + "".join(f" {{runs}}/recipes/{recipe.replace(' ', '-')}" for recipe in RECIPES if model in recipe)
                for model in ("smollm2", "gemma3")
            ),
        ),
        files=("engine/*.jsonl",),
        tables="decode_table",
        draw=(f"python benchmarks/decode_table.py {ENGINE_ROWS} --page docs/results/engine.md --images docs/images",),
    ),
    "sparse-that-pays": Result(
        page="docs/results/sparse-that-pays.md",
        hours=2.5,
        commands=(
            "make sparse-model TEXT={text}",
            f"{PAYS} --arms {ARMS}",
        ),
        files=("sparse-that-pays.jsonl",),
        tables="sparse_that_pays",
        draw=(f"python benchmarks/sparse_that_pays_plot.py {PAYS_ROWS} docs/images/sparse-that-pays.png",),
    ),
    "trained-arms": Result(
        page="docs/results/sparse-that-pays.md",
        hours=3,
        commands=("python benchmarks/trained_arms.py --text {text} --other {other} --windows 2 --out {runs}",),
        files=("trained-arms.jsonl",),
        tables="trained_arms",
    ),
    "predictors": Result(
        page="docs/results/sparse-that-pays.md",
        hours=1,
        commands=(f"{PREDICTORS} --text {{text}} --measure {{other}}",),
    ),
    "reliability": Result(
        page="docs/reliability.md",
        hours=14,
        commands=("python benchmarks/reliability.py --out {runs}/reliability.jsonl",),
        files=("reliability.jsonl",),
        tables="reliability",
    ),
    "busy-machine": Result(
        page="docs/reliability.md",
        hours=0.1,
        commands=(f"{BUSY} --out {{runs}}/busy-machine.jsonl",),
    ),
    "attribution-speed": Result(
        page="docs/results/attribution-speed.md",
        hours=0.3,
        commands=("python benchmarks/attribution.py --threads 1",),
    ),
    "interdependency": Result(
        page="docs/results/interdependency.md",
        hours=1,
        commands=("python benchmarks/interdependency.py --threads 1 --out {runs}/interdependency.jsonl",),
    ),
    "head-screening": Result(
        page="docs/results/engine.md",
        hours=0.3,
        commands=("python benchmarks/head_screening.py --text {text} --tokens 4096",),
    ),
    "kernels": Result(
        page="docs/results/engine.md",
        hours=0.2,
        commands=(
            "python benchmarks/kernel_bandwidth.py",
            "python benchmarks/kernel_bandwidth.py --inputs 640 --rows 262144 --layouts panels,columns,long",
        ),
    ),
}

_PRINTED = "its script prints the table and keeps no rows; `make results ONLY={}` prints it again"
_LOST = "its rows were not kept; `make results ONLY={}` measures it again"
_BY_HAND = "measured once while the code was being written, by a script that is not in the repository; {}"

UNKEPT = {
    ("docs/install.md", "name"): "sizes of downloads, as the package index says them",
    ("docs/one-pass.md", "against the loop in float64"): _PRINTED.format("attribution-speed"),
    ("docs/reliability.md", "runner"): _LOST.format("busy-machine"),
    ("docs/results/attribution-speed.md", ""): _PRINTED.format("attribution-speed"),
    ("docs/results/attribution-speed.md", "largest difference"): _PRINTED.format("attribution-speed"),
    ("docs/results/engine.md", "type"): (
        "three tables: `kernels` prints the one of kernels again; lossless drafts and prefill were "
        + _BY_HAND.format("`sparseact bench --lossless` and `sparseact bench` time the same")
    ),
    ("docs/results/engine.md", "model"): _PRINTED.format("head-screening"),
    ("docs/results/engine.md", "head"): _PRINTED.format("kernels"),
    ("docs/results/engine.md", "tried"): _BY_HAND.format("the variants that lost were not kept either"),
    ("docs/results/interdependency.md", "neurons off"): _LOST.format("interdependency"),
    ("docs/results/interdependency.md", "heads off"): _LOST.format("interdependency"),
    ("docs/results/interdependency.md", ""): _LOST.format("interdependency"),
    ("docs/results/policies.md", "model"): (
        "two tables, whose rows were not kept: benchmarks/policies.py measures them again with `--policies sparseact "
        "--options '{\"lm_head\": true}'` and `--policies griffin --options '{\"heads\": 0.2}'`"
    ),
    ("docs/results/policies.md", "variant"): _BY_HAND.format("the variants that lost were not kept either"),
    ("docs/results/song2024.md", "Phi-2, as published"): "the paper's own Table 2; not measured here",
    ("docs/results/sparse-that-pays.md", "tokens"): _BY_HAND.format("a forerunner of `sparseact train`"),
    ("docs/results/sparse-that-pays.md", "step"): _BY_HAND.format("the variants that lost were not kept either"),
    ("docs/results/sparse-that-pays.md", "tokens that it was fitted on"): _LOST.format("predictors"),
}
"""Why a table of measured figures has no file: by its page and the first cell of its head."""
