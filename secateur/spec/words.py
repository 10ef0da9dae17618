"""What is wrong with a value, in the words of JSON: nothing of the library that found it, nor of our classes."""

import re
from collections.abc import Mapping
from typing import Any, Final

_OBJECT: Final = "must be an object"
_LIST: Final = "must be a list"
_MOMENT: Final = "must be a moment such as 2026-01-31T12:00:00Z"
_WORDS: Final = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "dataclass_type": _OBJECT,
    "dict_type": _OBJECT,
    "mapping_type": _OBJECT,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "set_type": _LIST,
    "frozen_set_type": _LIST,
    "iterable_type": _LIST,
    "string_type": "must be a string",
    "string_unicode": "must be a string",
    "string_sub_type": "must be a string",
    "bytes_type": "must be a string",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "none_required": "must be null",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} item(s)",
    "too_long": "must have at most {max_length} items",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
    "date_type": "must be a day such as 2026-01-31",
    "date_parsing": "must be a day such as 2026-01-31",
    "date_from_datetime_parsing": "must be a day such as 2026-01-31",
    "datetime_type": _MOMENT,
    "datetime_parsing": _MOMENT,
    "datetime_from_date_parsing": _MOMENT,
    "timezone_aware": _MOMENT,
    "url_type": "must be a URL",
    "url_parsing": "must be a URL",
    "url_scheme": "must be a URL that begins with one of {expected_schemes}",
    "uuid_type": "must be a UUID",
    "uuid_parsing": "must be a UUID",
    "json_invalid": "is not JSON",
    "json_type": "must be JSON",
    "union_tag_not_found": "is missing",
    "union_tag_invalid": "must be one of {expected_tags}",
}
OTHERWISE: Final = "is not accepted here"
_SHAPES: Final[dict[str, str]] = {}
"""Regular expression → what a string that matches it is."""


def shaped(expression: str, what: str) -> str:
    """The regular expression of a field; a string that does not match it is told that it must be `what`."""
    if _SHAPES.setdefault(expression, what) != what:
        raise ValueError(f"{expression} is {_SHAPES[expression]} already")
    return expression


ONE_LINE: Final = shaped(r"^[^\x00-\x1f\x7f]+$", "one line of text")


def words(kind: str, context: Mapping[str, Any], said: str) -> str:
    """kind, context, said: `type`, `ctx` and `msg` of one of a ValidationError's errors.

    What our own rules say is passed on; of the library's words, nothing.
    """
    if kind in ("value_error", "assertion_error"):
        return said.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind == "string_pattern_mismatch":
        what = _SHAPES.get(context.get("pattern", ""))
        return OTHERWISE if what is None else f"must be {what}"
    template = _WORDS.get(kind)
    if template is not None:
        try:
            return template.format(**context)
        except KeyError:
            return OTHERWISE
    # A kind of our own (`refuse`): the library's are all above, or they begin with a capital.
    return said if re.match(r"[a-z`'0-9]", said) else OTHERWISE
