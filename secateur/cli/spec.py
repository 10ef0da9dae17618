"""From options to a job spec."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import typer

from secateur import strict_json
from secateur.cli.ids import find, is_short
from secateur.cli.settings import apply
from secateur.client import Client
from secateur.errors import SecateurError
from secateur.transport import Json


@dataclass(frozen=True)
class DomainOption:
    """`name=calibration[:evaluation]`, each a dataset id or a local file."""

    name: str
    calibration: str
    evaluation: str | None

    @classmethod
    def parse(cls, text: str) -> "DomainOption":
        name, equals, rest = text.partition("=")
        if not equals or not name or not rest:
            raise typer.BadParameter(f"{text!r} is not name=calibration[:evaluation]")
        if Path(rest).is_file():
            return cls(name, rest, None)
        calibration, _, evaluation = rest.partition(":")
        return cls(name, calibration, evaluation or None)


@dataclass(frozen=True)
class SpecOptions:
    """The options of `submit` that make a spec; what is None is left to the server's defaults."""

    domain: Sequence[str] = ()
    model: str | None = None
    continues: str | None = None
    effort: str | None = None
    method: str | None = None
    weight_update: str | None = None
    mode: str | None = None
    objective: str | None = None
    sparsity: float | None = None
    pattern: str | None = None
    samples: int | None = None
    sequence_length: int | None = None
    seed: int | None = None
    max_windows: int | None = None
    priority: int | None = None
    max_runtime: str | None = None
    max_pending: str | None = None
    max_bwt: float | None = None
    max_log_bwt: float | None = None
    max_mean_perplexity: float | None = None
    label: Sequence[str] = ()
    text_field: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "SpecOptions":
        """From the command's options by name, among others."""
        given = {each.name: options[each.name] for each in fields(cls)}
        return cls(**given | {name: tuple(given[name] or ()) for name in ("domain", "label")})

    def with_defaults(self) -> "SpecOptions":
        """For a new job a method and half of the weights; a continuation has its parent's."""
        if self.continues is not None:
            return self
        target = 0.5 if self.pattern in (None, "unstructured") else None
        return replace(
            self,
            method=self.method or "copal",
            sparsity=target if self.sparsity is None else self.sparsity,
        )


def read_spec(source: str) -> Json:
    """A spec from a JSON file or, for `-`, from standard input."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{source} cannot be read: {error}") from error
    try:
        spec = strict_json.loads(text.encode())
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{source} is not strict JSON: {error}") from error
    if not isinstance(spec, dict):
        raise typer.BadParameter(f"{source} is not a JSON object")
    return spec


def build_spec(client: Client, options: SpecOptions, settings: Sequence[str] = ()) -> Json:
    """A spec from options and `--set`; local files are uploaded, once nothing is left to refuse about the rest."""
    uploaded: dict[str, str] = {}

    def dataset(reference: str, name: str) -> str:
        if reference not in uploaded:
            uploaded[reference] = _dataset(client, reference, name, options.text_field)
        return uploaded[reference]

    check(apply(_spec(options, lambda reference: "mdl_", lambda reference, name: "ds_"), settings))
    return apply(_spec(options, lambda reference: find_model(client, reference), dataset), settings)


def check(spec: Json) -> None:
    """Refuse what the server would refuse. Raises BadParameter."""
    from pydantic import ValidationError  # only here: its import would slow down every command

    from secateur.spec.job import JobContinue, JobCreate
    from secateur.spec.strict import explain

    try:
        (JobContinue if "continues" in spec else JobCreate).model_validate(spec)
    except ValidationError as error:
        found = [explain(each, spec) for each in error.errors()]
        raise typer.BadParameter("; ".join(f"{pointer}: {message}" for pointer, message in found)) from None


def _spec(options: SpecOptions, model: Callable[[str], str], dataset: Callable[[str, str], str]) -> Json:
    """model: its id, from a reference. dataset: its id, from a reference and a name for what is uploaded."""
    found = model(options.model) if options.model is not None else None  # before anything is uploaded
    calibration = _given(samples=options.samples, sequence_length=options.sequence_length, seed=options.seed)
    domains = [
        _given(
            name=domain.name,
            dataset=dataset(domain.calibration, domain.name),
            calibration=calibration,
            evaluation=dataset(domain.evaluation, f"{domain.name} evaluation") if domain.evaluation else None,
        )
        for domain in map(DomainOption.parse, options.domain)
    ]
    return _given(
        continues=options.continues,
        model=found,
        effort=options.effort,
        method=_given(
            name=options.method,
            weight_update=options.weight_update,
            mode=options.mode,
            objective=options.objective,
        ),
        sparsity=_given(target=options.sparsity, pattern=options.pattern),
        domains=domains,
        evaluation=_given(sequence_length=options.sequence_length, max_windows=options.max_windows),
        priority=options.priority,
        limits=_given(max_runtime=options.max_runtime, max_pending=options.max_pending),
        labels=parse_labels(options.label),
        gate=_given(
            max_bwt=options.max_bwt,
            max_log_bwt=options.max_log_bwt,
            max_mean_perplexity=options.max_mean_perplexity,
        ),
    )


def find_model(client: Client, reference: str) -> str:
    """A model's id, from the id itself, how it begins, or the name of the newest model that has it."""
    if reference.startswith("mdl_") and not is_short("mdl", reference):
        return reference
    if (found := find(client, "mdl", reference)) != reference:
        return found
    raise SecateurError(f"there is no model named {reference!r}; `secateur models ls` shows what there is")


def _dataset(client: Client, reference: str, name: str, text_field: str | None) -> str:
    path = Path(reference)
    if path.is_file():
        return str(client.upload_dataset(path, name=name, text_field=text_field)["id"])
    if reference.startswith("ds_") and not is_short("ds", reference):
        return reference
    as_file = path.suffix or reference.startswith(("/", ".", "~"))
    if not as_file and (found := find(client, "ds", reference)) != reference:
        return found
    raise typer.BadParameter(f"{reference!r} is neither a file nor a dataset's id or name")


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """From `name=value` each."""
    return dict(_label(text) for text in texts)


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not name=value")
    return name, value


def _given(**values: Any) -> Json:
    """Without the values that are None, and without empty objects."""
    return {name: value for name, value in values.items() if value is not None and value != {}}
