"""Model FLOPs of a step, and the speed of a run against the peak of its devices."""

import math
import time

import jax

from bertjax import config as config_lib
from bertjax.config import heads, parameters
from bertjax.metrics import chips


def model_flops_per_step(
    model: config_lib.Model, batch_size: int, sequence_length: int, max_predictions: int
) -> int:
    """FLOPs that one training step needs by the model's definition, a multiply-add being 2.

    With D hidden, F intermediate, N layers, V vocabulary, L length, P predictions, one sequence
    takes forward

        N * (8 L D^2 + 4 L^2 D + 4 L D F)      query, key, value, output; scores, mixing; MLP
        + 2 P D^2 + 2 P D V                    masked-LM transform and decoder, on P positions
        + 2 D^2                                pooler
        + 2 D C                                C logits of a sentence or pair (next-sentence: 2)
        + 2 L D C                              C logits of every token (span: 2)

    of which `model.head` has its own parts, and the backward pass twice that. Matrix products only:
    lookups, LayerNorm, softmax, GELU and dropout are not counted, nor the padding of the
    vocabulary, nor what remat computes again (model FLOPs, not hardware FLOPs: Chowdhery et al.
    2022, PaLM, appendix B).
    """
    width, length = model.hidden_size, sequence_length
    block = length * (8 * width**2 + 4 * length * width + 4 * width * model.intermediate_size)
    places = {"hidden": length, "masked": max_predictions, "first": 1}
    parts = model.head_record.parts
    head = sum(places[model.head_record.place(part)] * part_flops(model, part) for part in parts)
    return 3 * batch_size * (model.num_hidden_layers * block + head)


def part_flops(model: config_lib.Model, part: heads.Part) -> int:
    """FLOPs of one part of a head for one vector, forward."""
    shapes = parameters.part_shapes(model, part).items()
    kernels = sum(math.prod(shape) for path, shape in shapes if path.endswith("/kernel"))
    decoder = model.hidden_size * model.vocab_size if part.tied else 0
    return 2 * (kernels + decoder)


def peak_flops(device: jax.Device) -> float | None:
    """Dense bfloat16 peak of a device in FLOP/s; None where it is not known."""
    chip = chips.chip(device)
    return chip.peak_flops if chip else None


class Speed:
    """Wall-clock rates of the steps between two calls of `rates`.

    Args:
      step: the step the clock starts at.
      flops_per_token: of the largest batch, B * L tokens.
      peak: FLOP/s of all devices together; None or 0 reports no utilization.
    """

    def __init__(self, step: int, flops_per_token: float, peak: float | None) -> None:
        self._flops, self._peak = flops_per_token, peak
        self.restart(step)

    def restart(self, step: int) -> None:
        """Leaves out the time since the last call: an evaluation, a compilation."""
        self._step, self._time, self._tokens = step, time.perf_counter(), 0

    def add(self, tokens: int) -> None:
        """Counts the tokens of a step that has run, padding included."""
        self._tokens += tokens

    def rates(self, step: int) -> dict[str, float]:
        """`seconds_per_step`, `tokens_per_second` and, where the peak is known, `mfu` in [0, 1]."""
        seconds = time.perf_counter() - self._time
        per_second, steps = self._tokens / seconds, max(step - self._step, 1)
        self.restart(step)
        rates = {"seconds_per_step": seconds / steps, "tokens_per_second": per_second}
        if self._peak:
            rates["mfu"] = self._flops * per_second / self._peak
        return rates
