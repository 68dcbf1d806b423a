"""What a finished run leaves in its output folder: the exported model with its card, and a sample of its text."""

import math
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from model.config import TrainConfig
from model.data.corpus import Corpus
from model.inference import card
from model.inference.export import export
from model.inference.generate import sample_text
from model.training.learner import Learner


def write_outputs(
    config: TrainConfig,
    learner: Learner,
    corpus: Corpus,
    end_tokens: int,
    facts: Mapping[str, object],
    point: Mapping[str, float],
) -> dict[str, object]:
    """Write the export folder with its card, and a sample where the run has a tokenizer.

    Args:
        config: The configuration as the caller gave it; nothing is written where `output.dir` is empty.
        learner: The trained model.
        corpus: What it was trained on.
        end_tokens: Training tokens.
        facts: What the trainer returns of the run.
        point: Its last evaluation.

    Returns:
        The paths of what was written: "weights_path", "export_path" and, if there is a sample, "sample_path".

    Raises:
        FloatingPointError: The training has diverged; nothing is written.
    """
    output = config.output
    if not output.dir:
        return {}
    if not math.isfinite(point["val_loss"]):
        raise FloatingPointError(
            f"the training has diverged (its last loss is {point['val_loss']}), and nothing is exported; "
            "lower learning rates help"
        )

    folder = export(
        Path(output.dir) / "export",
        learner.weights.weights,
        config.model,
        corpus.vocab_size,
        corpus.eos_id,
        corpus.tokenizer_path,
    )
    card.write(folder, config, end_tokens, facts, point)
    paths: dict[str, object] = {"weights_path": str(folder / "model.safetensors"), "export_path": str(folder)}

    if corpus.tokenizer_path is not None and corpus.eos_id is not None and output.sample_tokens:
        tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
        text = sample_text(learner.model, tokenizer, output.prompt, output.sample_tokens, corpus.eos_id, config.seed)
        sample = Path(output.dir) / "sample.txt"
        sample.write_text(text + "\n", encoding="utf-8")
        paths["sample_path"] = str(sample)

    return paths
