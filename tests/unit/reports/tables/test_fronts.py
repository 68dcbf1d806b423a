import pandas as pd

from reports.tables.fronts import speed_front


def test_pareto_keeps_what_nothing_beats_in_both() -> None:
    trials = pd.DataFrame(
        {"number": [1, 2, 3, 4, 5], "tokens_per_s": [10.0, 8.0, 9.0, 10.0, 5.0], "loss": [5.0, 4.5, 5.5, 4.9, 4.5]}
    )
    front = speed_front(trials)

    assert list(front["number"]) == [4, 2]
