"""Pseudo-log-likelihoods against a reference that masks one token at a time."""

import dataclasses
import io
import json
import math

import finetuned
import jax
import numpy as np
import pytest
from finetune_examples import TOKENIZER

from bertjax import __main__ as program
from bertjax import inference, models
from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.data import train_tokenizer
from bertjax.errors import DATA, DONE, USAGE, UsageError

PROSE = [
    "the old clock on the wall of this small house was slow",
    "and nobody ever wound it up again",
    "a wall",
]
KINDS = ("wordpiece", "byte_bpe", "sentencepiece")


def tokenizer_of(kind):
    if kind == "wordpiece":
        return TOKENIZER
    size = {"byte_bpe": 300, "sentencepiece": 60}[kind]
    return train_tokenizer.train(TokenizerConfig(kind=kind, vocab_size=size), iter(PROSE * 20))


def reference(model, text):
    """log p of each token, one row a token, without padding, through `models.apply`."""
    tokenizer = model.tokenizer
    [ids] = tokenizer.encode([text])
    found = []
    for at, label in enumerate(ids):
        row = np.array([[tokenizer.cls_id, *ids, tokenizer.sep_id]])
        row[0, 1 + at] = tokenizer.mask_id
        batch = {
            "input_ids": row,
            "token_type_ids": row * 0,
            "attention_mask": row * 0 + 1,
            "masked_lm_positions": np.array([[1 + at]]),
        }
        logits = models.apply(model.config.model, model.params, batch)["masked_lm_logits"][0, 0]
        found.append(float(jax.nn.log_softmax(logits)[label]))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_one_mask_at_a_time(kind):
    model = finetuned.pretrained("masked_lm", tokenizer=tokenizer_of(kind))
    texts = [PROSE[2], "", *(PROSE[:1] if kind != "wordpiece" else ["a b c d"])]
    found = list(inference.score(model, texts, batch_size=4))
    assert [each.text for each in found] == texts
    for each in found:
        want = reference(model, each.text)
        assert each.tokens == len(want)
        np.testing.assert_allclose([share for _, share in each.per_token], want, atol=2e-4)
        assert each.pll == pytest.approx(sum(want), abs=1e-3)
    assert found[1] == inference.Score("", 0.0, 0, [])


def test_the_uniform_model_has_the_perplexity_of_its_vocabulary():
    """Weights of zero: every token has 1 / V, the padding of the vocabulary nothing."""
    model = finetuned.pretrained("masked_lm")
    model = dataclasses.replace(model, params=jax.tree.map(lambda x: x * 0, model.params))
    [found] = inference.score(model, ["a b c"])
    assert math.exp(-found.pll / found.tokens) == pytest.approx(TOKENIZER.vocab_size, rel=1e-5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return finetuned.write(finetuned.pretrained("masked_lm"), tmp_path_factory.mktemp("m") / "w")


def run(capsys, *arguments):
    code = program.run(["bertjax", "score", *arguments])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def test_the_command_writes_a_line_for_each_text(place, capsys, monkeypatch):
    model = finetuned.pretrained("masked_lm")
    code, lines, err = run(capsys, place, "a b", "c", "--per_token")
    assert code == DONE
    want = [reference(model, text) for text in ("a b", "c")]
    np.testing.assert_allclose([line["pll"] for line in lines], [sum(w) for w in want], atol=1e-3)
    assert [token for token, _ in lines[0]["per_token"]] == ["a", "b"]
    mean = -sum(map(sum, want)) / 3
    assert "2 texts, 3 tokens: " in err
    assert float(err.split("tokens: ")[1].split()[0]) == pytest.approx(mean, abs=1e-3)
    assert float(err.split()[-1]) == pytest.approx(math.exp(mean), rel=1e-3)
    monkeypatch.setattr("sys.stdin", io.StringIO("a b\nc\n"))
    _, piped, _ = run(capsys, place)
    assert [line["pll"] for line in piped] == [line["pll"] for line in lines]
    assert "per_token" not in piped[0]


def test_what_is_no_pair_is_refused():
    model = finetuned.pretrained("masked_lm")
    for pairs in ([("a", "b", "c"), ("d",)], ["ab"]):
        with pytest.raises(UsageError, match=r"pairs\[0\]=.*: is no pair of texts"):
            list(inference.rank_pairs(model, pairs))


def test_pairs_are_ranked(place, capsys, monkeypatch):
    plls = [each.pll for each in inference.score(finetuned.pretrained("masked_lm"), ["a", "b c"])]
    better, worse = ("a", "b c") if plls[0] > plls[1] else ("b c", "a")
    text = f"{better}\t{worse}\n{worse}\t{better}\na\ta\n{better}\t{worse}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    code, lines, err = run(capsys, place, "--pairs")
    assert code == DONE
    assert [line["likelier"] for line in lines] == [0, 1, None, 0]
    assert lines[0]["plls"] == pytest.approx(sorted(plls, reverse=True), abs=1e-4)
    assert err.endswith("4 pairs: the first is likelier in 2 (50.0%)\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a", "b " * 70], USAGE, "texts[1] has 72 tokens; the model reads 64"),
        (["a", "--pairs"], DATA, "line 1: 1 texts, expected 2, a tab between"),
    ],
)
def test_refused_in_one_line(arguments, code, said, place, capsys):
    found, _, err = run(capsys, place, *arguments)
    assert found == code
    assert said in err.splitlines()[-1]
