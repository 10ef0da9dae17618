"""`--set`: every field of the spec by its path."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from secateur.cli import settings
from secateur.spec.job import JobCreate
from tests.secateur.conftest import Reply, Run, ScriptedServer, job_document

STORED = json.loads((Path(__file__).parent / "spec" / "stored_specs.json").read_text())


def _leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    """Every value of a spec that holds no other one, by its path."""
    if isinstance(value, dict) and value:
        return [each for name, inner in value.items() for each in _leaves(inner, (*path, name))]
    if isinstance(value, list) and value:
        return [each for number, inner in enumerate(value) for each in _leaves(inner, (*path, str(number)))]
    return [(".".join(path), value)]


def _specs() -> list[dict[str, Any]]:
    found = STORED.values() if isinstance(STORED, dict) else STORED
    return [each.get("spec", each) for each in found]


@pytest.mark.parametrize("number", range(len(_specs())))
def test_a_whole_spec_can_be_said_by_paths(number: int) -> None:
    spec = {name: value for name, value in _specs()[number].items() if value is not None}
    said = [f"{path}={value if isinstance(value, str) else json.dumps(value)}" for path, value in _leaves(spec)]
    assert settings.apply({}, said) == spec


def test_every_field_of_the_model_is_there() -> None:
    known = settings.fields()
    assert set(JobCreate.model_fields) <= set(known)
    assert known["method.reading"].choices == ("own_terms", "token", "sample", "dataset", "fisher")
    assert known["method.admm.rho"].default == 1.0
    assert {"domains.N.calibration.samples", "sparsity.overrides.N.match", "labels.N"} <= set(known)


def test_values_are_of_their_fields_type_and_names_of_labels_have_points() -> None:
    said = ["labels.team.x=5", "gate.max_bwt=2", "gate.max_log_bwt=null", "limits.max_runtime=12h", "priority=3"]
    assert settings.apply({"priority": 1}, said) == {
        "labels": {"team.x": "5"},
        "gate": {"max_bwt": 2, "max_log_bwt": None},
        "limits": {"max_runtime": "12h"},
        "priority": 3,
    }


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("method.reeding=token", "method.reading"),
        ("target=0.5", "sparsity.target"),
        ("domains.0.calibration.sample=8", "domains.N.calibration.samples"),
        ("nothing.like.it=1", "secateur fields"),
        ("domains.3.weight=1", "counted from 0"),
        ("domains.²=2", "counted from 0"),
        (f"domains.{'9' * 5000}=2", "counted from 0"),
        ("domains.1.weight=2", 'domains.1 is "x" here, which has no fields'),
        ("method.reading=token", 'method is "wanda" here, which has no fields'),
        ("priority", "path=value"),
    ],
)
def test_what_no_spec_has_is_refused_with_what_is_near(wrong: str, near: str) -> None:
    with pytest.raises(typer.BadParameter, match=near.replace(".", r"\.")):
        settings.apply({"domains": [{"name": "a"}, "x"], "method": "wanda"}, [wrong])


def test_what_the_users_file_leaves_open_is_filled() -> None:
    spec = {"domains": [None], "method": None}
    assert settings.apply(spec, ["domains.0.weight=2", "method.reading=token", "labels.3=x"]) == {
        "domains": [{"weight": 2}],
        "method": {"reading": "token"},
        "labels": {"3": "x"},
    }


@pytest.mark.parametrize("value", ["NaN", "1e999", "[" * 5000, '{"a": 1, "a": 2}'])
def test_values_that_are_not_strict_json_are_refused(run: Run, scripted: ScriptedServer, value: str) -> None:
    options = ("--model", "mdl_1", "--domain", "a=ds_1", "--set", f"sparsity.target={value}")
    code, out, err = run("submit", *options)
    assert (code, out, scripted.requests) == (2, "", [])
    assert "/sparsity/target" in err


def test_a_file_that_is_not_strict_json_is_refused(run: Run, scripted: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"model": "mdl_1", "sparsity": {"target": NaN}}')
    code, _, err = run("submit", str(tmp_path / "job.json"))
    assert (code, scripted.requests) == (2, [])
    assert "NaN is not a JSON number" in err


def test_options_and_files_are_changed_by_it(run: Run, scripted: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"model": "mdl_1", "method": {"name": "copal"}}')
    scripted.script = [Reply.json(job_document("queued"), 201)] * 2
    options = [
        "--model",
        "mdl_1",
        "--domain",
        "a=ds_1",
        "--set",
        "method.reading=token",
        "--set",
        "domains.0.weight=2",
    ]
    assert run("submit", *options) == (0, "job_1\n", "")
    assert run("submit", str(tmp_path / "job.json"), "--set", "method.reading=fisher")[0] == 0
    first, second = (json.loads(request.body) for request in scripted.requests)
    assert (first["method"], first["domains"][0]["weight"]) == ({"name": "copal", "reading": "token"}, 2)
    assert second == {"model": "mdl_1", "method": {"name": "copal", "reading": "fisher"}}


def test_what_is_set_is_checked_before_anything_is_uploaded(run: Run, scripted: ScriptedServer) -> None:
    code, out, err = run("submit", "--model", "mdl_1", "--domain", "a=ds_1", "--set", "method.reading=tokens")
    assert (code, out, scripted.requests) == (2, "", [])
    assert "/method/reading" in err


def test_the_shell_is_offered_paths_and_words() -> None:
    assert [path for path, _ in settings.completion("method.rea")] == ["method.reading="]
    assert ("method.reading=token", "") in settings.completion("method.reading=t")
    assert settings.completion("nonsense=") == []


def test_fields_are_listed_with_what_they_mean(run: Run) -> None:
    code, out, _ = run("fields", "method.admm")
    assert code == 0
    assert "method.admm.mask_steps" in out
    assert "domains" not in out
    (found,) = json.loads(run("fields", "method.reading", "--json")[1])
    assert (found["path"], found["default"]) == ("method.reading", "own_terms")
