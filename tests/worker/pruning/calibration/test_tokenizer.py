"""Ids of a text, tokenised piece by piece, and what a tokenizer puts before every text."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.tiny import make_tokenizer, text
from worker.pruning import Format, Text, UserError
from worker.pruning.calibration import tokenizer
from worker.pruning.calibration.tokenizer import Tokenizer

BOS, EOS, CLS, SEP = "<s>", "</s>", "[CLS]", "[SEP]"


def written(folder: Path, content: str, name: str = "x.txt") -> Text:
    path = folder / name
    path.write_bytes(content.encode())
    return Text(path=path, format=Format.jsonl if name.endswith("l") else Format.txt)


def retold(folder: Path, processor: Callable[[Fast], Any] | None, **config: Any) -> Path:
    """The tiny tokenizer with special tokens added, and a post-processor made of it."""
    fast = Fast.from_file(str(make_tokenizer(folder) / "tokenizer.json"))
    fast.add_special_tokens([BOS, EOS, CLS, SEP])
    if processor is not None:
        fast.post_processor = processor(fast)
    PreTrainedTokenizerFast(tokenizer_object=fast, **config).save_pretrained(folder)
    return folder


def template(*parts: str) -> Callable[[Fast], Any]:
    def make(fast: Fast) -> Any:
        named = [(part, fast.token_to_id(part)) for part in dict.fromkeys(parts) if part != "$A"]
        return processors.TemplateProcessing(single=" ".join(parts), special_tokens=named)

    return make


def bert(fast: Fast) -> Any:
    return processors.BertProcessing((SEP, fast.token_to_id(SEP)), (CLS, fast.token_to_id(CLS)))


def roberta(fast: Fast) -> Any:
    return processors.RobertaProcessing((EOS, fast.token_to_id(EOS)), (BOS, fast.token_to_id(BOS)))


def bytes_and_bos(fast: Fast) -> Any:
    return processors.Sequence([processors.ByteLevel(trim_offsets=True), template(BOS, "$A")(fast)])


def byte_level(_: Fast) -> Any:
    return processors.ByteLevel(trim_offsets=False)


@pytest.mark.parametrize(
    ("processor", "config", "expected"),
    [
        (None, {"bos_token": BOS}, []),
        (byte_level, {"bos_token": BOS}, []),
        (template("$A"), {"bos_token": BOS}, []),
        (template("$A", EOS), {"bos_token": BOS, "eos_token": EOS}, []),
        (template(BOS, "$A"), {"bos_token": BOS}, [BOS]),
        (template(CLS, "$A"), {"bos_token": BOS}, [CLS]),
        (template(BOS, "$A", EOS), {}, [BOS]),
        (template(BOS, "$A", BOS), {}, [BOS]),
        (template(CLS, BOS, "$A"), {}, [CLS, BOS]),
        (template(BOS, BOS, "$A", SEP, EOS), {}, [BOS, BOS]),
        (bert, {}, [CLS]),
        (roberta, {}, [BOS]),
        (bytes_and_bos, {}, [BOS]),
        (None, {"bos_token": BOS, "add_bos_token": True}, [BOS]),
        (None, {"bos_token": BOS, "eos_token": EOS, "add_bos_token": True, "add_eos_token": True}, [BOS]),
        (None, {"bos_token": BOS, "eos_token": EOS, "add_eos_token": True}, []),
    ],
)
def test_the_prefix_is_what_the_tokenizer_puts_before_a_text(
    processor: Any, config: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    folder = retold(tmp_path, processor, **config)
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer(folder)
    assert list(ours.prefix) == theirs.convert_tokens_to_ids(expected)
    assert ours.context == max(len(expected), 1)
    content = text(50)
    plain = theirs(content, add_special_tokens=False)["input_ids"]
    assert theirs(content)["input_ids"][: len(expected) + len(plain)] == [*ours.prefix, *plain]
    assert ours.tokens(written(tmp_path, content), "/x").tolist() == plain


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("bos", [False, True])
def test_where_only_the_configuration_asks_for_it_transformers_decides(
    bos: bool, kept: bool, tmp_path: Path
) -> None:
    """A tokenizer.json without a template has the last word; without that file the template is made in loading."""
    fast = Fast.from_file(str(retold(tmp_path, byte_level) / "tokenizer.json"))
    fast.model.save(str(tmp_path))
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": BOS, "unk_token": EOS, "add_bos_token": bos}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if not kept:
        (tmp_path / "tokenizer.json").unlink()
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("the cat")["input_ids"][0] == theirs.bos_token_id or not bos or kept
    expected = (theirs.bos_token_id,) if bos and not kept else ()
    assert Tokenizer(tmp_path).prefix == expected


def test_a_tokenizer_that_changes_a_text_beyond_its_ends_is_refused(tmp_path: Path) -> None:
    folder = retold(tmp_path, template(BOS, "$A"))
    ours = Tokenizer(folder)
    encode = ours._tokenizer

    class Odd:
        def num_special_tokens_to_add(self) -> int:
            return 1

        def __call__(self, *given: Any, add_special_tokens: bool, **options: Any) -> Any:
            ids = encode(*given, add_special_tokens=False, **options)["input_ids"]
            return {"input_ids": [*ids[:1], 7, *ids[1:]] if add_special_tokens else ids}

    ours._tokenizer = Odd()
    with pytest.raises(UserError, match="puts before a text") as caught:
        ours._find_prefix()
    assert caught.value.code == "unsupported_model"


def spaced(folder: Path) -> Path:
    """As of SentencePiece: a blank is put before every text, and merges go over the whole of it."""
    pieces = ["<unk>", "▁", "\n", *"thecadogrnmuwils", "th", "the", "▁the", "▁c", "at", "an", "▁d", "og", "▁▁"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "c"), ("a", "t"), ("a", "n"), ("▁", "d"), ("o", "g")]
    merges.append(("▁", "▁"))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    fast = Fast(models.BPE(vocabulary, merges, unk_token="<unk>"))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Replace("▁", " ")
    PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(folder)
    return folder


def regular(folder: Path) -> Path:
    """As of GPT-2: how many blanks stand before a word decides what becomes of the line's end."""
    fast = Fast.from_file(str(make_tokenizer(folder) / "tokenizer.json"))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    fast.post_processor = processors.ByteLevel(trim_offsets=True)
    PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(folder)
    return folder


CONTENTS = {
    "lines": text(2500, 1),
    "one line": text(2500, 2).replace("\n", " "),
    "indented": text(2500, 3).replace(" in ", "\n\n    in  ").replace(" on ", "\n        on\t"),
    "not ASCII": text(1500, 4).replace("cat", "猫").replace("dog", "chién").replace("a ", "🌳 "),
    "no blank": "".join(random.Random(5).choices("abcdeßgh", k=9000)),
}


@pytest.mark.parametrize("make", [make_tokenizer, regular, spaced])
@pytest.mark.parametrize("name", CONTENTS)
def test_pieces_give_the_ids_of_the_whole_text(
    make: Callable[[Path], Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, source = Tokenizer(make(tmp_path)), written(tmp_path, CONTENTS[name])
    whole = AutoTokenizer.from_pretrained(tmp_path)(CONTENTS[name], add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(tokenizer, "OVERLAP", 200)
    for size in (500, 777, 1500):
        monkeypatch.setattr(tokenizer, "PIECE", size)
        assert ours.tokens(source, "/x").tolist() == whole
        for limit in (1, 100, len(whole) - 1, len(whole) + 1):
            assert ours.tokens(source, "/x", limit).tolist() == whole[:limit]


def test_as_much_is_tokenised_as_is_needed(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And never more than a piece at once, also of a text without any line's end."""
    source = written(tmp_path, text(100_000).replace("\n", " "))
    ours = Tokenizer(tiny_llama)
    sizes: list[int] = []
    encode = ours._encode
    monkeypatch.setattr(ours, "_encode", lambda piece, **how: sizes.append(len(piece)) or encode(piece, **how))
    ours.tokens(source, "/x", limit=2048)
    assert sum(sizes) < 20 * 2048
    sizes.clear()
    monkeypatch.setattr(tokenizer, "PIECE", 1 << 16)
    ours.tokens(source, "/x")
    assert max(sizes) <= 1 << 16
    assert sum(sizes) < 1.1 * source.path.stat().st_size


def test_a_tokenizer_without_places_is_cut_between_pieces(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a character is lost or doubled."""
    content = text(800)
    ours, source = Tokenizer(tiny_llama), written(tmp_path, content)
    monkeypatch.setattr(tokenizer, "_joint", lambda *_: None)
    monkeypatch.setattr(tokenizer, "OVERLAP", 100)
    monkeypatch.setattr(tokenizer, "PIECE", 500)
    assert ours._tokenizer.decode(ours.tokens(source, "/x")) == content


def test_jsonl_documents_are_joined_by_one_blank(tiny_llama: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": part}) for part in ("one two", "three\nfour", "five")]
    ours = Tokenizer(tiny_llama)
    joined = ours.tokens(written(tmp_path, "\n".join(lines) + "\n\n", "x.jsonl"), "/x")
    assert joined.tolist() == ours.tokens(written(tmp_path, "one two three\nfour five"), "/x").tolist()


def test_documents_are_tokenised_each_by_itself(tiny_llama: Path, tmp_path: Path) -> None:
    parts = ["one two", "three\nfour", "", "five"]
    lines = [json.dumps({"text": part}) for part in parts]
    theirs, ours = AutoTokenizer.from_pretrained(tiny_llama), Tokenizer(tiny_llama)
    found = ours.documents(written(tmp_path, "\n".join(lines), "x.jsonl"), "/x")
    assert [ids.tolist() for ids in found] == [theirs(part)["input_ids"] for part in parts]
    (single,) = ours.documents(written(tmp_path, "one two\n\nthree"), "/x")
    assert single.tolist() == theirs("one two\n\nthree")["input_ids"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON"),
        ('{"text": "a \\ud83d b"}', "line 1 has half of a pair of surrogates"),
        ('{"text": "a"}\n{"body": "b"}', "line 2 has no string"),
        ("[]", "line 1 is not a JSON object"),
    ],
)
def test_bad_documents_are_named_by_line(tiny_llama: Path, tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tokenizer(tiny_llama).tokens(written(tmp_path, content, "x.jsonl"), "/x")


def test_text_that_is_not_utf8_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="UTF-8"):
        Tokenizer(tiny_llama).tokens(Text(path=path), "/x")


def test_a_regex_without_end_and_rules_that_multiply_are_the_users(tmp_path: Path) -> None:
    """The library gives the regex up by itself, as a panic; the rules it would run."""
    path = make_tokenizer(tmp_path) / "tokenizer.json"
    whole = json.loads(path.read_text())
    endless = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps(whole | {"pre_tokenizer": endless}))
    with pytest.raises(UserError) as caught:
        Tokenizer(tmp_path).tokens(written(tmp_path, "a" * 2_000 + "b"), "/x")
    assert caught.value.code == "unsupported_model"
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    path.write_text(json.dumps(whole | {"normalizer": {"type": "Sequence", "normalizers": [double] * 40}}))
    with pytest.raises(UserError, match="characters of one"):
        Tokenizer(tmp_path)
