"""Whether the tokenizer that transformers made of a GGUF file is the one that the file describes; run in the
converter's process."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker.intake.gguf_keys import CODE, WAY_OUT
from worker.model_files.errors import IntakeError

KEY: Final = "tokenizer.ggml."
PIECES: Final = "llama"
"""`tokenizer.ggml.model` of a SentencePiece vocabulary."""
BEGUN_MODELS: Final = frozenset({PIECES, "gemma4"})
BEGUN_SPLITS: Final = frozenset(
    {
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
        "jina-v5-nano",
        "tekken",
    }
)
"""Models and splits (`tokenizer.ggml.pre`) with which llama.cpp puts BOS before a text if the file is silent."""
PLAIN_SPLITS: Final = frozenset(
    {
        "default",
        "gpt-2",
        "phi-2",
        "jina-es",
        "jina-de",
        "jina-v2-es",
        "jina-v2-de",
        "roberta-bpe",
        "gigachat",
        "mellum",
    }
)
"""Splits that are GPT-2's, or of a file that names none."""
ENDED_MODELS: Final = frozenset({"t5"})
WHOLE: Final = (3, 4)
"""Token types that are never cut: control and user-defined."""
SPECIAL: Final = ("bos", "eos", "unknown", "separator", "padding")
"""Tokens with a key of their own that the libraries read."""
TRIED: Final = "a"
SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"


def check_ids(metadata: Mapping[str, Any]) -> None:
    """Raises IntakeError where the file has no tokenizer, or names a special token that is none of its tokens."""
    count = len(metadata.get(f"{KEY}tokens") or ())
    if not count:
        raise IntakeError(CODE, f"The file holds no tokenizer ({KEY}tokens); {WAY_OUT}.")
    for name in SPECIAL:
        key = f"{KEY}{name}_token_id"
        if not 0 <= metadata.get(key, 0) < count:
            raise IntakeError(
                CODE, f"{key} is {metadata[key]}, and the file's tokens end at {count - 1}; {WAY_OUT}."
            )


def check_tokenizer(tokenizer: Any, metadata: Mapping[str, Any]) -> None:
    """Raises IntakeError where the tokenizer is not what the file says."""
    tokens: Sequence[str] = metadata.get(f"{KEY}tokens") or ()
    if len(tokenizer) < len(tokens):  # some classes have special tokens of their own, behind the file's
        raise _untrue(f"{len(tokenizer)} tokens where the file has {len(tokens)}")
    types: Sequence[int] = metadata.get(f"{KEY}token_type") or ()
    for number, (token, kind) in enumerate(zip(tokens, types, strict=False)):
        if kind in WHOLE and number not in (known := _ids_of(tokenizer, token)):
            if not known:
                raise _untrue(f"no token {token[:40]!r}")
            if known[0] >= len(tokens) or tokens[known[0]] != token:  # else the file has it twice
                raise _untrue(f"the token {token[:40]!r} as {known[0]}, not as {number}")
    _check_ends(tokenizer, metadata)
    _check_space(tokenizer, metadata)
    template = metadata.get("tokenizer.chat_template")
    if template is not None and tokenizer.chat_template != template:
        raise _untrue("another chat template")


def doubts(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is not certain about the tokenizer, as a model's warnings."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    split = str(metadata.get(f"{KEY}pre", "default"))
    if metadata.get(f"{KEY}model") != "gpt2" or split in PLAIN_SPLITS or split in GGUF_PRE_TOKENIZER_SPLITS:
        return []
    message = (
        "the installed transformers does not know how this tokenizer splits a text into words, and does it as for "
        "GPT-2; where that matters, register the original safetensors model"
    )
    return [{"code": "tokenizer_split", "message": message, "data": {"pre": split[:60]}}]


def begins(metadata: Mapping[str, Any]) -> bool:
    """Whether BOS is put before a text, by the file's flag or as llama.cpp decides without one."""
    known = metadata.get(f"{KEY}model") in BEGUN_MODELS or metadata.get(f"{KEY}pre") in BEGUN_SPLITS
    return bool(metadata.get(f"{KEY}add_bos_token", known))


def ends(metadata: Mapping[str, Any]) -> bool:
    """The same for EOS after a text."""
    return bool(metadata.get(f"{KEY}add_eos_token", metadata.get(f"{KEY}model") in ENDED_MODELS))


def begins_with_space(metadata: Mapping[str, Any]) -> bool:
    """Whether a SentencePiece vocabulary puts a space before a text; Gemma's does not, said or not."""
    gemma = str(metadata.get("general.architecture")).startswith("gemma")
    return bool(metadata.get(f"{KEY}add_space_prefix", not gemma))


def special_ids(metadata: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """What the file puts before a text, and what after it. Raises IntakeError when it does not say which token."""
    found: list[list[int]] = []
    for wanted, name, default in ((begins(metadata), "bos", 1), (ends(metadata), "eos", 2)):
        id = metadata.get(f"{KEY}{name}_token_id", default if metadata.get(f"{KEY}model") == PIECES else None)
        if wanted and id is None:
            raise IntakeError(CODE, f"The file asks for a {name.upper()} token and names none; {WAY_OUT}.")
        found.append([int(id)] if wanted else [])
    return found[0], found[1]


def settle_tokenizer(tokenizer: Any, metadata: Mapping[str, Any]) -> None:
    """Make the tokenizer put before and after a text what the file says, if it does not. Raises IntakeError."""
    if metadata.get(f"{KEY}model") == PIECES and not begins_with_space(metadata) and _puts_space(tokenizer):
        _leave_space(tokenizer)
    _begin_and_end(tokenizer, metadata)


def _puts_space(tokenizer: Any) -> bool:
    first = tokenizer(TRIED, add_special_tokens=False)["input_ids"][0]
    return bool(tokenizer.convert_ids_to_tokens(first).startswith(SPACE))


def _leave_space(tokenizer: Any) -> None:
    from tokenizers import decoders, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.init_kwargs["add_prefix_space"] = False


def _begin_and_end(tokenizer: Any, metadata: Mapping[str, Any]) -> None:
    before, after = special_ids(metadata)
    bare = tokenizer(TRIED, add_special_tokens=False)["input_ids"]
    if tokenizer(TRIED)["input_ids"] == [*before, *bare, *after]:
        return
    from tokenizers import processors

    names = {id: tokenizer.convert_ids_to_tokens(id) for id in (*before, *after)}
    starts, stops = [names[id] for id in before], [names[id] for id in after]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*starts, "$A", *stops],
        pair=[*starts, "$A", *stops, *starts, "$B:1", *stops],
        special_tokens=[(name, id) for id, name in names.items()],
    )
    tokenizer.init_kwargs |= {"add_bos_token": bool(before), "add_eos_token": bool(after)}


def _ids_of(tokenizer: Any, token: str) -> list[int]:
    """Of a token that is never cut. A file may say a user's own token in the text's spaces (Gemma's runs of them),
    which a SentencePiece vocabulary has as ▁."""
    names = [token, token.replace(" ", SPACE)]
    return [id for id in tokenizer.convert_tokens_to_ids(names) if id is not None]


def _check_ends(tokenizer: Any, metadata: Mapping[str, Any]) -> None:
    before, after = special_ids(metadata)
    bare = tokenizer(TRIED, add_special_tokens=False)["input_ids"]
    found = tokenizer(TRIED)["input_ids"]
    if found != [*before, *bare, *after]:
        raise _untrue(f"the ids {found} for {TRIED!r} where the file asks for {[*before, *bare, *after]}")


def _check_space(tokenizer: Any, metadata: Mapping[str, Any]) -> None:
    """SentencePiece vocabularies may put a space before a text."""
    if metadata.get(f"{KEY}model") != PIECES:
        return
    wanted = begins_with_space(metadata)
    if _puts_space(tokenizer) is not wanted:
        words = "no space" if wanted else "a space"
        raise _untrue(f"{words} before a text, against {KEY}add_space_prefix")


def _untrue(what: str) -> IntakeError:
    return IntakeError(
        CODE, f"The installed transformers makes another tokenizer of this file: {what}; {WAY_OUT}."
    )
