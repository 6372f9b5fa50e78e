"""The model card of an exported folder: the model, its training and its held-out figures."""

import json

from bertjax import config as config_lib
from bertjax.config.parameters import num_parameters
from bertjax.convert import use
from bertjax.convert.pretrained import Pretrained


def text(pretrained: Pretrained, class_name: str) -> str:
    """README.md of a Hugging Face folder, in Markdown with the Hub's front matter."""
    config, model = pretrained.config, pretrained.config.model
    count = num_parameters(model)
    lowercase = config.tokenizer.lowercase
    casing = {True: "lower-cased, accents stripped", False: "cased", None: "casing unknown"}[
        lowercase
    ]
    if config.tokenizer.kind == "byte_bpe":
        casing = "byte-level BPE"
    sentences = config.embedding.pooling is not None and not config.embedding.left_out
    updates = f" after {pretrained.step:,} updates" if pretrained.step else ""
    gelu = "erf" if model.hidden_act == "gelu" else "tanh"
    lines = [
        "---",
        f"library_name: {'sentence-transformers' if sentences else 'transformers'}",
        f"pipeline_tag: {'sentence-similarity' if sentences else model.head_record.task}",
        f"tags: [bertjax, jax{', sentence-transformers' if sentences else ''}]",
        "---",
        "",
        f"# {class_name}, exported by bertjax",
        "",
        f"{count:,} parameters: {model.num_hidden_layers} layers, hidden size {model.hidden_size}, "
        f"{model.num_attention_heads} heads, up to {model.max_sequence_length} tokens, "
        f"{model.vocab_size:,} token ids ({casing}), {gelu} form of gelu, float32 weights{updates}.",
        "",
        *_trained_on(pretrained),
        "## Held-out figures",
        "",
        *_figures(pretrained.figures),
        "",
        "## Config",
        "",
        "```json",
        json.dumps(config_lib.to_dict(config), indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)


def _trained_on(pretrained: Pretrained) -> list[str]:
    """What a fine-tuned model was trained on, and what its outputs are."""
    config, model = pretrained.config, pretrained.config.model
    if not config.is_finetuning:
        return []
    [phase, *_] = config.phases.values()
    source = config.init_from or "random weights"
    task = config.task.name or config.task.kind
    which = "best" if config.finetune.select == "best" else "last"
    lines = [
        "## Task",
        "",
        f"Fine-tuned on {task} from {source}: batch {phase.batch_size}, rate "
        f"{config.optimizer.learning_rate:g}, {config.finetune.epochs:g} epochs, seed {config.seed}, "
        f"up to {phase.sequence_length} tokens. The weights are from the {which} evaluation.",
        "",
    ]
    if pretrained.figures:
        lines += [f"Its metric is {next(iter(pretrained.figures))}, on dev.", ""]
    if model.label_names:
        lines += [f"Labels, in the order of the logits: {', '.join(model.label_names)}.", ""]
    return lines + [line for note in use.of_task(pretrained) for line in (note, "")]


def _figures(figures: dict[str, float]) -> list[str]:
    if not figures:
        return ["None were recorded."]
    rows = [f"| {name} | {value:.4f} |" for name, value in figures.items()]
    return ["| figure | value |", "|---|---|", *rows]
