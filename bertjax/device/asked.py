"""The request of `bench-export`, and the source of its tokenizer and task."""

import dataclasses
from collections.abc import Callable, Mapping

from bertjax.convert.pretrained import Hints, Pretrained
from bertjax.data import tokenizer_files
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.device import programs
from bertjax.errors import DataError, UsageError


@dataclasses.dataclass(frozen=True)
class Asked:
    """What to measure.

    Attributes:
      places: .onnx files and sources of `convert`.
      texts: a file with one text per line.
      lengths: tokens of a row, ascending.
      runs: timed calls of each model for each latency.
      source: the model that gives tokenizer and task; None for the first source in `places`.
      dev: a labeled file; None for no score.
      hints: values that sources do not record; its tokenizer replaces theirs.
    """

    places: tuple[str, ...]
    texts: str
    lengths: tuple[int, ...] = (32, 128, 384)
    runs: int = 100
    source: str | None = None
    dev: str | None = None
    hints: Hints = dataclasses.field(default_factory=Hints)

    def __post_init__(self) -> None:
        """Raises UsageError if a place comes twice, or nothing gives the tokenizer or the task."""
        twice = [place for place in self.places if self.places.count(place) > 1]
        if twice:
            raise UsageError(f"{twice[0]}: is named twice")
        if self.model is None and self.dev is not None:
            raise UsageError("--dev: needs --source=SRC, the fine-tuned model whose task it is")
        if self.model is None and not self.hints.tokenizer:
            raise UsageError(
                f"{self.places[0]}: an exported file has no tokenizer; name the model that it comes "
                "from (--source=hf:DIR or a run's workdir), or --tokenizer=FILE or folder"
            )

    @property
    def model(self) -> str | None:
        """The source that gives the tokenizer and the task; None if there is none."""
        others = (place for place in self.places if not programs.is_export(place))
        return self.source or next(others, None)

    def tokenizer(self, read: Mapping[str, Pretrained], say: Callable[[str], None]) -> Tokenizer:
        """The tokenizer for the texts.

        Args:
          read: the sources that were read already, by place.
          say: called with each note on what the tokenizer's files do not say.

        Raises:
          DataError: the source has no tokenizer.
          UsageError, DataError: as `tokenizer_files.read` and `convert.read`.
        """
        if self.hints.tokenizer:
            found, notes = tokenizer_files.read(self.hints.tokenizer, self.hints.tokenizer_wish)
            for note in notes:
                say(note)
            return found
        assert self.model is not None
        pretrained = read.get(self.model)
        if pretrained is None:
            from bertjax.convert import read as read_source

            pretrained = read_source(self.model, self.hints)
        if pretrained.tokenizer is None:
            raise DataError(
                f"{self.model}: has no tokenizer; name its file or folder: --tokenizer=PATH"
            )
        return pretrained.tokenizer
