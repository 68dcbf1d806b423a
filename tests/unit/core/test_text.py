"""Words for people."""

from autotune.core.text import of_seeds


def test_a_loss_is_of_one_seed_or_the_mean_of_several() -> None:
    assert (of_seeds(1), of_seeds(3)) == ("one seed", "mean of 3 seeds")
