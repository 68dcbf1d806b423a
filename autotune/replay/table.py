"""A recorded study as one compact file: settings that were all trained to the end, with their curves and times.

It is what other samplers and pruners are tried on without training (`autotune replay`). One row a line, so that
two versions of a table can be told apart by a plain diff.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.core.config_paths import flatten
from autotune.core.errors import UserError
from autotune.core.files import write_text
from autotune.core.metric import TEXT_LOSS, Metric
from autotune.core.records import TrialRecord, TrialResult, TrialStatus
from autotune.store.study_record import StudyRecord
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study

# Version of the file's layout.
_FORMAT = 1
# Digits of a loss that are kept, wherever its point is: of nats a millionth, far below the noise of seeds.
_LOSS_DIGITS = 7


@dataclass(frozen=True)
class Row:
    """One trained configuration.

    Args:
        params: Settings by dotted path.
        status: "finished", "diverged" or "out of memory".
        losses: Held-out loss at each token count of the table, nats per token; fewer if it ended early.
        tokens_per_s: Training speed, evaluations excluded.
        eval_s: Seconds of one evaluation.
        set_up_s: Seconds of everything else in the trial.
    """

    params: Mapping[str, Any]
    status: TrialStatus
    losses: tuple[float, ...]
    tokens_per_s: float
    eval_s: float
    set_up_s: float

    def seconds(self, tokens: int, evaluations: int) -> float:
        """Return the device time to reach so many tokens with so many evaluations on the way.

        Args:
            tokens: Training tokens, >= 0.
            evaluations: Evaluations, >= 0.
        """
        return self.set_up_s + tokens / self.tokens_per_s + evaluations * self.eval_s


@dataclass(frozen=True)
class Table:
    """All rows of a recorded study.

    Args:
        spec: The study: space, base config and tokens of a trial.
        provenance: What it was recorded with.
        tokens: Training tokens at each evaluation, the last at the end.
        rows: Trained configurations, the baseline first.
        metric: What the trainer reports; tables of before do not say it.
    """

    spec: StudySpec
    provenance: Mapping[str, Any]
    tokens: tuple[int, ...]
    rows: tuple[Row, ...]
    metric: Metric = TEXT_LOSS

    def finished(self) -> list[Row]:
        """Return the rows that were trained to the end, best first."""
        rows = [row for row in self.rows if row.status is TrialStatus.FINISHED]
        return sorted(rows, key=lambda row: row.losses[-1])

    def spread(self, count: int) -> list[Row]:
        """Return finished rows at even distances of rank, the best and the worst among them.

        Args:
            count: How many, 2 or more.

        Raises:
            UserError: If fewer have finished.
        """
        rows = self.finished()
        if not 2 <= count <= len(rows):
            raise UserError(
                f"{count} rows were asked for, and the table has {len(rows)} that finished; ask for 2 to {len(rows)}"
            )

        last = len(rows) - 1
        ranks = [round(index * last / (count - 1)) for index in range(count)]

        return [rows[rank] for rank in ranks]


def from_record(record: StudyRecord) -> Table:
    """Return the table of a study's trials.

    Args:
        record: A study whose trials were not pruned.

    Raises:
        UserError: If none of its trials finished.
    """
    results = [(trial, trial.result) for trial in record.trials if trial.result is not None and trial.result.points]
    finished = [result for trial, result in results if trial.status is TrialStatus.FINISHED]
    if not finished:
        raise UserError(f"{record.name}: no trial finished, so there is nothing to make a table of")

    tokens = tuple(point.tokens_seen for point in finished[0].points)
    kept = (TrialStatus.FINISHED, TrialStatus.DIVERGED, TrialStatus.OUT_OF_MEMORY)
    rows = tuple(_row(trial, result) for trial, result in results if trial.status in kept)

    provenance: dict[str, Any] = {"provenance": dict(record.attributes.provenance)}
    plan = record.attributes.plan
    if plan is not None:
        provenance["plan"] = plan.to_json()

    return Table(record.spec, provenance, tokens, rows, record.attributes.metric)


def _row(trial: TrialRecord, result: TrialResult) -> Row:
    points = result.points
    evaluations_s = sum(point.metrics.get("eval_s", 0.0) for point in points)

    return Row(
        params=trial.params,
        status=result.status,
        losses=tuple(point.val_loss for point in points),
        tokens_per_s=points[-1].tokens_seen / result.training_s,
        eval_s=evaluations_s / len(points),
        # Clocks may disagree by a little; no time is negative.
        set_up_s=max(0.0, result.seconds - result.training_s - evaluations_s),
    )


def write(table: Table, path: Path) -> None:
    """Write a table, atomically.

    Args:
        table: The table.
        path: Where it goes.
    """
    head = {
        "format": _FORMAT,
        "spec": table.spec.to_store(),
        "provenance": table.provenance,
        "tokens": table.tokens,
        "metric": table.metric.to_json(),
    }

    # The rows are put into the head by hand, since a JSON writer would not leave each on a line of its own.
    opened_head = json.dumps(head, sort_keys=True)[:-1]
    rows = ",\n".join(json.dumps(_as_json(row), sort_keys=True) for row in table.rows)

    write_text(path, f'{opened_head}, "rows": [\n{rows}\n]}}\n')


def _as_json(row: Row) -> dict[str, Any]:
    losses = [float(f"{loss:.{_LOSS_DIGITS}g}") if math.isfinite(loss) else None for loss in row.losses]
    times = {name: float(f"{getattr(row, name):.5g}") for name in ("tokens_per_s", "eval_s", "set_up_s")}
    return {**asdict(row), "losses": losses, "status": str(row.status), **times}


def read(path: Path) -> Table:
    """Read what `write` wrote.

    Args:
        path: The file.

    Raises:
        UserError: If there is no such file, or it holds no table.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != _FORMAT:
            raise UserError(f"{path}: this table was written by another version of the program; record it again")

        rows = tuple(_from_json(row) for row in raw["rows"])
        metric = Metric(**raw["metric"]) if "metric" in raw else TEXT_LOSS
        return Table(StudySpec.model_validate(raw["spec"]), raw["provenance"], tuple(raw["tokens"]), rows, metric)
    except FileNotFoundError:
        raise UserError(f"{path}: no such table; `autotune record STUDY` writes one") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a table of `autotune record`: {error}") from None


def _from_json(raw: Mapping[str, Any]) -> Row:
    losses = tuple(math.nan if loss is None else loss for loss in raw["losses"])
    return Row(**{**raw, "losses": losses, "status": TrialStatus(raw["status"])})


def recording_changes(study: Study, trials: int, evaluations: int, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the `--set` assignments that make a study one that records a table.

    Args:
        study: The study, with its base config resolved.
        trials: Configurations to train, the baseline included.
        evaluations: Evaluations in each trial; the budget's ends included.
        rows: Settings to train instead of a space-filling set.

    Raises:
        UserError: If the study's trials do not have equal tokens, which every row of a table has, or are not judged
            by loss alone.
    """
    import tomli_w

    spec = study.spec
    if spec.objective != "loss_at_equal_tokens":
        raise UserError(
            f"{spec.name} has the objective {spec.objective}, and a table holds losses at equal tokens; add "
            "--set 'objective=\"loss_at_equal_tokens\"' to record its settings so"
        )

    # Another set of settings is another study, which goes on by itself when it was interrupted.
    kind = "rows" if rows else "table"
    changes = [
        f'name="{spec.name}-{kind}-{spec.budget.tokens}"',
        'sampler={name="qmc", scramble=true}',
        'pruner={name="none"}',
        "finals.finalists=0",
        "promote.automatic=false",
        "budget.match_epochs=false",
        f"budget.trials={trials}",
        "budget.seeds=1",
    ]
    num_evals = study.trainer.path_of("num_evals")
    if num_evals in flatten(spec.base):
        changes.append(f"base.{num_evals}={evaluations}")
    if rows:
        changes.append(tomli_w.dumps({"enqueue": [dict(row) for row in rows]}))

    return changes
