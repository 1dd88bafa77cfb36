"""The page of a training: what it cost and gave, in one file that fetches nothing."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from sparseact.report.style import number, percent
from sparseact.utils.files import write_atomically
from sparseact.utils.plain_json import read_json


def write_page(folder: Path) -> None:
    """Write report.html from train.json in a training's folder, and from that of its dense twin where there is one."""
    record = read_json(folder / "train.json")
    twin_file = folder / "twin" / "train.json"
    twin = read_json(twin_file) if twin_file.exists() else None
    if twin is not None and twin["identity"]["texts"] != record["identity"]["texts"]:
        twin = None  # of another run
    with write_atomically(folder / "report.html") as path:
        path.write_text(render(record, twin), encoding="utf-8")


def render(record: dict[str, Any], twin: dict[str, Any] | None) -> str:
    """The page as HTML."""
    from sparseact.training.pictures import density_picture, loss_picture  # needs matplotlib

    places = [Path(str(files(package))) for package in ("sparseact.training", "sparseact.report")]
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(places),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html")
    log, twin_log = record["log"], twin["log"] if twin else []
    method = record["options"]["method"]
    losses = {method: [(row["tokens"], row["loss"]) for row in log if not row["local"]]}
    local = {method: [(row["tokens"], row["loss"]) for row in log if row["local"]]}
    same_loss = twin is not None and record["options"]["objective"] == "lm"
    if same_loss:
        losses["dense twin"] = [(row["tokens"], row["loss"]) for row in twin_log]
    return template.render(
        claim=claim(record),
        options=record["options"],
        model=record["model"],
        rows=quality_rows(record, twin),
        twin=twin,
        loss=loss_picture(losses, "loss, nats per token") if losses[method] else None,
        local=loss_picture(local, "share of what a layer adds") if local[method] else None,
        density=density_picture(log) if log and log[0]["layers"] else None,
        options_and_texts={key: str(value) for key, value in record["options"].items() if value not in ({}, [])}
        | {
            name: f"{text['tokens']:,} tokens, {text['held_out_tokens']:,} held out"
            for name, text in record["texts"].items()
        },
        environment={key: str(value) for key, value in record["environment"].items()},
        seconds=record["seconds"],
        number=number,
        percent=percent,
    )


def claim(record: dict[str, Any]) -> str:
    """The result in one sentence, on the first text."""
    options, text = record["options"], next(iter(record["after"]))
    after, before = record["after"][text], record["before"][text]
    tokens = f"{record['log'][-1]['tokens'] if record['log'] else 0:,} tokens"
    cost = f"{after['increase']:+.1%} perplexity on held-out {text}, {before['increase']:+.1%} before"
    if options["method"] == "dense":
        return f"The dense twin after {tokens}: {cost}."
    return f"{options['method']} at sparsity {options['sparsity']:g}, after {tokens}: {cost}."


def quality_rows(record: dict[str, Any], twin: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Of each held-out text: the dense model, the start, the end, and the twin."""
    rows = []
    for text, after in record["after"].items():
        dense = {"perplexity": after["perplexity_dense"], "increase": 0.0, "kl": 0.0}
        stages = {"dense, as it was": dense, "before": record["before"][text], "after": after}
        if twin is not None:
            stages["dense twin, same tokens"] = twin["after"][text]
        rows += [{"text": text, "stage": stage, "tokens": after["tokens"], **found} for stage, found in stages.items()]
    return rows
