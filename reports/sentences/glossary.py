"""What the words of the page mean."""

from __future__ import annotations

from collections.abc import Mapping

from autotune.core.metric import Metric
from autotune.core.statistics import CONFIDENCE, INTERVAL
from reports.formats import plain

GLOSSARY = {
    "accuracy": "The share of tokens for which the model's first guess of the next token is right.",
    "batch": "Pieces of text that are read together. An update of the weights follows one batch or several.",
    "bits per byte": "The loss for each byte of text. It allows comparing models that cut text into different tokens.",
    "default (baseline)": "The settings as they were before the study: what everything is compared with.",
    "diverged": "A training that ran away instead of improving, most often because its steps were too big.",
    "dropout": "Switching off a random share of signals in training, so that the model does not learn text by heart.",
    "epoch": "One pass over the training text. More than one means that text was read repeatedly.",
    "experts": "Specialist parts of the model. For each token a router picks a few of them.",
    "finals": "The best settings and the default, trained again on fresh seeds, for a fair comparison.",
    "fresh seed": "A seed that no trial has used, so that a result on it owes nothing to having been chosen.",
    "full run": "The long training after the study, with the settings that were found. It makes the model to keep.",
    "gain": "How much better the best settings are than the default, on fresh seeds.",
    INTERVAL: f"A range made so that it contains the true value in {100 * CONFIDENCE:.0f} of 100 such studies.",
    "learning rate": "How big a step the training takes at each update.",
    "loss": "How surprised the model is by text that it has not seen, in nats per token. Lower is better.",
    "nat": "The unit of the loss, as the metre is a unit of length. A nat is 1.44 bits.",
    "noise (sigma)": "How much a result changes when nothing but the random seed changes.",
    "out of memory": "The settings needed more memory than the GPU has.",
    "perplexity": "The loss in another form: how many next tokens the model is effectively choosing between.",
    "promoted": "Written to best_config.toml and used for the full run.",
    "pruned": "Stopped early, since it was behind the other trials at the same point.",
    "rank correlation (Spearman)": "How far two lists are in the same order: 1 is the same, 0 unrelated, −1 reversed.",
    "seed": "The number that fixes what is random in a training: the first weights, the order of the data.",
    "throttling": "The GPU slowing itself down, because of heat or too little power.",
    "tie": "A change for which no difference could be measured: that setting stays at its default.",
    "token": "A piece of text, a short word or part of one. Models read and write tokens.",
    "trial": "One training with one choice of settings.",
    "update": "One step of the training: all weights are changed a little, so that the loss falls.",
    "warm-up": "The first part of a training, in which the learning rate grows from zero.",
    "weights": "The numbers inside a model. Training changes them; saved, they are the trained model.",
    "winner": "The trial that did best in the finals. Its gain is what the verdict is about.",
}
_OF_TEXT = (
    "accuracy", "batch", "bits per byte", "dropout", "epoch", "experts", "loss", "nat", "perplexity", "token", "update",
    "warm-up",
)  # fmt: skip
"""Words that only a language model's page has."""


def glossary(metric: Metric) -> Mapping[str, str]:
    """Return the words of a study's page and what they mean.

    Args:
        metric: What its trainer reports.
    """
    if metric.of_text:
        return GLOSSARY

    better = "Higher" if metric.maximize else "Lower"
    own = {plain(metric.name): f"What trials are judged by, measured on held-out data. {better} is better."}
    return {word: meaning for word, meaning in GLOSSARY.items() if word not in _OF_TEXT} | own
