"""Licences in the cards of strangers."""

from pathlib import Path

import pytest

from worker.intake.licence import HEAD_BYTES, read_licence, write_card


def licence(card: bytes, tmp_path: Path) -> object:
    path = tmp_path / "README.md"
    path.write_bytes(card)
    return read_licence(path)


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        (b"license: apache-2.0", ("apache-2.0", None, None)),
        (b'license: "llama3.2" # Meta\ntags: [a]', ("llama3.2", None, None)),
        (b"license:\n- mit", ("mit", None, None)),
        (b"license: no", ("no", None, None)),
        (b"license: other\r\nlicense_name: a b\r\nlicense_link: https://a/b", ("other", "a b", "https://a/b")),
        (b"license: other\nlicense_name:\nlicense_link: ''", ("other", None, None)),
    ],
)
def test_it_is_read_as_hubs_read_it(front: bytes, expected: tuple[str | None, ...], tmp_path: Path) -> None:
    found = licence(b"---\n" + front + b"\n---\n# Model", tmp_path)
    assert found == dict(zip(("id", "name", "link"), expected, strict=True))


@pytest.mark.parametrize(
    "card",
    [
        b"",
        b"# A model\n\nlicense: mit\n",
        b"---\ntags: [a]\n---\n",
        b"---\n- license: mit\n---\n",
        b"---\nlicense:\n---\n",
        b"---\nlicense: mit\n",
        b"# A model\n" * HEAD_BYTES,
        b"---" + b"\n" * (HEAD_BYTES - 10),
        b"---\n" + b"\r\n" * (HEAD_BYTES // 4) + b"--- no end",
    ],
)
def test_a_card_may_name_none(card: bytes, tmp_path: Path) -> None:
    assert licence(card, tmp_path) is None


@pytest.mark.parametrize(
    "front",
    [
        b"license: [mit, apache-2.0]",
        b"license: {a: b}",
        b"license: <script>",
        b'license: "mit\\0"',
        b"license: mit\nlicense_name: [a]",
        b'license: other\nlicense_link: "a\\nb"',
        b'license: other\nlicense_name: "\\ud800"',
        b"license: other\nlicense_name: " + b"a" * 1000,
        b"license: 'mit",
        b"# long\n" * HEAD_BYTES + b"license: mit",
        b"license: " + b"[" * 20_000,
        b"\t- :\xff",
    ],
)
def test_what_is_no_licence_is_told(front: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"license|front matter"):
        licence(b"---\n" + front + b"\n---\n", tmp_path)


def test_a_card_says_what_a_gguf_file_says(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    write_card({"general.name": "m"}, card)
    assert not card.exists()
    write_card({"general.license": "mit", "general.license.name": "a: b # c"}, card)
    assert read_licence(card) == {"id": "mit", "name": "a: b # c", "link": None}
    for said in ("MIT OR Apache-2.0", "gpl-3.0\n---\n---\nlicense: mit"):
        write_card({"general.license": said}, card)
        with pytest.raises(ValueError, match="license"):
            read_licence(card)
