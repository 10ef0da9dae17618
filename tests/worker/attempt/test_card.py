"""The model card: what hubs read of it, and that no text of a stranger is markup in it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml

from app.jobs.schemas import EvaluationRead, RowRead, TaskRead
from secateur.hub import write_card as card_for_hub
from tests.records import summary, task_result
from worker.attempt.card import Subject, quoted, terms_of, write_card

DIGEST = "a" * 64
SPEC: dict[str, Any] = {
    "model": "mdl_0",
    "continues": "job_0",
    "method": {"name": "wanda"},
    "sparsity": {"target": 0.5, "pattern": "2:4", "overrides": []},
    "domains": [{"name": "law", "dataset": "ds_1", "evaluation": "ds_2"}],
    "output": {"publish_to": "place", "keep_stages": False},
}
SUBJECT = Subject(
    spec=SPEC,
    model_digest=DIGEST,
    source={"type": "hub", "id": "org/model", "commit": "c" * 40},
    license=None,
    terms=["LICENSE"],
    datasets={"ds_1": "1" * 64, "ds_2": "2" * 64},
    base="b" * 64,
)
EVALUATION = EvaluationRead(
    job="job_1",
    domains=["law"],
    not_measured=[],
    rows=[
        RowRead(row=0, stage=None, lineage_stage=None, job=None, after=None, perplexity={"law": 8.25}),
        RowRead(row=1, stage=0, lineage_stage=0, job="job_1", after="law", perplexity={"law": None}),
    ],
    protocols={},
)


def front_matter(card: str) -> Any:
    return yaml.safe_load(card.split("---\n")[1])


def test_what_a_hub_reads() -> None:
    card = write_card(SUBJECT, EVALUATION, summary())
    found = front_matter(card)
    assert found == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "org/model",
        "license": "other",
        "license_link": "LICENSE",
        "tags": ["pruned", "sparse", "wanda"],
    }
    assert "| dense model | 8.2500 |" in card
    assert "| `law` | – |" in card


def test_tasks_are_told_with_both_models_and_their_questions_by_digest() -> None:
    tasks = [
        task_result().model_dump(exclude={"type"}),
        task_result(model="pruned", error="no memory").model_dump(),
    ]
    evaluation = EVALUATION.model_copy(update={"tasks": list(map(TaskRead.model_validate, tasks))})
    asked = [{"name": "own", "dataset": "ds_2", "few_shot": None, "limit": None}]
    card = write_card(replace(SUBJECT, spec=SPEC | {"tasks": asked}), evaluation, summary())
    assert "| `own` | dense | `acc` 0.5000 ± 0.1000 | 12 | 0 |" in card
    assert "| `own` | pruned | none: it failed | 12 | 0 |" in card
    assert "lm-eval 0.4.13" in card
    spec = json.loads(card.split("```json\n")[1].split("\n```")[0])
    assert spec["tasks"][0]["dataset"] == f"sha256:{'2' * 64}"


def test_the_spec_has_digests_in_place_of_ids_and_places() -> None:
    card = write_card(SUBJECT, EVALUATION, summary())
    spec = json.loads(card.split("```json\n")[1].split("\n```")[0])
    assert (spec["model"], spec["continues"]) == (f"sha256:{DIGEST}", f"sha256:{'b' * 64}")
    assert spec["domains"][0]["dataset"] == f"sha256:{'1' * 64}"
    assert spec["output"] == {"keep_stages": False}
    assert not re.search(r"(mdl|job|ds)_[0-9]", card)


@pytest.mark.parametrize(("form", "said"), [("packed", "unpack FOLDER DENSE"), ("masks", "--base DENSE")])
def test_a_packed_folder_is_said_to_be_one(form: str, said: str) -> None:
    card = write_card(replace(SUBJECT, spec=SPEC | {"output": {"form": form}}), EVALUATION, summary())
    assert said in card
    assert front_matter(card)["library_name"] == "secateur"
    assert said not in write_card(SUBJECT, EVALUATION, summary())


def test_a_model_of_no_hub_is_said_to_be_without_name_and_terms() -> None:
    card = write_card(
        replace(SUBJECT, source={"type": "folder", "path": "/srv/x"}, terms=[]), EVALUATION, summary()
    )
    assert not {"base_model", "license"} & front_matter(card).keys()
    assert "/srv" not in card


APACHE = {"id": "apache-2.0", "name": None, "link": None}
LLAMA = {"id": "other", "name": "llama", "link": "LICENSE"}


@pytest.mark.parametrize(
    ("license", "terms", "fields", "said"),
    [
        (APACHE, [], {"license": "apache-2.0"}, "`apache-2.0` by its card."),
        (APACHE, ["LICENSE"], {"license": "apache-2.0"}, "`apache-2.0` by its card, and in `LICENSE`."),
        (
            LLAMA,
            ["LICENSE", "NOTICE"],
            {"license": "other", "license_name": "llama", "license_link": "LICENSE"},
            "`llama` by its card, and in `LICENSE`, `NOTICE`.",
        ),
        (LLAMA, [], {"license": "other", "license_name": "llama"}, "`llama` by its card."),
        (
            LLAMA | {"link": "javascript:x"},
            ["COPYING"],
            {"license": "other", "license_name": "llama", "license_link": "COPYING"},
            "`llama` by its card, and in `COPYING`.",
        ),
        (
            LLAMA | {"link": "https://llama.example/terms"},
            [],
            {"license": "other", "license_name": "llama", "license_link": "https://llama.example/terms"},
            "`llama` by its card.",
        ),
        (None, ["NOTICE"], {"license": "other", "license_link": "NOTICE"}, "in `NOTICE`."),
    ],
)
def test_the_licence_is_the_dense_models(
    license: dict[str, Any] | None, terms: list[str], fields: dict[str, str], said: str
) -> None:
    """A link leads to an address or to a file that is there."""
    card = write_card(replace(SUBJECT, license=license, terms=terms), EVALUATION, summary())
    assert {name: value for name, value in front_matter(card).items() if name.startswith("license")} == fields
    assert f"- Terms: those of the base model, {said}\n" in card


def test_a_hub_gets_the_licence_of_the_card_unless_another_is_named(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(write_card(replace(SUBJECT, license=LLAMA), EVALUATION, summary()))
    kept = front_matter(card_for_hub(huggingface_hub, path, [], None, packed=False))
    assert [kept[name] for name in ("license", "license_name", "license_link")] == ["other", "llama", "LICENSE"]
    named = front_matter(card_for_hub(huggingface_hub, path, [], "mit", packed=False))
    assert named["license"] == "mit"
    assert not {"license_name", "license_link"} & named.keys()


HOSTILE = ['"\n---\nlicense: mit', "```\n# Owned", "<script>", "a|b", "`", "x\x1b[2J", "[a](javascript:b)", " "]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_markup(text: str) -> None:
    spec = SPEC | {"sparsity": SPEC["sparsity"] | {"overrides": [{"match": text, "skip": True}]}}
    hub = {"type": "hub", "id": text, "commit": text}
    licence = {"id": "other", "name": text, "link": text}
    subject = replace(SUBJECT, spec=spec, source=hub, license=licence, terms=[text])
    card = write_card(subject, EVALUATION, summary())
    found = front_matter(card)
    assert [found[name] for name in ("base_model", "license_name", "license_link")] == [text] * 3
    inside = card.split("```json\n")[1].split("\n```\n\nModels")[0]
    assert json.loads(inside)["sparsity"]["overrides"][0]["match"] == text
    assert [line for line in card.splitlines() if line.startswith("#")] == [
        "# Pruned model", "## Perplexity", "## At inference", "## How it was made", "## Digests",
    ]  # fmt: skip
    assert card.count("\x1b") == 0


@pytest.mark.parametrize("text", HOSTILE)
def test_quoted_text_is_one_code_span(text: str) -> None:
    found = quoted(text)
    fence = re.match("`+", found)
    assert fence is not None
    assert found.endswith(fence[0])
    assert fence[0] not in re.findall("`+", found[len(fence[0]) : -len(fence[0])])
    assert "\n" not in found


def test_terms_are_what_is_neither_configuration_nor_tokenizer() -> None:
    names = ["config.json", "LICENSE", "NOTICE.txt", "tokenizer.json", "model.safetensors"]
    assert terms_of(names) == ["LICENSE", "NOTICE.txt"]
