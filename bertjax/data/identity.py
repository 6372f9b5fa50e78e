"""What a store was made of, and whether a config asks for the same.

The manifest of a store keeps the fields of `config.data` and `config.tokenizer` that it was made
with, the tokenizer's hash, and what its text was:

    "text": {"files": [{"path", "bytes", "sample", "modified" or "crc32c"}, ...]}
    "text": {"files": [...], "heldout_files": [...]}                  of bert_tfrecord
    "text": {"tfds": "name/config/version", "examples": 1000}
    "text": {}                                  the built-in sample

A file is known again by its size and the hash of three parts of it, wherever it lies; an object by
its bucket's checksum. Of an earlier version's manifest, without "text", the fields are compared.
"""

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bertjax import storage
from bertjax.config import Data
from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.data import folders, sources, tokenizer
from bertjax.data.readers import forms
from bertjax.errors import BertjaxError, StorageError

# Fields of config.data that do not change what is written.
RUNTIME_FIELDS = ("num_workers", "prefetch_batches")

# The sources that read a field, where not all do.
_SOURCES_OF = {"txt_format": ("files",), "tfds_split": ("tfds",), "text_field": ("files", "tfds")}
_SOURCES_OF["language"] = ("files", "tfds", "sample")
# Fields that say where the text is: compared by the text.
_FILES = {"files": ("files",), "bert_tfrecord": ("files", "heldout_files")}
_PLACES = ("files", "heldout_files", "tfds_name", "tfds_data_dir")

_SAMPLE_BYTES = 1 << 16  # of each of the three parts of a file

WEIGHTS = "weights"  # "tokenizer_from" of a store whose tokenizer is that of the weights in W


@dataclasses.dataclass
class Findings:
    """What a comparison found.

    Attributes:
      differences: what the store was not made of, a field each.
      notes: what could not be compared, or is spelled otherwise and the same.
    """

    differences: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def differ(self, field: str, wanted: object, made: object, why: str = "") -> None:
        self.differences.append(f"{field}={wanted!r}, made with {made!r}{why and f' ({why})'}")


def text_of(data: Data) -> dict:
    """The manifest's "text" for a corpus that is there.

    Raises:
      UsageError, DataError: as `sources.pieces`, where it is not there.
    """
    if data.source == "files":
        return {"files": describe(sources.find_files(data))}
    if data.source == "tfds":
        name, examples = sources.tfds_version(data)
        return {"tfds": name, "examples": examples}
    return {}


def compare(place: str, data: Data, manifest: dict, found: Findings) -> None:
    """Adds to `found` how a config's corpus differs from the one that a store was made of.

    Args:
      place: of `data` in the config, "config.data" or "config.mixture.NAME.data".
    """
    made = manifest.get("data", {})
    if made.get("source", data.source) != data.source:
        found.differ(f"{place}.source", data.source, made["source"])
        return
    text = manifest.get("text", {})
    named = {forms.named(str(file["path"])) for file in text.get("files", ())}
    for name, wanted in dataclasses.asdict(data).items():
        if name in (*RUNTIME_FIELDS, *_PLACES) or name not in made or made[name] == wanted:
            continue
        is_unread = (name == "txt_format" and named == {"records"}) or (
            name == "heldout_fraction" and data.heldout_files is not None
        )
        if data.source in _SOURCES_OF.get(name, (data.source,)) and not is_unread:
            found.differ(f"{place}.{name}", wanted, made[name])
    for name in _FILES.get(data.source, ()):
        then = made.get(name), text.get(name)
        _compare_files(f"{place}.{name}", getattr(data, name), *then, found)
    if data.source == "tfds":
        _compare_tfds(place, data, made, text, found)


def filled(data: Data, manifest: dict) -> Data:
    """`data` with what it leaves unset of where the text is, as the store has it."""
    made = manifest.get("data", {})
    if made.get("source") != data.source:
        return data
    unset = [name for name in _PLACES if getattr(data, name) is None]
    return dataclasses.replace(data, **{name: made.get(name) for name in unset})


def compare_tokenizer(config: TokenizerConfig, manifest: dict, found: Findings) -> None:
    """Adds to `found` how a config's tokenizer differs from the one that made a store."""
    made = manifest.get("tokenizer")
    if made is None:
        return
    path, sha256 = config.path, manifest["tokenizer_sha256"]
    if path and storage.exists(path):
        if "rules" not in made and not str(path).endswith(".txt"):
            # Earlier versions wrote True here, whatever the tokenizer: it counted for a vocab.txt.
            config = dataclasses.replace(config, lowercase=None)
        if tokenizer.read(config)[0].sha256 != sha256:
            _differ_in_tokenizer(config, made, "another tokenizer", found)
    elif path and path == made["path"] and not _contradicted(config, made):
        found.notes.append(f"config.tokenizer.path={path!r} is not there, so not compared")
    elif path:
        _differ_in_tokenizer(config, made, "no such file", found)
    elif manifest.get("tokenizer_from") == WEIGHTS or _was_of_weights(made, manifest):
        return
    elif made["path"]:
        found.differ("config.tokenizer.path", path, made["path"])
    else:
        for name in ("kind", "vocab_size"):
            if getattr(config, name) != made[name]:
                found.differ(f"config.tokenizer.{name}", getattr(config, name), made[name])
        # A vocabulary that is trained is lower-cased where nothing is said, byte-level BPE never.
        default = {"lowercase": True, "rules": "huggingface"} if made["kind"] != "byte_bpe" else {}
        for name, value in default.items():
            wanted, has = (
                value if x is None else x for x in (getattr(config, name), made.get(name))
            )
            if wanted != has:
                found.differ(f"config.tokenizer.{name}", wanted, has)


def is_trained(manifest: dict) -> bool:
    """Whether a store's tokenizer was trained on its own corpus."""
    made = manifest.get("tokenizer")
    return made is not None and not made["path"] and manifest.get("tokenizer_from") != WEIGHTS


def _differ_in_tokenizer(config: TokenizerConfig, made: dict, why: str, found: Findings) -> None:
    wishes = _contradicted(config, made)
    if config.path != made["path"] or not wishes:
        found.differ("config.tokenizer.path", config.path, made["path"], why)
    for name in wishes:
        found.differ(f"config.tokenizer.{name}", getattr(config, name), made.get(name))


def _contradicted(config: TokenizerConfig, made: dict) -> list[str]:
    """The wishes that a store was made against; the files of a tokenizer may say what is unset."""
    return [
        name
        for name in ("lowercase", "rules")
        if None not in (getattr(config, name), made.get(name))
        and getattr(config, name) != made[name]
    ]


def _was_of_weights(made: dict, manifest: dict) -> bool:
    """Manifests of earlier versions name W/tokenizer as any other path."""
    return "text" not in manifest and Path(made["path"] or "").name == "tokenizer"


def describe(paths: Iterable[str]) -> list[dict]:
    """What the manifest says of each file."""
    with ThreadPoolExecutor(sources.READERS) as pool:
        return list(pool.map(_describe, paths))


def _describe(path: str) -> dict:
    facts = storage.facts(path)
    return {"path": str(storage.absolute(path)), **facts, "sample": _sample(path, facts["bytes"])}


def _sample(path: str, size: int) -> str:
    """SHA-256 of a file's head, middle and tail; of all of it, where it is short."""
    length = min(_SAMPLE_BYTES, size)
    starts = sorted({0, (size - length) // 2, size - length})
    if storage.is_remote(path):
        parts = storage.read_ranges([path] * len(starts), starts, [s + length for s in starts])
    else:
        with open(path, "rb") as file:
            parts = [os.pread(file.fileno(), length, start) for start in starts]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _is_same(known: dict, path: str, facts: dict) -> bool:
    """Whether the file at `path` has the text of a file that a store was made of."""
    if known["bytes"] != facts["bytes"]:
        return False
    if "crc32c" in known and "crc32c" in facts:
        return known["crc32c"] == facts["crc32c"]
    if known["path"] == path and known.get("modified") == facts.get("modified"):
        return True
    return known["sample"] == _sample(path, facts["bytes"])


def _compare_files(
    field: str, wanted: str | None, made: str | None, known: list[dict] | None, found: Findings
) -> None:
    is_spelled_so = folders.patterns(wanted) == folders.patterns(made)
    if wanted is None or (known is None and is_spelled_so):
        return
    if known is None:
        return found.differ(field, wanted, made)
    try:
        matches = (folders.find(pattern) for pattern in folders.patterns(wanted))
        paths = folders.unique(itertools.chain.from_iterable(matches))
        with ThreadPoolExecutor(sources.READERS) as pool:
            facts = dict(zip(paths, pool.map(storage.facts, paths), strict=True))
        gone, other = _match(known, facts)
    except (OSError, StorageError) as error:
        if not is_spelled_so:
            raise
        found.notes.append(f"{field}={wanted!r} cannot be read, so not compared ({error})")
        return None
    if other:
        found.differ(field, wanted, made, _reason(other[0], facts[other[0]], known))
    elif not gone:
        if not is_spelled_so:
            found.notes.append(f"{field}={wanted!r} is the text of {made!r}, which the store has")
    elif not is_spelled_so:
        why = f"lacks {gone[0]['path']}" if facts else "no such file"
        found.differ(field, wanted, made, why)
    else:
        some = "" if len(gone) == len(known) else f"{len(gone)} of {len(known)} files of "
        found.notes.append(f"{some}{field}={wanted!r}: not there any more, so not compared")


def _match(known: list[dict], facts: dict[str, dict]) -> tuple[list[dict], list[str]]:
    """The known files that are none of those at hand, and those at hand that are none of them.

    A file is looked for at its own place first, then among all: it may have moved.
    """
    at = {file["path"]: file for file in known}
    left, others = dict(at), []
    for path, fact in facts.items():
        place = str(storage.absolute(path))
        if place in left and _is_same(at[place], place, fact):
            del left[place]
        else:
            others.append(path)
    strangers = []
    for path in others:
        match = next((p for p, file in left.items() if _is_same(file, path, facts[path])), None)
        if match is None:
            strangers.append(path)
        else:
            del left[match]
    return list(left.values()), strangers


def _reason(path: str, fact: dict, known: Iterable[dict]) -> str:
    place = str(storage.absolute(path))
    then = next((file for file in known if file["path"] == place), None)
    if then is None:
        return f"{path} is none of its files"
    now = f"{fact['bytes']:,}" if fact["bytes"] != then["bytes"] else "as many, others,"
    return f"{path} has changed since: {then['bytes']:,} bytes then, {now} now"


def _compare_tfds(place: str, data: Data, made: dict, text: dict, found: Findings) -> None:
    names = ("tfds_name", "tfds_data_dir")
    spelled = {name: (getattr(data, name), made.get(name)) for name in names}
    others = [name for name, (wanted, then) in spelled.items() if wanted != then]
    if data.tfds_name is None or (not text and not others):
        return
    why, now = "", None
    if text:
        try:
            now = text_of(data)
        except BertjaxError as error:
            why = str(error)
    if now == text and text:
        if others:
            found.notes.append(f"{place}.tfds_name={data.tfds_name!r} is {text['tfds']}, as stored")
    elif now is None and not others:
        found.notes.append(f"{place}.tfds_name={data.tfds_name!r}: not compared ({why})")
    else:
        if now:
            why = f"{now['examples']:,} examples of {now['tfds']} now, {text['examples']:,} of {text['tfds']} then"
        for name in others or ["tfds_name"]:
            found.differ(f"{place}.{name}", *spelled[name], why)
