"""The heads on top of the encoder: one record a head, which all other code reads.

A head consists of a few parts; each part is a group of parameters. `models.heads` computes the
parts. The choices of `config.model.head`, the shapes of parameters, the count of FLOPs, the name
maps, the exports and the model card follow from the records.
"""

import dataclasses
from typing import NamedTuple

ARCHITECTURES = ("bert", "roberta", "distilbert")  # model types of `transformers`


@dataclasses.dataclass(frozen=True)
class Part:
    """A group of parameters on top of the encoder, with its input and output.

    A part is one dense layer, `NAME/dense`. A `tied` part has a transform before its last layer,
    and the last layer is the word table (`models.heads.MaskedLM`).

    Attributes:
      name: the group's name in the parameter tree.
      reads: the input: `hidden` (every token), `masked` (the P masked positions), `first` (the
        first token of an example), or the output of an earlier part.
      gives: the output's name in the result of `models.apply`.
      width: the features of the output: a number, or the name of a field of `config.Model`.
      drops: whether training applies dropout to the input.
      hf_name: the layer's name in `transformers`; None if the name depends on the architecture.
      tf1_scope: the scope of `output_weights` in google-research/bert; None if the names differ.
    """

    name: str
    reads: str
    gives: str
    width: int | str
    drops: bool = False
    tied: bool = False
    hf_name: str | None = None
    tf1_scope: str | None = None


class Output(NamedTuple):
    """An output of an exported program: its name there, our name, and an optional feature index."""

    name: str
    of: str
    index: int | None = None  # type: ignore[assignment]  # a tuple's method is not used


@dataclasses.dataclass(frozen=True)
class Head:
    """One value of `config.model.head`.

    Attributes:
      parts: the parts in the order of computation.
      outputs: the outputs of exported programs, with Hugging Face's names.
      hf_class: the class in `transformers`, without the architecture prefix.
      task: the Hub's tag (`pipeline_tag`).
      about: the text that --help adds to the head's name.
      architectures: the architectures that have the class.
      losses: the fields of `config.objective` that the head allows.
      has_choices: an example is several rows, one per choice, and its logits are one row.
      by_name: another head has the same tensors, so only the class named in config.json decides.
    """

    parts: tuple[Part, ...]
    outputs: tuple[Output, ...]
    hf_class: str
    task: str
    about: str = ""
    architectures: tuple[str, ...] = ARCHITECTURES
    losses: tuple[str, ...] = ()
    has_choices: bool = False
    by_name: bool = False

    @property
    def has_labels(self) -> bool:
        """Whether the head has `config.model.num_labels` logits, which can have names."""
        return any(part.width == "num_labels" for part in self.parts)

    def place(self, part: Part) -> str:
        """The positions for which a part computes vectors: `hidden`, `masked` or `first`."""
        earlier = {each.gives: each for each in self.parts}
        return self.place(earlier[part.reads]) if part.reads in earlier else part.reads


POOLER = Part("pooler", "first", "pooled", "hidden_size")
NEXT_SENTENCE = Part(
    "next_sentence",
    "pooled",
    "next_sentence_logits",
    2,
    hf_name="cls.seq_relationship",
    tf1_scope="cls/seq_relationship/",
)
MASKED_LM = Part("masked_lm", "masked", "masked_lm_logits", "vocab_size", tied=True)
CLASSIFIER = Part(
    "classifier",
    "pooled",
    "classification_logits",
    "num_labels",
    drops=True,
    hf_name="classifier",
    tf1_scope="",
)
SPAN = Part("span", "hidden", "span_logits", 2, hf_name="qa_outputs", tf1_scope="cls/squad/")
TOKENS = Part(
    "token",
    "hidden",
    "token_logits",
    "num_labels",
    drops=True,
    hf_name="classifier",
    tf1_scope="token/",  # our own name: google-research/bert has no such head
)

_HIDDEN = Output("last_hidden_state", "hidden")
HEADS = {
    "pretraining": Head(
        (POOLER, NEXT_SENTENCE, MASKED_LM),
        (
            Output("prediction_logits", "masked_lm_logits"),
            Output("seq_relationship_logits", "next_sentence_logits"),
        ),
        "ForPreTraining",
        "fill-mask",
        about="masked_lm and, over a pooler, next-sentence",
        architectures=("bert",),
        losses=("mlm", "nsp"),
    ),
    "masked_lm": Head(
        (MASKED_LM,),
        (Output("logits", "masked_lm_logits"),),
        "ForMaskedLM",
        "fill-mask",
        losses=("mlm",),
    ),
    "span": Head(
        (SPAN,),
        (Output("start_logits", "span_logits", 0), Output("end_logits", "span_logits", 1)),
        "ForQuestionAnswering",
        "question-answering",
        about="question answering",
    ),
    "classification": Head(
        (POOLER, CLASSIFIER),
        (Output("logits", "classification_logits"),),
        "ForSequenceClassification",
        "text-classification",
    ),
    "token": Head(
        (TOKENS,),
        (Output("logits", "token_logits"),),
        "ForTokenClassification",
        "token-classification",
        about="a label for every token",
    ),
    "multiple_choice": Head(
        (POOLER, dataclasses.replace(CLASSIFIER, width=1)),
        (Output("logits", "classification_logits"),),
        "ForMultipleChoice",
        "multiple-choice",
        has_choices=True,
        by_name=True,
    ),
    "pooler": Head(
        (POOLER,),
        (_HIDDEN, Output("pooler_output", "pooled")),
        "Model",
        "feature-extraction",
        architectures=("bert", "roberta"),
    ),
    "none": Head((), (_HIDDEN,), "Model", "feature-extraction"),
}


def all_parts() -> list[Part]:
    """All parts of all heads, one for each name."""
    return list({part.name: part for head in HEADS.values() for part in head.parts}.values())


def telling() -> list[tuple[str, Head]]:
    """(name, head) pairs to match in order. Bare encoders come last, as all heads contain them."""
    return sorted(HEADS.items(), key=lambda item: item[1].hf_class == "Model")


def with_loss(name: str) -> list[str]:
    """The names of the heads that allow a loss, which is a field of `config.objective`."""
    return [head for head, record in HEADS.items() if name in record.losses]


def listed() -> str:
    """Every head with its text for --help."""
    about = {name: f" ({head.about})" if head.about else "" for name, head in HEADS.items()}
    return ", ".join(f"{name}{text}" for name, text in about.items())
