import json

import pytest

from secateur.strict_json import loads


@pytest.mark.parametrize("value", [None, True, 1, -0.5, "a\u00e9", [], {}, {"a": [{"b": "c"}], "b": {"a": 1}}])
def test_json_is_its_value(value: object) -> None:
    assert loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"NaN", b"[Infinity]", b'{"a": -Infinity}', b'{"a": 1, "a": 1}', b'[{"b": {"a": 1, "a": 2}}]',
     b"\xef\xbb\xbf{}", b"\xff", '"a"'.encode("utf-16"), b"9" * 5000],
)  # fmt: skip
def test_what_is_not_json_by_the_letter_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each caller has words of its own
        loads(data)
