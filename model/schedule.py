"""The learning-rate schedule: a pure function of tokens, so that accumulation cannot bend it."""

import math


def lr_factor(
    tokens_seen: float,
    budget_tokens: float,
    schedule: str,
    warmup_frac: float,
    decay_frac: float,
    final_lr_frac: float,
) -> float:
    """Return the factor on the peak learning rate after `tokens_seen` of `budget_tokens`.

    Warm-up is linear from 0. Then "linear" and "cosine" fall to the floor over the rest of the budget, and
    "wsd" (warm-up, stable, decay) stays at the peak and falls linearly over its last `decay_frac`.
    The trainer asks at the end of each optimizer step's tokens: the first factor is above 0, the last is the
    floor.

    Args:
        tokens_seen: Tokens, from 0; what lies beyond the budget counts as the budget.
        budget_tokens: Tokens of the whole run, above 0.
        schedule: "wsd", "cosine" or "linear".
        warmup_frac: Share of the budget, 0 to 1.
        decay_frac: Share of the budget, 0 to 1; "wsd" only.
        final_lr_frac: The floor as a share of the peak, 0 to 1.

    Returns:
        A factor between 0 and 1.

    Raises:
        ValueError: The schedule has another name.

    Source:
        WSD: Hu et al. 2024, MiniCPM, arXiv 2404.06395, section 4; linear decay to zero: Defazio et al. 2023,
        arXiv 2310.07831; cosine: Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5.
    """
    progress = min(max(tokens_seen / budget_tokens, 0.0), 1.0)
    if progress < warmup_frac:
        return progress / warmup_frac
    if schedule == "wsd":
        remaining = 1.0 if decay_frac == 0 else min(1.0, (1.0 - progress) / decay_frac)
    elif schedule in ("linear", "cosine"):
        remaining = 0.0 if warmup_frac >= 1 else (1.0 - progress) / (1.0 - warmup_frac)
        if schedule == "cosine":
            remaining = 0.5 - 0.5 * math.cos(math.pi * remaining)
    else:
        raise ValueError(f'schedule "{schedule}" is unknown; use "wsd", "cosine" or "linear"')
    return final_lr_frac + (1.0 - final_lr_frac) * remaining
