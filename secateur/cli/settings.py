"""`--set PATH=VALUE`: every field of the spec by its path, as the spec's own model has it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Final

import typer

from secateur import strict_json
from secateur.transport import Json

NEAR: Final = 5
"""Paths that are named for one that is not there."""
_ANY: Final = "N"
"""Stands for the number of an entry, or for a name of the user's own."""
_DIGITS: Final = 9
"""No list has more entries."""


def _offer(incomplete: str) -> list[tuple[str, str]]:
    return completion(incomplete)


Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Any field of the spec, such as method.reading=token; may be repeated. `secateur fields` lists them.",
        autocompletion=_offer,
    ),
]


@dataclass(frozen=True)
class Field:
    """One field that may be set."""

    path: str
    types: frozenset[str]
    """JSON types that it takes."""
    choices: tuple[str, ...]
    description: str
    default: Any = None

    def takes(self) -> str:
        """What it may be, in a few words."""
        return " | ".join(self.choices) or " | ".join(sorted(self.types - {"null"})) or "any"


@cache
def fields() -> dict[str, Field]:
    """All fields of a new job or of a continuation by path; an entry of a list, or a name of one's own, is `N`."""
    from pydantic import TypeAdapter  # only here: its import would slow down every command

    from secateur.spec.job import JobContinue, JobCreate

    found: dict[str, Field] = {}
    for model in (JobCreate, JobContinue):
        schema = TypeAdapter(model).json_schema()
        for each in _walk(schema, schema.get("$defs", {}), ()):
            known = found.get(each.path)
            if known is None:
                found[each.path] = each
            else:
                choices = tuple(dict.fromkeys(known.choices + each.choices))
                text = known.description or each.description
                found[each.path] = Field(each.path, known.types | each.types, choices, text, known.default)
    return found


def apply(spec: Json, settings: Sequence[str]) -> Json:
    """The spec with each `path=value` put into it; what is there of a list is counted from 0.

    Raises BadParameter for a path that no spec has, and names near ones.
    """
    changed: Json = json.loads(json.dumps(spec))
    for text in settings:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise typer.BadParameter(f"--set {text!r} is not path=value, such as method.name=wanda")
        _put(changed, path, _read(_field(path), value))
    return changed


def completion(incomplete: str) -> list[tuple[str, str]]:
    """What the shell offers for `--set`: paths, and behind the `=` the words that there are."""
    path, equals, value = incomplete.partition("=")
    if equals:
        field = fields().get(_general(path))
        return [(f"{path}={word}", "") for word in (field.choices if field else ()) if word.startswith(value)]
    offered = ((each.path.replace(f".{_ANY}", ".0"), each.description) for each in fields().values())
    return [(f"{name}=", about) for name, about in offered if name.startswith(path)]


def _field(path: str) -> Field:
    known = fields()
    if (found := known.get(_general(path))) is not None:
        return found
    general = _general(path)
    # A field is missed by a letter, or is sought at the wrong place.
    last = general.rpartition(".")[2]
    near = get_close_matches(general, known, NEAR, 0.6)
    near += [each for each in known if each.rpartition(".")[2] == last and each not in near]
    near += [each for each in known if each.rpartition(".")[2] in get_close_matches(last, _names(), 2, 0.75)]
    names = ", ".join(list(dict.fromkeys(near))[:NEAR])
    hint = f"near: {names}" if names else "`secateur fields` lists all of them"
    raise typer.BadParameter(f"--set: a job has no field {path!r}; {hint}")


@cache
def _names() -> list[str]:
    return sorted({path.rpartition(".")[2] for path in fields()})


def _general(path: str) -> str:
    """With `N` for the number of an entry and for a name of one's own."""
    parts: list[str] = []
    for part in path.split("."):
        beside = ".".join((*parts, part))
        own = ".".join((*parts, _ANY))
        parts.append(_ANY if _is_below(own) and not _is_below(beside) else part)
        if parts[-1] == _ANY and parts[:-1] == ["labels"]:
            return ".".join(parts)  # a label's name may have points
    return ".".join(parts)


def _is_below(path: str) -> bool:
    return any(each == path or each.startswith(f"{path}.") for each in fields())


def _read(field: Field, text: str) -> Any:
    """JSON, but for a field that takes nothing but text."""
    if field.types <= {"string", "null"} and not (text == "null" and "null" in field.types):
        return text
    try:
        return strict_json.loads(text.encode())
    except (ValueError, RecursionError):
        return text  # which the model then refuses in its own words


def _put(spec: Json, path: str, value: Any) -> None:
    parts = path.split(".") if not path.startswith("labels.") else ["labels", path.removeprefix("labels.")]
    here: Any = spec
    for number, (part, following) in enumerate(pairwise(parts), start=1):
        key = _key(here, part, path)
        inner = here[key] if isinstance(here, list) else here.get(key)
        if inner is None:
            here[key] = inner = [] if _is_number(following) and part != "labels" else {}
        elif not isinstance(inner, dict | list):
            place = ".".join(parts[:number])
            raise typer.BadParameter(f"--set {path}: {place} is {json.dumps(inner)} here, which has no fields")
        here = inner
    here[_key(here, parts[-1], path)] = value


def _key(here: Json | list[Any], part: str, path: str) -> Any:
    """By which an object or a list has it; a list gets room for one more entry."""
    if isinstance(here, dict):
        return part
    index = int(part) if _is_number(part) else -1
    if not 0 <= index <= len(here):
        raise typer.BadParameter(f"--set {path}: there are {len(here)} entries, counted from 0")
    if index == len(here):
        here.append(None)
    return index


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= _DIGITS


def _walk(schema: Json, definitions: Json, path: tuple[str, ...]) -> Iterator[Field]:
    """A field's own line, where it has a path, and those of all below it."""
    options = list(_options(schema, definitions))
    about = schema.get("description") or ""
    if path:
        types = frozenset(kind for each in options for kind in _types(each))
        words = (word for each in options for word in each.get("enum", _constant(each)))
        choices = tuple(dict.fromkeys(str(word) for word in words if word is not None))
        yield Field(".".join(path), types, choices, " ".join(about.split()), schema.get("default"))
    for each in options:
        for name, inner in each.get("properties", {}).items():
            yield from _walk(inner, definitions, (*path, name))
        own = [each.get("items"), each.get("additionalProperties"), *each.get("patternProperties", {}).values()]
        for inner in own:
            if isinstance(inner, dict) and any(_types(option) for option in _options(inner, definitions)):
                yield from _walk(inner, definitions, (*path, _ANY))


def _options(schema: Json, definitions: Json) -> Iterator[Json]:
    """The schemas that a value may be of, without references."""
    if "$ref" in schema:
        yield from _options(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return
    inner = [each for key in ("anyOf", "oneOf", "allOf") for each in schema.get(key, ())]
    for each in inner:
        yield from _options(each, definitions)
    if not inner:
        yield schema


def _types(schema: Json) -> list[str]:
    kind = schema.get("type")
    if kind is None:
        return ["string"] if "enum" in schema or isinstance(schema.get("const"), str) else []
    return list(kind) if isinstance(kind, list) else [kind]


def _constant(schema: Json) -> list[Any]:
    return [schema["const"]] if "const" in schema else []
