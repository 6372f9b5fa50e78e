"""What is read into one store: the corpus of `config.data`, or of one component of a mixture."""

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bertjax.config import Config, Data
from bertjax.data import identity, sources
from bertjax.data.documents import paragraphs, read_text
from bertjax.data.tokenize import Tokenized, share
from bertjax.errors import DataError, UsageError

UNKNOWN_WORDS = 10_000  # counted for the report


@dataclasses.dataclass
class Corpus:
    """One corpus on its way into a store.

    Attributes:
      name: of the component, "" without a mixture. It is also the folder of its store within
        W/store, which is W/store itself for "".
      data: where its text is.
      proportion: of the rows of a batch, in (0, 1].
      dropped: counts, by reason, what was left out so far.
      seen, unknown_words: as of `tokenize.Tokenized`, so far.
      size: length, in the unit of `sources.Chunk.position`; known once it is open.
    """

    name: str
    data: Data
    proportion: float
    dropped: Counter = dataclasses.field(default_factory=Counter)
    seen: Counter = dataclasses.field(default_factory=Counter)
    unknown_words: Counter = dataclasses.field(default_factory=Counter)
    size: int = 0

    def __str__(self) -> str:
        data = self.data
        names = {"files": f"config.data.files={data.files!r}", "tfds": f"TFDS {data.tfds_name}"}
        return names.get(data.source, f"config.data.source={data.source}")

    @property
    def reasons(self) -> str:
        """`dropped` in words."""
        return "; ".join(f"{n:,} x {reason}" for reason, n in sorted(self.dropped.items()))

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Errors within say which component of the mixture they are about."""
        try:
            yield
        except (DataError, UsageError) as error:
            if not self.name:
                raise
            raise type(error)(self.named(str(error))) from None

    def named(self, message: str) -> str:
        """A message about this corpus; in a mixture it says which component."""
        if not self.name:
            return message
        place = f"config.mixture.{self.name}"
        named = message.replace("config.data.", f"{place}.data.")
        return named if place in named else f"{place}: {named}"

    def observe(self, result: Tokenized) -> None:
        """Adds what was counted in a chunk.

        Of the unknown words the first `UNKNOWN_WORDS` different ones are counted: which ones does
        not depend on how the corpus is cut into chunks.
        """
        self.dropped.update(result.dropped)
        self.seen.update(result.seen)
        for word, count in result.unknown_words.items():
            if word in self.unknown_words or len(self.unknown_words) < UNKNOWN_WORDS:
                self.unknown_words[word] += count

    def open(self) -> None:
        """Finds the text: the cheap part, before anything is read.

        Raises:
          UsageError, DataError: as `sources.chunks`, where it is not there.
        """
        with self.blamed():
            self.size = sources.size(self.data)
            sources.refuse_others(self.data)
            if twice := sources.aliases(self.data):
                self.dropped["another name of a file"] = twice
            if beside := sources.passed_over(self.data):
                self.dropped["file beside the data (_*, README, LICENSE)"] = beside

    def peek(self, needed: int) -> None:
        """Reads up to `needed` documents that have text.

        What the first records or a corpus of one document would refuse after hours is so refused
        at once.

        Raises:
          DataError: there is one document where two are needed; or as `documents.read_text`.
        """
        found = 0
        with self.blamed(), contextlib.closing(sources.chunks(self.data)) as chunks:
            for record in (record for chunk in chunks for record in chunk.records):
                text = read_text(record, self.data.text_field)
                found += bool(text and paragraphs(text, record.form))
                if found == needed:
                    return
            if found:
                raise DataError(
                    f"{self}: holds one document, and next-sentence prediction pairs two; add "
                    "documents (a blank line ends one in a .txt, a line in a .jsonl), or set "
                    "config.objective.nsp=0"
                )

    def identity(self) -> dict:
        """What its text is, for the manifest (see `identity`); raises as `open`."""
        with self.blamed():
            return identity.text_of(self.data)

    @property
    def place(self) -> str:
        """Of its `data` in the config."""
        return f"config.mixture.{self.name}.data" if self.name else "config.data"

    def training_texts(self, most_bytes: float, console: Console) -> Generator[str, None, None]:
        """Paragraphs of documents that are not held out, thinned to about `most_bytes` in all.

        The same hash that holds documents out decides which of the others stay.
        """
        low = self.data.heldout_fraction
        wanted = most_bytes / max(sources.estimate_bytes(self.data), 1)
        high = low + (1 - low) * min(wanted, 1.0)
        first = True
        with contextlib.closing(sources.chunks(self.data)) as chunks:
            for chunk in self.watched(chunks, "read for vocabulary", console):
                for record in chunk.records:
                    text = read_text(record, self.data.text_field) or ""
                    if first or low <= share(text) < high:
                        found = paragraphs(text, record.form)
                        first = first and not found
                        yield from found

    def watched(self, items: Iterable, title: str, console: Console) -> Iterator:
        """Passes chunks or results on and shows how far they reach, their rate, the time left."""
        columns = (
            TextColumn("{task.description:20}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]:.1f} MB/s"),
            TimeRemainingColumn(),
        )
        done, started = 0, time.monotonic()
        with Progress(*columns, console=console) as bar:
            title = f"{self.name}: {title}" if self.name else title
            task = bar.add_task(title, total=self.size, rate=0.0)
            for item in items:
                done += item.text_bytes
                rate = done / (time.monotonic() - started) / 1e6
                bar.update(task, completed=item.position, rate=rate)
                yield item


def of(config: Config) -> list[Corpus]:
    """The corpora that a config reads: one, or its mixture's components in order of name."""
    total = sum(config.weights.values())
    return [
        Corpus(name, config.mixture[name].data if name else config.data, weight / total)
        for name, weight in config.weights.items()
    ]
