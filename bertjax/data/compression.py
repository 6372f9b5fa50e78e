"""Compressed files as plain bytes: gzip, bzip2, xz and zstd, told by their first bytes.

A file may hold several members, one after the other (`pigz`, `pbzip2`, `xz -T`, `zstd` and
concatenated files); all but zstd's may have zeros between them. The standard library's file objects
take a damaged start of a member for the end of the file; here damage always stops the run.
"""

import bz2
import io
import lzma
import re
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from bertjax.errors import DataError, one_line

SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd")  # usual, but the content decides
BLOCK_BYTES = 64 << 10  # compressed bytes read at a time
_BUFFER_BYTES = 256 << 10
_FIRST_BYTES = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),  # a first block, or none
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # a frame, or a skipped one
}


def kind_of(first: bytes) -> str | None:
    """The compression of a file that starts with `first` (10 bytes tell), None for none."""
    return next((kind for kind, magic in _FIRST_BYTES.items() if magic.match(first)), None)


def decompressed(raw: BinaryIO, path: str) -> Any:
    """A binary file of the plain bytes of `raw`, which is `raw` itself where it is not compressed.

    `raw` stays open when the result is closed, and its `tell` says how much of it has been read.

    Args:
      raw: at its start; it is read in order.
      path: what an error names.

    Raises:
      DataError: while it is read: a truncated or damaged member; names file and byte offset.
    """
    kind = kind_of(raw.read(16))
    raw.seek(0)
    if kind is None:
        return raw
    if kind == "zstd":
        return io.BufferedReader(_Zstd(raw, path), _BUFFER_BYTES)
    decoder = {"gzip": _Gzip, "bzip2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}[kind]
    return io.BufferedReader(_Members(raw, path, kind, decoder), _BUFFER_BYTES)


class _Plain(io.RawIOBase):
    """Plain bytes; `tell` counts them."""

    def __init__(self, raw: BinaryIO, path: str, kind: str) -> None:
        self._raw, self._path, self._kind, self._position = raw, path, kind, 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        plain = self._some(len(buffer))
        buffer[: len(plain)] = plain
        self._position += len(plain)
        return len(plain)

    def _some(self, most: int) -> bytes:
        """The next bytes, at most `most`; b"" at the end."""
        raise NotImplementedError

    def _damaged(self, where: str, why: str) -> DataError:
        return DataError(
            f"{self._path}: truncated or damaged {self._kind}, {where} of the file ({why}); copy the "
            "file again"
        )


class _Members(_Plain):
    """The members of a gzip, bzip2 or xz file."""

    def __init__(self, raw: BinaryIO, path: str, kind: str, decoder: Callable[[], Any]) -> None:
        super().__init__(raw, path, kind)
        self._new_decoder = decoder
        self._decoder: Any = None  # of the member that is being read, whose first byte is `_start`
        self._start, self._rest = 0, b""  # `_rest` is read, and not yet decoded

    def _some(self, most: int) -> bytes:
        while self._decoder or self._next_member():
            decoder, block = self._decoder, b""
            if decoder.needs_input:
                block, self._rest = self._rest or self._raw.read(BLOCK_BYTES), b""
            try:
                plain = decoder.decompress(block, most)
            except (zlib.error, lzma.LZMAError, OSError) as error:
                raise self._damaged(self._member, one_line(error)) from None
            if decoder.eof:
                self._decoder, self._rest = None, decoder.unused_data
            elif decoder.needs_input and not block and not plain:
                raise self._damaged(self._member, "it ends too early")
            if plain:
                return plain
        return b""

    def _next_member(self) -> bool:
        """Whether there is another one; zeros before it are skipped."""
        rest = self._rest or self._raw.read(BLOCK_BYTES)
        while rest and not (stripped := rest.lstrip(b"\0")):
            rest = self._raw.read(BLOCK_BYTES)
        self._rest = stripped if rest else b""
        self._start = self._raw.tell() - len(self._rest)
        self._decoder = self._new_decoder() if self._rest else None
        return self._decoder is not None

    @property
    def _member(self) -> str:
        return f"in the member that starts at byte {self._start:,}"


class _Gzip:
    """A member of gzip, with the methods of `bz2.BZ2Decompressor`; zlib checks its CRC and size."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def decompress(self, block: bytes, most: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + block, most)

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


class _Zstd(_Plain):
    """The frames of a zstd file, by the codec of Arrow: Python has one since 3.14 only."""

    def __init__(self, raw: BinaryIO, path: str) -> None:
        import pyarrow  # heavy, and only some corpora need it

        super().__init__(raw, path, "zstd")
        self._stream = pyarrow.CompressedInputStream(_Unclosed(raw), "zstd")

    def _some(self, most: int) -> bytes:
        try:
            return self._stream.read(most)
        except OSError as error:
            if error.errno is not None:  # of the disk, not of the codec
                raise
            why = one_line(error).removeprefix("ZSTD decompress failed: ")
            raise self._damaged(f"before byte {self._raw.tell():,}", why) from None


class _Unclosed:
    """A file that Arrow reads, and would close when it is done."""

    closed = False

    def __init__(self, raw: BinaryIO) -> None:
        self.read = raw.read

    def close(self) -> None:
        pass
