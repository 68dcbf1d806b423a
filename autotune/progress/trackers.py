"""Experiment trackers, each in a process of its own: `python -m autotune.progress.trackers NAME FOLDER STUDY`.

The process reads a JSON line for each thing that happens (`tracker_feed` sends them) and ends with its input. So no
tracker can stop, slow or clutter a night, whatever it does. None is imported unless asked for.
"""

from __future__ import annotations

import contextvars
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

Values = Mapping[str, Any]
_FINE = ("finished", "pruned", "stopped", "verdict")
"""Statuses with which a run ends that has not failed."""


class Tracker(Protocol):
    """Takes what happens in a study; one run of the tracker's for each trial, final and full run."""

    def started(self, run: str, group: str, settings: Values) -> None:
        """Tell that a training began.

        Args:
            run: Names it, such as "trials-0007".
            group: "trials", "finals" or "full".
            settings: What is searched, by dotted path, and the seed.
        """

    def point(self, run: str, tokens: int, metrics: Values) -> None:
        """Tell that a training was evaluated after so many tokens."""

    def ended(self, run: str, status: str, facts: Values) -> None:
        """Tell that a training ended; status and facts say how."""

    def concluded(self, text: str, facts: Values) -> None:
        """Tell that the study has a verdict."""

    def close(self) -> None:
        """Tell that nothing more will come."""


class TensorBoard:
    """Event files: scalars over tokens, hyperparameters for the HParams tab, ends and verdict as text."""

    def __init__(self, folder: Path, study: str) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._open: Callable[[str], Any] = lambda run: EventFileWriter(str(folder / run))
        self._writers: dict[str, Any] = {}

    def _add(self, run: str, summary: Any, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writers[run].add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def started(self, run: str, group: str, settings: Values) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        self._writers[run] = self._open(run)
        known = {name: value for name, value in settings.items() if isinstance(value, bool | int | float | str)}
        self._add(run, hparams_pb({"group": group, **known}, trial_id=run))

    def point(self, run: str, tokens: int, metrics: Values) -> None:
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        for name, value in metrics.items():
            self._add(run, scalar_pb(name, value), tokens)
        self._writers[run].flush()

    def ended(self, run: str, status: str, facts: Values) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(run, text_pb("end", _as_table({"status": status, **facts})))

        # The plugin's own function for this needs TensorFlow.
        code = api_pb2.STATUS_SUCCESS if status in _FINE else api_pb2.STATUS_FAILURE
        end = plugin_data_pb2.SessionEndInfo(status=code, end_time_secs=time.time())
        marked = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
        value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=marked, tensor=metadata.NULL_TENSOR)
        self._add(run, Summary(value=[value]))

        self._writers.pop(run).close()

    def concluded(self, text: str, facts: Values) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._writers["study"] = self._open("study")
        self._add("study", text_pb("verdict", f"{text}\n\n{_as_table(facts)}"))
        self._writers.pop("study").close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """Runs of Weights & Biases, offline unless WANDB_MODE says otherwise: no network and no account is needed."""

    def __init__(self, folder: Path, study: str) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        # wandb makes a folder of its own name in the folder that it is given.
        self._folder = folder.parent if folder.name == "wandb" else folder
        self._study = study
        self._wandb = wandb
        self._runs: dict[str, Any] = {}

    def started(self, run: str, group: str, settings: Values) -> None:
        quiet = {"console": "off", "silent": True, "save_code": False, "disable_git": True}
        self._runs[run] = self._wandb.init(
            project=self._study,
            name=run,
            group=group,
            config=dict(settings),
            dir=str(self._folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",
            settings=self._wandb.Settings(**quiet, x_disable_stats=True),
        )

    def point(self, run: str, tokens: int, metrics: Values) -> None:
        self._runs[run].log(dict(metrics), step=tokens)

    def ended(self, run: str, status: str, facts: Values) -> None:
        ended = self._runs.pop(run)
        ended.summary.update({"status": status, **facts})
        ended.finish(exit_code=0 if status in _FINE else 1)

    def concluded(self, text: str, facts: Values) -> None:
        self.started("verdict", "study", {})
        self.ended("verdict", "verdict", {"verdict": text, **facts})

    def close(self) -> None:
        for run in self._runs.values():
            run.finish(exit_code=1)


class Trackio:
    """Runs of trackio in a local database; `TRACKIO_DIR=FOLDER trackio show` shows them."""

    def __init__(self, folder: Path, study: str) -> None:
        os.environ["TRACKIO_DIR"] = str(folder)  # read when it is imported
        import trackio

        self._study = study
        self._trackio = trackio
        self._runs: dict[str, Any] = {}
        self._tokens: dict[str, int] = {}

    def started(self, run: str, group: str, settings: Values) -> None:
        self._tokens[run] = 0

        # trackio ends the run before when another begins, unless that one is of another context.
        self._runs[run] = contextvars.Context().run(
            self._trackio.init,
            project=self._study,
            name=run,
            group=group,
            config=dict(settings),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def point(self, run: str, tokens: int, metrics: Values) -> None:
        self._tokens[run] = tokens
        self._runs[run].log(dict(metrics), step=tokens)

    def ended(self, run: str, status: str, facts: Values) -> None:
        ended = self._runs.pop(run)
        ended.log({"status": status, **facts}, step=self._tokens.pop(run))
        ended.finish()

    def concluded(self, text: str, facts: Values) -> None:
        self.started("verdict", "study", {})
        self.ended("verdict", "verdict", {"verdict": text, **facts})

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()


# Their names are those of `autotune.study.spec.TRACKERS`.
_FACTORIES: dict[str, Callable[[Path, str], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}


def _as_table(facts: Values) -> str:
    told = {name: value for name, value in facts.items() if value not in ("", None)}
    rows = "".join(f"| {name} | {value} |\n" for name, value in told.items())
    return f"| | |\n|---|---|\n{rows}"


def feed(tracker: Tracker, lines: Iterable[str]) -> None:
    """Hand JSON lines on to a tracker until they end.

    Args:
        tracker: The tracker.
        lines: Each a JSON object: `event` names the tracker's method, the rest are its arguments.
    """
    try:
        for line in lines:
            message = json.loads(line)
            getattr(tracker, message.pop("event"))(**message)
    finally:
        tracker.close()


if __name__ == "__main__":
    feed(_FACTORIES[sys.argv[1]](Path(sys.argv[2]), sys.argv[3]), sys.stdin)
