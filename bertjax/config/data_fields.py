"""The config fields for the data: tokenizer, corpus, examples and masking."""

import dataclasses

from bertjax.config.rules import (
    BelowOne,
    Count,
    InsideOne,
    Positive,
    PositiveFloat,
    Share,
)
from bertjax.config.tree import field


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    kind: str = field("wordpiece", "tokenizer family", ("wordpiece", "sentencepiece", "byte_bpe"))
    path: str | None = field(
        None,
        "a folder of tokenizer files, or a vocab.txt, tokenizer.json or SentencePiece .model; "
        "unset trains one on the corpus",
    )
    vocab_size: Count = field(30522, "size of a newly trained vocabulary")
    lowercase: bool | None = field(
        None,
        "lower-case and strip accents; unset: by the files of tokenizer.path, or else by a look at "
        "its vocabulary (logged); a new vocabulary is lower-cased, except byte_bpe's",
    )
    rules: str | None = field(
        None,
        "rules of WordPiece: huggingface, or google (google-research/bert's: final sigma, words of "
        "up to 200 characters); unset: by the files of tokenizer.path, or else huggingface",
        ("huggingface", "google"),
    )


@dataclasses.dataclass(frozen=True)
class Data:
    source: str = field(
        "files",
        "files (data.files), bert_tfrecord (data.files: examples of google-research/bert's "
        "create_pretraining_data.py, masked already), tfds (data.tfds_*) or sample (the prose of "
        "the Python installation)",
        ("files", "bert_tfrecord", "tfds", "sample"),
    )
    files: str | None = field(
        None,
        "comma-separated files, globs or folders, told by content: text, JSON lines, WikiExtractor, "
        "Parquet, Arrow, compressed or not (docs/how-to/corpora.md); for fine-tuning: the task's "
        "published folder, or labeled files",
    )
    heldout_files: str | None = field(
        None,
        "source=bert_tfrecord: comma-separated paths or globs of the examples to evaluate on; unset "
        "holds out heldout_fraction of the records of data.files",
    )
    text_field: str = field(
        "text",
        "field of a JSON, Parquet, Arrow or TFDS record that holds the text; inner ones dotted",
    )
    txt_format: str = field(
        "auto",
        "form of text: sentences or paragraphs (one a line, blank line between documents), prose, "
        "or auto",
        ("auto", "sentences", "paragraphs", "prose"),
    )
    language: str = field("en", "language of the sentence splitter (ISO 639-1)")
    tfds_name: str | None = field(None, "TFDS dataset, for example wikipedia/20230601.en")
    tfds_split: str = field("train", "TFDS split")
    tfds_data_dir: str | None = field(None, "where TFDS keeps its prepared datasets")
    heldout_fraction: BelowOne = field(
        0.01, "share of documents kept out of training, for evaluation"
    )
    num_workers: Count = field(
        0, "processes that tokenize, threads that index TFRecords; 0 takes one per core"
    )
    prefetch_batches: Positive = field(4, "host batches prepared ahead of the step")

    @property
    def holds_examples(self) -> bool:
        """Whether the source is of examples, masked already, and not of documents."""
        return self.source == "bert_tfrecord"


@dataclasses.dataclass(frozen=True)
class Examples:
    builder: str = field(
        "segment_pair_nsp",
        "how sequences are cut from documents (RoBERTa, section 4.2): segment_pair_nsp (BERT's), "
        "sentence_pair_nsp, full_sentences (across documents), doc_sentences (within one)",
        ("segment_pair_nsp", "sentence_pair_nsp", "full_sentences", "doc_sentences"),
    )
    short_seq_prob: Share = field(0.1, "share of documents with a random shorter target length")
    max_per_row: int = field(
        1, "most examples packed into one row, without attention between them; 1 does not pack"
    )

    @property
    def has_next_sentence(self) -> bool:
        """Whether the examples are pairs with a next-sentence label."""
        return self.builder.endswith("_nsp")


@dataclasses.dataclass(frozen=True)
class Masking:
    masked_lm_prob: Share = field(0.15, "share of tokens to predict")
    mask_token_prob: Share = field(0.8, "share of these tokens replaced by [MASK]")
    random_token_prob: Share = field(
        0.1, "share of these tokens replaced by a random token; the rest stay"
    )
    rounding: str = field(
        "nearest",
        "rounds masked_lm_prob * length: nearest (google-research/bert) or probabilistic (fairseq: "
        "up with the probability of the fraction)",
        ("nearest", "probabilistic"),
    )
    unit: str = field(
        "token",
        "unit that masking chooses: token, whole_word, or span (SpanBERT: runs of whole words)",
        ("token", "whole_word", "span"),
    )
    span_p: InsideOne = field(0.2, "unit=span: p of the geometric number of words in a span")
    span_max_words: Positive = field(10, "unit=span: most words in a span")
    choose_special: bool = field(
        False, "[CLS], [SEP] and added special tokens may be chosen too (fairseq: True)"
    )
    random_special: bool = field(
        True, "a random token may be a special one (google-research/bert: True; fairseq: False)"
    )
    smoothing: Share = field(
        0.0,
        "unit=token: choose a token with weight count**-smoothing, where count is its frequency in "
        "the training text, so rare tokens more often (DistilBERT: 0.7); 0 chooses all alike",
    )
    budget: str = field(
        "example",
        "scope of the number of predictions: example (BERT, RoBERTa) or batch (DistilBERT: "
        "masked_lm_prob * tokens of the whole batch, rounded up, drawn over all its rows; "
        "max_predictions_per_seq still limits a row)",
        ("example", "batch"),
    )
    static_patterns: Count = field(
        0, "0 draws new masks every epoch (dynamic); k repeats k fixed patterns (static)"
    )


@dataclasses.dataclass(frozen=True)
class Component:
    weight: PositiveFloat = field(1.0, "share of rows, relative to the other components")
    data: Data = Data()
