"""Conversations are rendered by the model's own chat template."""

import json
from pathlib import Path
from typing import Any

import pytest

from secateur.spec.request import Format, Text
from tests.tiny import make_tiny_llama
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.errors import UserError

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


def tokenizer(folder: Path, template: str | None) -> Tokenizer:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"chat_template": template}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return Tokenizer(folder)


def chat(tmp_path: Path, *rows: Any) -> Text:
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return Text(path=path, format=Format.chat, text_field="messages")


def test_tokens_are_those_of_the_rendered_text(folder: Path, tmp_path: Path) -> None:
    found = tokenizer(folder, TEMPLATE)
    rendered = "<user>Hi\n<assistant>Hello there\n"
    plain = tmp_path / "plain.txt"
    plain.write_text(f"{rendered} {rendered}")
    expected = found.tokens(Text(path=plain), "/texts").tolist()
    assert found.tokens(chat(tmp_path, CHAT, CHAT), "/texts").tolist() == expected
    documents = [ids.tolist() for ids in found.documents(chat(tmp_path, CHAT, CHAT[:1]), "/texts")]
    assert len(documents) == 2
    told = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello there"}]
    assert found.tokens(chat(tmp_path, told, told), "/texts").tolist() == expected


def test_a_model_without_a_template_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        tokenizer(folder, None).tokens(chat(tmp_path, CHAT), "/domains/0/dataset")
    assert (caught.value.code, caught.value.field) == ("no_chat_template", "/domains/0/dataset")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "line 2 cannot be rendered"),
        ("{{ messages[0].content.missing.attribute }}", "line 2 cannot be rendered"),
        ("{{ messages.append(1) }}", "line 2 cannot be rendered"),
        ("{{ ''.__class__.__mro__ }}", "line 2 cannot be rendered"),
        ("{% for i in range(90000) %}{{ 'swells and swells' }}{% endfor %}", "line 2 becomes more than"),
    ],
)
def test_a_template_that_refuses_or_swells_is_the_users(
    template: str, words: str, folder: Path, tmp_path: Path
) -> None:
    text = chat(tmp_path, CHAT)
    text.path.write_text("\n" + text.path.read_text())
    with pytest.raises(UserError) as caught:
        tokenizer(folder, template).tokens(text, "/texts")
    assert caught.value.code == "invalid_text"
    assert words in caught.value.message
    assert str(tmp_path) not in caught.value.message
