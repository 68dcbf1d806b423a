"""The seeds of a run's independent random streams."""

import numpy as np


def stream_seed(seed: int, stream: str) -> int:
    """Return the seed of one of a run's independent random streams.

    Args:
        seed: The run's seed.
        stream: "init", "order" or "dropout".
    """
    number = ("init", "order", "dropout").index(stream)
    (state,) = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
    return int(state >> np.uint64(1))
