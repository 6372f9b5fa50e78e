"""The checks on config.masking: which of its fields go together."""

from bertjax.config.data_fields import Masking
from bertjax.config.rules import require


def check(m: Masking, heldout_share: float) -> None:
    """Raises UsageError, naming the field, the value and the fix, where fields do not go together.

    Args:
      m: the fields of config.masking.
      heldout_share: config.evaluation.masked_lm_prob.
    """
    require(
        heldout_share <= m.masked_lm_prob,
        "evaluation.masked_lm_prob",
        heldout_share,
        "rows have room for the predictions of training alone; set it to at most "
        f"masking.masked_lm_prob={m.masked_lm_prob}",
    )
    both = m.mask_token_prob + m.random_token_prob
    require(
        both <= 1,
        "masking.random_token_prob",
        m.random_token_prob,
        "mask_token_prob + random_token_prob must not exceed 1",
    )
    require(
        m.unit == "token" or not m.smoothing,
        "masking.smoothing",
        m.smoothing,
        f"chooses single tokens; set masking.unit=token (here: {m.unit}), or this to 0",
    )
    require(
        not m.choose_special or not m.smoothing,
        "masking.smoothing",
        m.smoothing,
        "the text that is counted has no [CLS] and [SEP], so they would be the rarest tokens; set "
        "masking.choose_special=False, or this to 0",
    )
    if m.budget == "batch":
        _check_batch_budget(m)


def _check_batch_budget(m: Masking) -> None:
    for field, value, needed, why in (
        ("unit", m.unit, "token", "draws single tokens"),
        ("rounding", m.rounding, "nearest", "rounds one number, of the whole batch, up"),
        ("static_patterns", m.static_patterns, 0, "masks a row by the batch that it comes in"),
    ):
        require(
            value == needed,
            "masking.budget",
            m.budget,
            f"{why}; set masking.{field}={needed} (here: {value}), or this to example",
        )
