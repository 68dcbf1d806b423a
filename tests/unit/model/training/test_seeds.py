"""The seeds of a run's random streams."""

from model.training.seeds import stream_seed


def test_seeds_of_the_streams_differ():
    seeds = {stream_seed(seed, stream) for seed in range(3) for stream in ("init", "order", "dropout")}
    assert len(seeds) == 9
