"""When a run is evaluated: at the same numbers of tokens whatever the size of its passes and batches."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationGrid:
    """Evenly spaced numbers of tokens, each reported after the end of the pass nearest to it.

    Args:
        budget_tokens: Tokens of the whole run.
        num_evals: Evaluations over the budget; a budget of fewer tokens has fewer of them.
        seq_len: Tokens of a sequence.
        pass_sequences: Sequences of a pass, of one process's where several share them: all of them then evaluate
            where one process would.
    """

    budget_tokens: int
    num_evals: int
    seq_len: int
    pass_sequences: int

    def due(self, sequences: int, end_tokens: int, num_reported: int) -> list[int]:
        """Return the grid points, in tokens, that a run has reached and not yet reported.

        Args:
            sequences: Sequences trained so far, at the end of a pass.
            end_tokens: Where the run ends, at most the budget; always the last point.
            num_reported: Points that have been reported.
        """
        at_the_end = sequences >= math.ceil(end_tokens / self.seq_len)
        if not at_the_end and sequences % self.pass_sequences:
            return []

        # Half a pass ahead, so that passes of any size are, on average, neither early nor late.
        reached_tokens = min(sequences * self.seq_len, end_tokens) + self.pass_sequences * self.seq_len / 2
        if not at_the_end:
            reached_tokens = min(reached_tokens, end_tokens - 1)

        points = [tokens for tokens in self._points() if tokens < end_tokens] + [end_tokens]
        return [tokens for tokens in points[num_reported:] if tokens <= reached_tokens]

    def _points(self) -> list[int]:
        points = {self.budget_tokens * number // self.num_evals for number in range(1, self.num_evals + 1)}
        return sorted(points - {0})
