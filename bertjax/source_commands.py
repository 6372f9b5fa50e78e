"""The commands that read weights of any source: `fill-mask`, `cloze`, `embed`, `score` ..."""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

# What takes a tenth of a second to import is imported in the commands, where a Ctrl-C is caught.
from bertjax import commands
from bertjax.commands import Flag, Values
from bertjax.errors import DataError, UsageError

if TYPE_CHECKING:
    from bertjax.convert.pretrained import Hints, Pretrained
    from bertjax.inference import Pair

SOURCE = (  # what a source of weights does not say itself
    Flag("hidden_act", choices=("gelu", "gelu_new")),
    Flag("do_lower_case", kind=bool),
    Flag("tokenizer"),
    Flag("allow_pickle", False, bool),
)
TOP_K = Flag("top_k", 5, int, least=1)
QUESTIONS = Flag("questions", 20, int, least=1)
SCORE = Flag("per_token", False, bool), Flag("pairs", False, bool)


def fill_mask(values: Values, args: list[str]) -> None:
    """fill-mask SRC TEXT [--top_k=5]

    Candidates with probabilities for each [MASK] of TEXT. SRC is a run's workdir, or any source
    of convert.
    """
    from bertjax import inference

    source, text = args
    model = _read(source, values)
    for number, candidates in enumerate(inference.fill_mask(model, text, values.top_k), start=1):
        for token, probability in candidates:
            print(f"{number}  {probability:7.4f}  {token}")


def cloze(values: Values, args: list[str]) -> None:
    """cloze W [--questions=20] [--top_k=5]

    Held-out sentences of the run in W, a word missing in each: the rank of that word among the
    run's candidates (- if it is none of the first top_k), the word, the candidates, the sentence. A
    rule that reads the text alone chooses the sentences and words, the same before training and
    after.
    """
    from bertjax import inference, storage
    from bertjax.convert import read
    from bertjax.data import cloze, stores

    [directory] = args
    model = read(directory)
    if model.config.data.holds_examples:
        raise UsageError(f"W={directory}: was trained on examples, and holds no sentences")
    heldout = stores.open_split(model.config, storage.path(directory), "heldout")[0]
    assert model.tokenizer is not None  # a run has one
    questions = cloze.questions(heldout, model.tokenizer, values.questions)
    found = inference.fill_questions(model, questions, values.top_k)
    ranks = []
    for question, candidates in zip(questions, found, strict=True):
        tokens = [token for token, _ in candidates]
        [word] = model.tokenizer.tokens([question.answer])
        ranks.append(tokens.index(word) + 1 if word in tokens else None)
        sentence = model.tokenizer.decode(question.masked(model.tokenizer.mask_id))
        print(f"{ranks[-1] or '-':>2}  {word:14}  {' '.join(tokens):50}  {sentence}")
    hits = sum(rank is not None for rank in ranks)
    print(
        f"the missing word is among the first {values.top_k} for {hits} of {len(ranks)} sentences, "
        f"the first for {ranks.count(1)}"
    )


def embed(values: Values, args: list[str]) -> None:
    """embed SRC TEXT [TEXT ...] [--pooling=MODE]

    The vector of each TEXT as a JSON array, one a line; without a TEXT, of each line of stdin.
    SRC is a run's workdir, or any source of convert. A sentence encoder gives its own vectors, any
    other model the mean of its tokens'. --pooling takes the encoder's alone: mean, cls, max,
    pooler, mean_sqrt_len_tokens, weightedmean, lasttoken, or several joined by +.
    """
    from bertjax import inference
    from bertjax.convert import sentence_encoder

    if not args:
        raise UsageError("expected SRC [TEXT ...]; see --help")
    texts = args[1:] or _stdin()
    model = _read(args[0], values)
    own = model.config.embedding
    if values.pooling is not None and (own.pooling is not None or own.left_out):
        described = sentence_encoder.describe(own)
        asked = f"--pooling={values.pooling}, and nothing else, as asked"
        print_notes([f"{asked}; the model's own vectors: {described}"])
    for vector in inference.embed(model, texts, pooling=values.pooling):
        print(json.dumps([float(str(x)) for x in vector]))  # the shortest form of a float32


def score(values: Values, args: list[str]) -> None:
    """score SRC [TEXT ...] [--per_token] [--pairs]

    How likely a masked LM finds each TEXT, or each line of stdin: a line of JSON with its
    pseudo-log-likelihood in nats (every token masked in turn; Salazar et al. 2020) and its number of
    tokens; with --per_token, the share of each. stderr has the mean and the pseudo-perplexity of all.
    --pairs: two texts a line, a tab between; which one is likelier, and how often the first is. SRC
    is a run's workdir, or any source of convert.
    """
    from bertjax import inference

    if not args:
        raise UsageError("expected SRC [TEXT ...]; see --help")
    lines = args[1:] or _stdin()
    model = _read(args[0], values)
    if values.pairs:
        _print_pairs(inference.rank_pairs(model, _pairs(lines)))
        return
    count, pll, tokens = 0, 0.0, 0
    for each in inference.score(model, lines):
        record = {"text": each.text, "pll": round(each.pll, 6), "tokens": each.tokens}
        if values.per_token:
            record["per_token"] = [[piece, round(share, 6)] for piece, share in each.per_token]
        print(json.dumps(record, ensure_ascii=False))
        count, pll, tokens = count + 1, pll + each.pll, tokens + each.tokens
    mean = -pll / max(tokens, 1)
    perplexity = f"{math.exp(min(mean, 700.0)):.2f}"
    rate = f"{mean:.4f} nats a token, pseudo-perplexity {perplexity}"
    print(f"{count:,} texts, {tokens:,} tokens: {rate}", file=sys.stderr)


def _stdin() -> Iterator[str]:
    return (line.rstrip("\n") for line in sys.stdin)


def _pairs(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        first, *others = line.split("\t")
        if len(others) != 1:
            raise DataError(f"line {number}: {len(others) + 1} texts, expected 2, a tab between")
        yield first, others[0]


def _print_pairs(pairs: Iterable["Pair"]) -> None:
    count = wins = 0
    for pair in pairs:
        record = {
            "texts": [each.text for each in (pair.first, pair.second)],
            "plls": [round(each.pll, 6) for each in (pair.first, pair.second)],
            "likelier": pair.likelier,
        }
        print(json.dumps(record, ensure_ascii=False))
        count, wins = count + 1, wins + (pair.likelier == 0)
    share = wins / max(count, 1)
    print(f"{count:,} pairs: the first is likelier in {wins:,} ({share:.1%})", file=sys.stderr)


def predict(values: Values, args: list[str]) -> None:
    """predict SRC --input=FILE [--output=FILE]

    A line of JSON for each row of FILE ("-": stdin), in its order: labels with probabilities,
    scores, answers, or tags. SRC is a fine-tuned run's workdir (of a grid, its best run counts), or
    any source of convert with such a head. FILE: .txt (a text a line, a tab between two), .jsonl,
    .csv, .tsv or .parquet (the columns of config.task, of the task's own files, or sentence1,
    sentence2, question, context ...), SQuAD's .json, or CoNLL columns. A damaged row is named on
    stderr, and has its error in the output. Where rows have labels, stderr has the figures.
    """
    from bertjax.finetune import predict

    if not values.input:
        raise UsageError("--input: missing; name a file, or - for standard input")
    model, notes = predict.open(args[0], hints(values))
    print_notes(notes)
    predict.run(model, values.input, values.output)


def convert(values: Values, args: list[str]) -> list[str]:
    """convert SRC DST [--hidden_act=...] [--do_lower_case=...] [--tokenizer=...] [--allow_pickle]

    Weights from one form into another. SRC and DST are a run's workdir (orbax:DIR), hf:DIR,
    hub:OWNER/NAME, tf1:PREFIX; SRC may also be fairseq:FILE, DST stablehlo:FILE, onnx:FILE,
    onnx-float16:FILE or onnx-int8-weights:FILE (a half or a quarter of the size, computes in
    float32), or onnx-int8:FILE (computes in int8). DST must not exist. What a source does not say:
    --hidden_act=gelu (erf form) or gelu_new (tanh form), --do_lower_case=true or false,
    --tokenizer=a file or folder; --allow_pickle opens PyTorch files, with its weights-only loader.
    """
    from bertjax.convert import transfer

    source, destination = args
    written = transfer(source, destination, hints(values))
    print_notes(written.notes)
    print(f"{source} -> {destination}")
    return commands.after_convert(destination, written)


def hints(values: Values) -> "Hints":
    """What the flags say that a source may not."""
    from bertjax.convert.pretrained import Hints

    return Hints(values.hidden_act, values.do_lower_case, values.tokenizer, values.allow_pickle)


def _read(source: str, values: Values) -> "Pretrained":
    """The model at any URI; what its reader decided goes to stderr."""
    from bertjax.convert import read

    pretrained = read(source, hints(values))
    print_notes(pretrained.notes)
    return pretrained


def print_notes(notes: Iterable[str]) -> None:
    """Says on stderr what a reader or a writer decided."""
    for note in notes:
        print(note, file=sys.stderr)
