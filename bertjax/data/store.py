"""A tokenized corpus: flat arrays, memory-mapped or on gs://, described by a manifest.

    store/manifest.json                      written last
    store/{train,heldout}/tokens.bin         uint16 (uint32 beyond 65,536 tokens), no special tokens
    store/{train,heldout}/sentences.bin      int64 [S+1]: sentence s is tokens[sentences[s]:sentences[s+1]]
    store/{train,heldout}/documents.bin      int64 [D+1]: document d has sentences documents[d]:documents[d+1]
    store/train/unigrams.bin                 int64 [V]: how often train/tokens.bin has each id

All numbers are little-endian. There is no empty sentence and no empty document.

On gs:// the tokens stay where they are and batches read their ranges (see `remote`), so that a
corpus may be larger than a host; its offsets are held in memory, 8 bytes a sentence, and so are
the tokens of a small one.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from bertjax import storage
from bertjax.data import remote
from bertjax.errors import DataError

FORMAT = 1
SPLITS = ("train", "heldout")
OFFSET = np.dtype("<i8")
COUNTS = ("tokens", "sentences", "documents")
UNIGRAMS = "train/unigrams.bin"
HELD_BYTES = 64 << 20  # a tokens.bin on gs:// of this size is read whole: most held-out splits are


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest type of tokens.bin that holds every id of the vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclasses.dataclass(frozen=True)
class Store:
    """One split of a corpus: tokens [T], sentences [S+1] and documents [D+1] (see the module)."""

    tokens: np.ndarray | remote.Tokens
    sentences: np.ndarray
    documents: np.ndarray
    vocab_size: int

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_sentences(self) -> int:
        return len(self.sentences) - 1

    @property
    def num_documents(self) -> int:
        return len(self.documents) - 1

    def slice(self, begin: int, end: int) -> np.ndarray:
        """Tokens `begin` to `end - 1`; raises as `remote.Tokens.gather` where they are on gs://."""
        if not isinstance(self.tokens, remote.Tokens):
            return self.tokens[begin:end]
        tokens, [start] = self.tokens.gather(np.array([begin]), np.array([end - begin]))
        return tokens[start : start + end - begin]


def components(directory: Path) -> list[str]:
    """Names of the stores within W/store, [""] where it is one itself, [] where there is none."""
    if storage.exists(directory / "manifest.json"):
        return [""]
    found = storage.folders(directory)
    return sorted(name for name in found if storage.exists(directory / name / "manifest.json"))


def read_manifest(directory: Path) -> dict:
    """The manifest of the store in `directory`.

    Raises:
      DataError: there is no store, its manifest is damaged, or another version wrote it.
    """
    path = storage.path(directory) / "manifest.json"
    try:
        manifest = json.loads(storage.read(path))
        version = manifest["format"]
    except FileNotFoundError:
        raise DataError(f"{directory}: no token store here; run `bertjax prepare`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: damaged manifest ({error}); run `bertjax prepare` again"
        ) from None
    if version != FORMAT:
        raise DataError(f"{path}: format {version}, this version reads {FORMAT}; prepare it again")
    return manifest


def open_store(directory: Path, split: str) -> Store:
    """Opens one split. Sizes are checked against the manifest; `verify` checks the bytes.

    Raises:
      DataError: the store or a file of it is missing, or a file has another size.
    """
    directory = storage.path(directory)
    manifest = read_manifest(directory)
    dtypes = {"tokens": token_dtype(manifest["vocab_size"])}
    arrays: Any = {
        name: open_array(directory, f"{split}/{name}.bin", dtypes.get(name, OFFSET), manifest)
        for name in COUNTS
    }
    return Store(**arrays, vocab_size=manifest["vocab_size"])


def read_unigrams(directory: Path) -> np.ndarray | None:
    """How often the training text has each id, [V] int64; None of a store that was made without.

    Counted is the text as stored, every document once: no held-out ones, no special tokens that
    examples add, no passes over the corpus; a document that the corpus repeats, as often as there.

    Raises:
      DataError: the store or the file is missing, or the file has another size.
    """
    directory = storage.path(directory)
    manifest = read_manifest(directory)
    if UNIGRAMS not in manifest["files"]:
        return None
    return np.asarray(open_array(directory, UNIGRAMS, OFFSET, manifest))


def verify(directory: Path) -> None:
    """Reads every byte again and compares it with the hash in the manifest.

    Raises:
      DataError: naming the first file that differs.
    """
    directory = storage.path(directory)
    for name, recorded in read_manifest(directory)["files"].items():
        path = directory / name
        if not storage.is_file(path) or _sha256(path) != recorded["sha256"]:
            raise DataError(f"{path}: bytes differ from the manifest; run `bertjax prepare` again")


def open_array(
    directory: Path, name: str, dtype: np.dtype, manifest: dict
) -> np.ndarray | remote.Tokens:
    """A file of a store; raises DataError where its size is not the manifest's."""
    path, expected = directory / name, manifest["files"].get(name, {}).get("bytes")
    size: Any = storage.sizes([path])[0] if storage.is_file(path) else "no"
    if size != expected:
        raise DataError(
            f"{path}: {size} bytes, the manifest says {expected}; run `bertjax prepare` again"
        )
    if not size:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    if not storage.is_remote(path):
        return np.memmap(path, dtype, "r")
    if path.name == "tokens.bin" and size > HELD_BYTES:
        return remote.Tokens(path, dtype, size // dtype.itemsize)
    return np.frombuffer(storage.read(path, parts=16), dtype)


def _sha256(path: Path) -> str:
    with storage.open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Column:
    """One file that only grows, hashed as it is written."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self._file = storage.open_file(path, "wb")
        self._is_local = not storage.is_remote(path)
        self._sha256 = hashlib.sha256()
        self._dtype = dtype
        self.bytes = 0

    def append(self, values: np.ndarray | list[int]) -> None:
        data = np.ascontiguousarray(values, self._dtype).data.cast("B")
        self._file.write(data)
        self._sha256.update(data)
        self.bytes += len(data)

    def close(self) -> None:
        self._file.close()

    def finish(self) -> dict:
        if self._is_local:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self.bytes, "sha256": self._sha256.hexdigest()}


class Writer:
    """Appends documents to both splits of a new store, in memory that does not grow with it.

    As a context manager it closes its files; a store without the manifest that `finish` writes
    is never opened.
    """

    def __init__(self, directory: Path, vocab_size: int) -> None:
        self.directory = storage.path(directory)
        self.counts = {split: dict.fromkeys(COUNTS, 0) for split in SPLITS}
        self._vocab_size = vocab_size
        self._unigrams = np.zeros(vocab_size, np.int64)
        self._columns = {}

    def __enter__(self) -> "Writer":
        with contextlib.ExitStack() as stack:
            for split in SPLITS:
                if not storage.is_remote(self.directory):
                    (self.directory / split).mkdir(parents=True)
                for name in COUNTS:
                    dtype = token_dtype(self._vocab_size) if name == "tokens" else OFFSET
                    column = Column(self.directory / split / f"{name}.bin", dtype)
                    stack.callback(column.close)
                    if name != "tokens":
                        column.append([0])
                    self._columns[f"{split}/{name}.bin"] = column
            column = Column(self.directory / UNIGRAMS, OFFSET)
            stack.callback(column.close)
            self._columns[UNIGRAMS] = column
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def append(
        self,
        split: str,
        tokens: np.ndarray,
        sentence_lengths: np.ndarray,
        document_lengths: np.ndarray,
    ) -> None:
        """Adds whole documents.

        Args:
          tokens: ids [T] of all the documents, one after the other.
          sentence_lengths: tokens in each sentence [S], all positive, summing to T.
          document_lengths: sentences in each document [D], all positive, summing to S.
        """
        counts = self.counts[split]
        lengths = {
            "sentences": (sentence_lengths, "tokens"),
            "documents": (document_lengths, "sentences"),
        }
        for name, (length, inner) in lengths.items():
            ends = counts[inner] + np.cumsum(length, dtype=np.int64)
            self._columns[f"{split}/{name}.bin"].append(ends)
        self._columns[f"{split}/tokens.bin"].append(tokens)
        for name, values in zip(COUNTS, (tokens, sentence_lengths, document_lengths), strict=True):
            counts[name] += len(values)
        if split == "train":
            self._unigrams += np.bincount(tokens, minlength=self._vocab_size)

    def finish(self, **description: Any) -> dict:
        """Closes the files, writes the manifest with `description` added, and returns it."""
        self._columns[UNIGRAMS].append(self._unigrams)
        files = {name: column.finish() for name, column in self._columns.items()}
        manifest = {
            "format": FORMAT,
            "vocab_size": self._vocab_size,
            "splits": self.counts,
            "unigram_entropy": entropy(self._unigrams),
            "files": files,
            **description,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        storage.write(self.directory / "manifest.json", text.encode())
        return manifest


def entropy(counts: np.ndarray) -> float:
    """Shannon entropy in nats of the distribution `counts / counts.sum()`; 0.0 for no counts."""
    p = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(p * np.log(p)).sum())
