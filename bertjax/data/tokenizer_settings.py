"""Hugging Face's settings beside a vocabulary, read as `transformers` reads them.

The files are tokenizer_config.json, special_tokens_map.json and added_tokens.json.
"""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from bertjax import storage
from bertjax.data import added_tokens, vocabulary
from bertjax.data.added_tokens import Added
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError

CONFIG, SPECIALS, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_CHOICES = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space")
_CORE = ("pad", "unk", "cls", "sep", "mask")
_LISTS = ("additional_special_tokens", "extra_special_tokens")
# Classes that cut text like BERT's and like RoBERTa's tokenizer. Other classes need tokenizer.json.
_CLASSES = {
    "wordpiece": ("Bert", "DistilBert", "Electra", "MobileBert", "SqueezeBert", "ConvBert"),
    "byte_bpe": ("Roberta", "Longformer", "Bart", "GPT2"),
}
_ANY_CLASS = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")


@runtime_checkable
class Files(Protocol):
    """A folder: `has` tells whether the folder holds a file, `file` gives a path to open."""

    root: Path

    def has(self, name: str) -> bool: ...

    def file(self, name: str) -> Path: ...


class Directory:
    """A folder that the user named, on a disk or on gs://."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, name: str) -> bool:
        return storage.is_file(self.root / name)

    def file(self, name: str) -> Path:
        return self.root / name


@dataclasses.dataclass(frozen=True)
class Settings:
    """The three files of one folder; a missing file is empty.

    Attributes:
      where: path of tokenizer_config.json, for messages.
      choices: the fields of tokenizer_config.json for the cutting of text, if they are set.
    """

    where: Path
    config: dict
    specials: dict
    added: dict
    choices: dict[str, bool]

    def named(self) -> Iterable[tuple[str, str | dict]]:
        """`(field, token)` of every special token that the folder gives a role or lists."""
        for tree in (self.specials, self.config):
            for field, value in tree.items():
                if field.endswith("_token") and isinstance(value, str | dict):
                    yield field, value
        for tree in (self.specials, self.config):
            for field in _LISTS:
                value = tree.get(field) or ()
                if not isinstance(value, list | tuple | dict):
                    raise DataError(f"{self.where.parent}: {field} must be a list of tokens")
                for token in value.values() if isinstance(value, dict) else value:
                    yield field, token


def read(folder: Files) -> Settings:
    """The settings of a folder; raises DataError if a file is damaged or not a JSON object."""
    config, specials, added = (_object(folder, name) for name in (CONFIG, SPECIALS, ADDED))
    where = folder.root / CONFIG
    choices = {name: config[name] for name in _CHOICES if config.get(name) is not None}
    for name, value in choices.items():
        if type(value) is not bool:
            raise DataError(f"{where}: {name} must be true or false")
    if config.get("do_basic_tokenize") is False:
        raise DataError(f"{where}: do_basic_tokenize=false (text already cut) is not supported")
    return Settings(where, config, specials, added, choices)


def _object(folder: Files, name: str) -> dict:
    if not folder.has(name):
        return {}
    tree = vocabulary.read_json(folder.file(name))
    if not isinstance(tree, dict):
        raise DataError(f"{folder.root / name}: expected a JSON object")
    return tree


def none(root: Path) -> Settings:
    """The empty settings of a file that stands alone."""
    return Settings(root / CONFIG, {}, {}, {}, {})


def check_class(settings: Settings, kind: str, file: str) -> None:
    """Raises DataError if the folder's tokenizer class cuts text in a way that its files hide.

    A tokenizer.json shows everything. With a vocab.txt, BertJapaneseTokenizer cuts words by MeCab.
    """
    name = settings.config.get("tokenizer_class")
    if file == "tokenizer.json" or name is None or kind not in _CLASSES or name in _ANY_CLASS:
        return
    plain = str(name).removesuffix("Fast").removesuffix("Tokenizer")
    if plain not in _CLASSES[kind]:
        raise DataError(
            f"{settings.where}: tokenizer_class={str(name)[:60]!r} cuts text in its own way, "
            f"which {file} does not show; save its tokenizer.json beside it"
        )


def check_core(settings: Settings, found: Tokenizer, file: str) -> None:
    """Raises DataError if a core special token is renamed, or `never_split` names other tokens."""
    for field, token in settings.named():
        content = token.get("content") if isinstance(token, dict) else token
        role = field.removesuffix("_token")
        if role in _CORE:
            (ours,) = found.tokens([getattr(found, f"{role}_id")])
            if content != ours:
                raise DataError(
                    f"{settings.where.parent}: {field}={str(content)[:60]!r}, but {file} has "
                    f"{ours!r}; other spellings are not supported"
                )
    cores = found.tokens(found.special_ids)
    whole = settings.config.get("never_split") or []
    if not isinstance(whole, list) or any(token not in cores for token in whole):
        raise DataError(f"{settings.where}: never_split={str(whole)[:60]} is not supported")


def added_to(settings: Settings, found: Tokenizer) -> list[Added]:
    """The added tokens of a folder: those of `found` (from tokenizer.json) and of `settings`.

    A token that is listed without an id gets the next free id, as in `transformers`.

    Raises:
      DataError: two files give a token two ids or different flags.
    """
    result = {token.content: token for token in found.added}
    pieces = found.tokens(range(found.vocab_size))
    ids = {piece: i for i, piece in enumerate(pieces)}
    cores = {ids[s] for s in found.tokens(set(found.special_ids) - set(found.marker_ids))}
    for token in _numbered(settings):
        known = result.get(token.content)
        if ids.get(token.content, token.id) != token.id or (
            known and token != known and "added_tokens_decoder" in settings.config
        ):
            raise DataError(
                f"{settings.where.parent}: added token {token.content[:60]!r}: its files do not "
                "agree on its id or flags; make them agree"
            )
        if ids.get(token.content) not in cores:
            result.setdefault(token.content, token)
    free = max([len(pieces) - 1, *(token.id for token in result.values())]) + 1
    for _, entry in settings.named():
        entry = entry if isinstance(entry, dict) else {"content": entry}
        token = added_tokens.parse(entry | {"special": True}, free, str(settings.where.parent))
        known = ids.get(token.content, token.id)
        if token.content not in result and known not in cores:
            result[token.content] = dataclasses.replace(token, id=known)
            free += known == free
    return list(result.values())


def _numbered(settings: Settings) -> list[Added]:
    """Added tokens with their ids from tokenizer_config.json, or else from added_tokens.json."""
    decoder = settings.config.get("added_tokens_decoder")
    if decoder is not None:
        if not isinstance(decoder, dict) or not all(re.fullmatch(r"\d{1,9}", i) for i in decoder):
            raise DataError(f"{settings.where}: added_tokens_decoder must be an object of ids")
        return [added_tokens.parse(t, int(i), str(settings.where)) for i, t in decoder.items()]
    where = str(settings.where.with_name(ADDED))
    listed = (t.get("content") if isinstance(t, dict) else t for _, t in settings.named())
    special = {content for content in listed if isinstance(content, str)}
    return [
        added_tokens.parse({"content": content, "special": content in special}, token_id, where)
        for content, token_id in settings.added.items()
    ]
