"""A training of seconds on real text, for tests of `train` from end to end."""

from pathlib import Path

from model.config import TrainConfig
from model.train import train

TIMES = {"tokens_per_s", "eval_s", "elapsed_s", "peak_memory_bytes"}


def small_config(speeches: Path, **sections: dict) -> TrainConfig:
    fields = {
        "model": {
            "num_layers": 2,
            "d_model": 32,
            "num_heads": 4,
            "num_kv_heads": 2,
            "d_ff": 48,
            "num_experts": 4,
            "seq_len": 32,
        },
        "data": {
            "source": "text",
            "path": str(speeches),
            "vocab_size": 320,
            "cache_dir": str(speeches / ".cache"),
            "eval_tokens": 2048,
            "num_evals": 4,
        },
        "system": {"device": "cpu", "micro_batch_size": 4},
    }
    for name, changes in sections.items():
        fields[name] = {**fields.get(name, {}), **changes} if isinstance(changes, dict) else changes
    return TrainConfig.model_validate(fields)


def run(config, budget_tokens, stop_after=None):
    points = []

    def report(point):
        points.append(dict(point))
        return len(points) != stop_after

    return points, train(config, budget_tokens, report)


def without_times(points):
    return [{name: value for name, value in point.items() if name not in TIMES} for point in points]
