"""What `data.source=bert_tfrecord` goes with: its examples are rows already, and have their masks."""

from bertjax.config.fields import Config
from bertjax.errors import UsageError


def check(config: Config) -> None:
    """Raises UsageError, naming the field, the value and the fix, where a config mixes the two."""
    data = config.data
    for name, part in config.mixture.items():
        if part.data.holds_examples:
            raise UsageError(
                f"config.mixture.{name}.data.source={part.data.source!r}: a mixture is of documents; "
                "name all files in config.data.files, without config.mixture"
            )
    if not data.holds_examples:
        if data.heldout_files is not None:
            raise UsageError(
                f"config.data.heldout_files={data.heldout_files!r}: read with "
                "config.data.source=bert_tfrecord only; of documents, config.data.heldout_fraction "
                "is held out"
            )
        return
    if config.mixture:
        raise UsageError(
            f"config.data.source={data.source!r}: not read beside config.mixture "
            f"({', '.join(config.mixture)}); take one of the two"
        )
    if config.is_finetuning:
        raise UsageError(
            f"config.data.source={data.source!r}: holds examples for pretraining; a fine-tuning "
            "reads config.data.source=files"
        )
    if config.examples.max_per_row > 1:
        raise UsageError(
            f"config.examples.max_per_row={config.examples.max_per_row}: an example of "
            f"config.data.source={data.source} is a row of its own; set it to 1"
        )
    if config.model.type_vocab_size == 1:
        raise UsageError(
            "config.model.type_vocab_size=1: the examples of config.data.source="
            f"{data.source} have two types; set it to 2, or to 0 for none"
        )
