"""The names under which values are stored with an Optuna study or trial."""

from __future__ import annotations

RANGES = "ranges"
"""Attribute of an Optuna study: the ranges that were widened meanwhile, [low, high] by dotted path."""
PRIOR = "prior"
"""Role of an Optuna trial that an earlier study trained: it teaches the sampler and is none of the study's own."""
AUDITED_AT = "audited_at"
"""User attribute of a trial that runs on as an audit: the tokens at which the pruner would have stopped it."""
STOPPED_AT = "stopped_at"
"""User attribute of a trial that the pruner did stop, unlike one that diverged: the tokens at which it did."""
BUDGET_TOKENS = "budget_tokens"
"""User attribute of a trial that has a token budget of its own."""
CURVE = "curve"
"""User attribute of a trial in a study of several values, for which Optuna keeps no curve: losses by tokens."""
