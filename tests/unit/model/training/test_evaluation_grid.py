import pytest

from model.training.evaluation_grid import EvaluationGrid


def reported(grid, pass_sequences, end_tokens):
    """Return the points of a whole run, each with the sequences after which it is due."""
    points = []
    sequences = 0
    num_sequences = -(-end_tokens // grid.seq_len)

    while sequences < num_sequences:
        sequences = min(sequences + pass_sequences, num_sequences)
        points += [(tokens, sequences) for tokens in grid.due(sequences, end_tokens, len(points))]
    return points


def test_points_are_due_after_the_nearest_pass():
    """Passes of 40 tokens end at 40, 80, 120, 160 and 200; points lie at 50, 100, 150 and 200."""
    grid = EvaluationGrid(budget_tokens=200, num_evals=4, seq_len=10, pass_sequences=4)
    assert reported(grid, 4, 200) == [(50, 4), (100, 8), (150, 16), (200, 20)]


def test_one_pass_may_reach_several_points():
    grid = EvaluationGrid(budget_tokens=200, num_evals=20, seq_len=10, pass_sequences=6)
    points = reported(grid, 6, 200)
    assert [tokens for tokens, _ in points] == list(range(10, 201, 10))
    assert [sequences for _, sequences in points[:9]] == [6] * 9


@pytest.mark.parametrize("pass_sequences", [1, 3, 4, 7, 100])
@pytest.mark.parametrize("budget_tokens", [1, 9, 10, 200, 205])
def test_the_grid_does_not_depend_on_passes_and_the_last_point_waits_for_the_end(budget_tokens, pass_sequences):
    grid = EvaluationGrid(budget_tokens, num_evals=7, seq_len=10, pass_sequences=pass_sequences)
    points = reported(grid, pass_sequences, budget_tokens)
    expected = {budget_tokens * number // 7 for number in range(1, 8)} - {0}

    assert [tokens for tokens, _ in points] == sorted(expected)
    assert points[-1] == (budget_tokens, -(-budget_tokens // 10))

    last_pass_start = (points[-1][1] - 1) // pass_sequences * pass_sequences
    assert all(sequences <= last_pass_start for tokens, sequences in points if tokens < last_pass_start * 10)


def test_smaller_passes_of_several_processes_evaluate_where_one_process_would():
    grid = EvaluationGrid(budget_tokens=205, num_evals=5, seq_len=10, pass_sequences=4)
    assert reported(grid, 2, 205) == reported(grid, 1, 205) == reported(grid, 4, 205)


def test_a_run_that_ends_sooner_has_its_end_as_the_last_point():
    grid = EvaluationGrid(budget_tokens=200, num_evals=4, seq_len=10, pass_sequences=2)
    assert [tokens for tokens, _ in reported(grid, 2, 130)] == [50, 100, 130]
    assert [tokens for tokens, _ in reported(grid, 2, 100)] == [50, 100]


def test_points_that_were_reported_are_not_due_again():
    grid = EvaluationGrid(budget_tokens=200, num_evals=4, seq_len=10, pass_sequences=4)
    assert grid.due(8, 200, num_reported=0) == [50, 100]
    assert grid.due(8, 200, num_reported=1) == [100]
    assert grid.due(8, 200, num_reported=2) == []
