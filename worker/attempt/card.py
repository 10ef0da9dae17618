"""The model card of a published model: README.md as hubs read it. The same job and input give the same text.

Ids, times and hosts are in the manifest's provenance, never here. Whatever a user or a model has named is quoted:
as JSON in YAML and in the block of the spec, within a code span in the text.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.delivery.claim import Claim
from app.jobs.schemas import EvaluationRead
from secateur.spec.output import Form
from secateur.spec.records.pipe import Summary
from secateur.spec.records.tasks import TaskMetric
from worker.attempt.packing import form_of
from worker.model_files.choose import SMALL_FILES, is_companion

log = logging.getLogger(__name__)

PATH: Final = "model/README.md"
_LEFT_OUT: Final = ("model", "continues")
"""Of the spec: its ids, which the card says by digests."""
_FILES: Final = {
    Form.dense: "The files of this folder are as large as the dense model's, zeros and all; `secateur pack` makes "
    "them smaller.",
    Form.packed: "The weights of this folder are packed: a bitmask and the numbers that are not zero. `secateur "
    "unpack FOLDER DENSE` makes a plain checkpoint of it, and `secateur.packed.loading.from_pretrained` loads it "
    "as it is. In memory they are as large as the dense model's.",
    Form.masks: "This folder has masks alone. `secateur unpack FOLDER PRUNED --base DENSE` makes a plain "
    "checkpoint of it and of the dense model, which is the one of the digest below and no other; "
    "`secateur.packed.loading.from_pretrained` takes the same base.",
}
"""What the files are, in each form."""
_INFERENCE: Final = """\
Zeros are multiplied like any other number: dense kernels are as fast with them as without. Unstructured sparsity
becomes faster only in programs with sparse kernels of their own; 2:4 also on GPUs with sparse tensor cores, where
a program uses them."""


@dataclass(frozen=True)
class Subject:
    """What a card is about. license: `id`, `name` and `link` of the dense model's card; terms: names of the files
    with the model's terms; datasets: sha256 by id; base: digest of the manifest of the job that was continued."""

    spec: Mapping[str, Any]
    model_digest: str
    source: Mapping[str, Any]
    license: Mapping[str, Any] | None
    terms: Sequence[str]
    datasets: Mapping[str, str]
    base: str | None


def make_card(claim: Claim, evaluation: EvaluationRead, summary: Summary) -> bytes | None:
    """The card of a job's model, in UTF-8; None when it cannot be written: no job fails for want of a card."""
    try:
        return write_card(subject_of(claim), evaluation, summary).encode()
    except Exception:
        log.exception("the model card could not be written")
        return None


def subject_of(claim: Claim) -> Subject:
    """What the card of a claimed job is about."""
    return Subject(
        spec=claim.spec,
        model_digest=claim.model_digest,
        source=claim.model_source,
        license=claim.model_license,
        terms=terms_of(file.path for file in claim.model_files),
        datasets={id: text.file.sha256 for id, text in claim.datasets.items()},
        base=claim.base.manifest_digest if claim.base is not None else None,
    )


def terms_of(names: Iterable[str]) -> list[str]:
    """Of a model's files those with the terms that it is given under."""
    return sorted(name for name in names if is_companion(name) and name not in SMALL_FILES)


def write_card(subject: Subject, evaluation: EvaluationRead, summary: Summary) -> str:
    """The card's text."""
    parts = [
        _front_matter(subject),
        "# Pruned model",
        _introduction(subject, summary),
        "## Perplexity",
        _r_table(evaluation),
        *(["## Tasks", _tasks(evaluation)] if evaluation.tasks else []),
        "## At inference",
        f"{_FILES[form_of(subject.spec)]}\n\n{_INFERENCE}",
        "## How it was made",
        _making(subject),
        "## Digests",
        _digests(subject, summary),
    ]
    return "\n\n".join(parts) + "\n"


def quoted(text: str) -> str:
    """Any text within one line of Markdown, as code: nothing in it is markup, HTML or the end of a cell."""
    plain = "".join(sign if sign.isprintable() else " " for sign in text).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    space = " " if plain.startswith(("`", " ")) or plain.endswith(("`", " ")) or not plain else ""
    return f"{ticks}{space}{plain}{space}{ticks}"


def _front_matter(subject: Subject) -> str:
    """JSON's strings are YAML's, too."""
    library = "transformers" if form_of(subject.spec) is Form.dense else "secateur"
    lines = ["---", f"library_name: {library}", "pipeline_tag: text-generation"]
    if subject.source.get("type") == "hub":
        lines.append(f"base_model: {_json(subject.source.get('id'))}")
    lines += [f"{name}: {_json(value)}" for name, value in _license(subject).items() if value]
    lines += ["tags:", "- pruned", "- sparse", f"- {_json(str(subject.spec['method']['name']))}", "---"]
    return "\n".join(lines)


def _license(subject: Subject) -> dict[str, Any]:
    """The licence in the hub's fields. A link leads to an address, or to a file of terms that is here, too."""
    said = subject.license or {"id": "other"} if subject.terms else subject.license
    if said is None:
        return {}
    link = said.get("link")
    if link not in subject.terms and not str(link).startswith(("https://", "http://")):
        link = subject.terms[0] if subject.terms and said["id"] == "other" else None
    return {"license": said["id"], "license_name": said.get("name"), "license_link": link}


def _terms(subject: Subject) -> str:
    files = ", ".join(map(quoted, subject.terms))
    if subject.license is not None:
        named = quoted(str(subject.license.get("name") or subject.license["id"]))
        return f"{named} by its card" + (f", and in {files}" if files else "")
    return f"in {files}" if files else "whose files held none; its owner has them"


def _introduction(subject: Subject, summary: Summary) -> str:
    source, method = subject.source, subject.spec["method"]
    if source.get("type") == "hub":
        name = f"{quoted(str(source.get('id')))} at {quoted(str(source.get('commit') or source.get('revision')))}"
    else:
        name = "a model without a public name"
    domains = ", ".join(quoted(domain["name"]) for domain in subject.spec["domains"])
    return "\n".join(
        [
            f"- Base model: {name}, digest {quoted(subject.model_digest)}.",
            f"- Terms: those of the base model, {_terms(subject)}.",
            f"- Method: {quoted(str(method['name']))}, pattern "
            f"{quoted(str(subject.spec['sparsity'].get('pattern', 'unstructured')))}.",
            f"- Pruned: {summary.zeros:,} of {summary.weights:,} weights of the pruned matrices are zero "
            f"({summary.sparsity:.4%}).",
            f"- Domains, in the order of their stages: {domains}.",
        ]
    )


def _r_table(evaluation: EvaluationRead) -> str:
    """R: a row for the dense model and one a stage."""
    if not evaluation.domains:
        return "No domain had a text to evaluate on."
    header = ["after", *map(quoted, evaluation.domains)]
    rows = [header, ["---"] * len(header)]
    for row in evaluation.rows:
        name = "dense model" if row.row == 0 else quoted(row.after or str(row.row))
        rows.append([name, *(_number(row.perplexity.get(domain)) for domain in evaluation.domains)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    figures = f"BWT {_number(evaluation.bwt)}, log BWT {_number(evaluation.log_bwt)}"
    return f"{table}\n\n{figures}: how much worse earlier domains became."


def _tasks(evaluation: EvaluationRead) -> str:
    """A row a task and model."""
    rows = [["task", "model", "figures", "rows", "few-shot"], ["---"] * 5]
    for each in evaluation.tasks:
        shown = ", ".join(f"{_named(metric)} {_measured(metric)}" for metric in each.metrics)
        counts = ["–" if count is None else str(count) for count in (each.rows, each.few_shot)]
        rows.append([quoted(each.name), each.model, shown or "none: it failed", *counts])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    versions = ", ".join(sorted({each.harness for each in evaluation.tasks if each.harness is not None}))
    return f"{table}\n\nBy lm-eval {versions}, ± the standard error."


def _named(metric: TaskMetric) -> str:
    return quoted(metric.name if metric.filter == "none" else f"{metric.name} ({metric.filter})")


def _measured(metric: TaskMetric) -> str:
    return _number(metric.value) + ("" if metric.stderr is None else f" ± {_number(metric.stderr)}")


def _making(subject: Subject) -> str:
    """The spec with digests for ids. A backtick is written so that no text of it ends the block."""
    spec = {name: value for name, value in subject.spec.items() if name not in _LEFT_OUT}
    spec["output"] = {name: value for name, value in spec.get("output", {}).items() if name != "publish_to"}
    spec["domains"] = [
        domain | {key: _digest_of(domain.get(key), subject.datasets) for key in ("dataset", "evaluation")}
        for domain in spec["domains"]
    ]
    spec["tasks"] = [
        task | {"dataset": _digest_of(task.get("dataset"), subject.datasets)} for task in spec.get("tasks", ())
    ]
    spec["model"] = f"sha256:{subject.model_digest}"
    if subject.base is not None:
        spec["continues"] = f"sha256:{subject.base}"
    text = json.dumps(spec, indent=1, sort_keys=True).replace("`", "\\u0060")
    return (
        f"```json\n{text}\n```\n\n"
        "Models, texts and a continued job are named by their digests. Register the same ones, put their ids in "
        "place of the digests, and `secateur submit spec.json` makes the same files on the same kind of machine."
    )


def _digests(subject: Subject, summary: Summary) -> str:
    """No digest of the spec as stored: that has ids in it."""
    rows = {"dense model": subject.model_digest, "masks": summary.masks_sha256, "weights": summary.weights_sha256}
    return "\n".join(
        ["| of | sha256 |", "|---|---|", *(f"| {name} | `{value}` |" for name, value in rows.items())]
    )


def _digest_of(id: str | None, datasets: Mapping[str, str]) -> str | None:
    return None if id is None else f"sha256:{datasets.get(id, 'unknown')}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _json(value: Any) -> str:
    return json.dumps(value)
