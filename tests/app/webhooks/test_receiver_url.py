"""Whatever text somebody gives as a receiver's address is refused in our words, or can be posted to."""

import httpcore
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.webhooks.schemas import ReceiverUrl

SIGNS = st.text(st.sampled_from("https:/[]@#?%.-_0123456789abcdefx \\éß①。\u200d\u0301\r\n\t"), max_size=30)
URL = TypeAdapter(ReceiverUrl)


@given(st.one_of(SIGNS, st.text(max_size=30), SIGNS.map("https://{}".format), SIGNS.map("https://[{}]/".format)))
def test_any_text_is_refused_or_is_an_address(text: str) -> None:
    try:
        url = URL.validate_python(text)
    except ValidationError:
        return
    found = httpcore.URL(url)
    assert found.scheme in (b"http", b"https")
    assert found.host
    assert url == URL.validate_python(url), "a normal form is its own"
    assert all(33 <= byte < 127 for byte in found.target)
