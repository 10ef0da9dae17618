import pytest

from secateur.spec.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds", "normal"),
    [("90s", 90, "1m30s"), ("12h", 43_200, "12h"), ("1d6h30m", 109_800, "1d6h30m"), ("0d7s", 7, "7s")],
)
def test_durations_have_one_short_form(text: str, seconds: int, normal: str) -> None:
    assert parse_duration(text) == seconds
    assert format_duration(seconds) == normal
    assert parse_duration(normal) == seconds


@pytest.mark.parametrize("text", ["", "12", "h", "-1s", "1.5h", "1m1h", "0s", "366d", "9999999999s", "1s\n", "١s"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_duration(text)
