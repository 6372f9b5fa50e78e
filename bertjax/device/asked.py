"""What `bench-export` is asked for, and whose tokenizer and task count."""

import dataclasses
from collections.abc import Callable, Mapping

from bertjax.convert.pretrained import Hints, Pretrained
from bertjax.data import tokenizer_files
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.device import programs
from bertjax.errors import DataError, UsageError


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Attributes:
      places: .onnx files and sources of `convert`.
      texts: a file, a text a line.
      lengths: tokens of a row, ascending.
      runs: timed calls of each model for each latency.
      source: the model whose tokenizer and task the files have; None: the first source in `places`.
      dev: a labelled file; None: no score.
      hints: what sources do not say themselves; its tokenizer counts before theirs.
    """

    places: tuple[str, ...]
    texts: str
    lengths: tuple[int, ...] = (32, 128, 384)
    runs: int = 100
    source: str | None = None
    dev: str | None = None
    hints: Hints = dataclasses.field(default_factory=Hints)

    def __post_init__(self) -> None:
        """Raises UsageError: a place comes twice, or nothing says the tokenizer or the task."""
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
        """The source whose tokenizer and task count."""
        others = (place for place in self.places if not programs.is_export(place))
        return self.source or next(others, None)

    def tokenizer(self, read: Mapping[str, Pretrained], say: Callable[[str], None]) -> Tokenizer:
        """The tokenizer that cuts the texts.

        Args:
          read: sources that were read, by their places.
          say: takes a line for what the tokenizer's files do not say.

        Raises:
          DataError: the source has none.
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
