"""What to do after a command: the commands that fit, as somebody would type them."""

import shlex


def after_prepare(arguments: list[str]) -> list[str]:
    """Of the arguments of `prepare`, all are also `pretrain`'s but the ones of Beam."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [a for a in arguments[:end] if not a.lstrip("-").startswith("runner")]
    return [shlex.join(["bertjax", "pretrain", *kept])]


def after_pretrain(workdir: str, mask_token: str) -> list[str]:
    return [
        shlex.join(["bertjax", "evaluate", f"--workdir={workdir}"]),
        _fill_mask(workdir, mask_token),
        shlex.join(["bertjax", "convert", workdir, "hf:DIR"]),
    ]


def after_convert(destination: str, pretrained) -> list[str]:
    """The commands that read `destination` and fit its head; none for a form that is only written.

    Args:
      pretrained: the `Pretrained` that was written there.
    """
    tokenizer, lines = pretrained.tokenizer, []
    if destination.startswith(("onnx:", "onnx-int8:", "stablehlo:")):
        return lines
    if tokenizer is not None and pretrained.config.model.has_masked_lm:
        lines.append(_fill_mask(destination, tokenizer.tokens([tokenizer.mask_id])[0]))
    if tokenizer is not None:
        lines.append(shlex.join(["bertjax", "embed", destination, "a sentence"]))
    return lines


def _fill_mask(source: str, mask_token: str) -> str:
    text = f"The capital of France is {mask_token}."
    return shlex.join(["bertjax", "fill-mask", source]) + f' "{text}"'
