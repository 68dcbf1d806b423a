"""A study as Python code has it in hand: tables, verdict, what can be done with it, and how a notebook shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.cli.launch import MIRROR_MINUTES
from autotune.core.errors import UserError
from autotune.core.records import Verdict
from autotune.promotion.standing import State, state_of
from autotune.store.run_directory import RunDirectory

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from autotune.api.forms import Changes
    from autotune.core.page_frame import PageFrame
    from autotune.store.study_record import StudyRecord


class Tuned:
    """A study that was begun, as it is stored at the moment of asking, also while it runs.

    Args:
        path: Its run directory, `runs/NAME`.
        storage: URL of the database that it shares with other machines; "" for the file in its directory.

    Raises:
        UserError: From everything that reads it, if it cannot be read.
    """

    def __init__(self, path: Path, storage: str = "") -> None:
        self.path = path
        self._storage = storage

    @property
    def name(self) -> str:
        """Its name on the command line: its folder's."""
        return self._run.name

    @property
    def state(self) -> State:
        """How it stands: see `State`. `autotune.run` goes on with one that is parked."""
        return state_of(self.record)

    @property
    def record(self) -> StudyRecord:
        """Everything that is stored of it."""
        from autotune.store.study_record import read_study

        return read_study(self.path, self._storage)

    @property
    def trials(self) -> pd.DataFrame:
        """Every trial of the search, a row each: the columns of trials.csv."""
        from reports.exports import trials_frame

        return trials_frame(self.record)

    @property
    def curves(self) -> pd.DataFrame:
        """Every evaluation of the search and the finals, a row each: the columns of curves.csv."""
        from reports.exports import curves_frame

        return curves_frame(self.record)

    @property
    def best_config(self) -> dict[str, Any]:
        """The whole configuration of the best settings, nested: the proven ones, or else the default.

        Before the verdict it is that of the trial of lowest loss. `best_config.toml` has it as a longer run needs it.

        Raises:
            UserError: If no trial has finished.
        """
        from autotune.promotion.selection import best_settings

        best = best_settings(self.record)
        if best is None or not best.config:
            raise UserError(f"{self.name}: no trial has finished yet, so none is the best", 4)
        return best.config

    @property
    def verdict(self) -> Verdict | None:
        """What the finals on fresh seeds said; None before them. Its `word` is "better", "no clear gain", ..."""
        return self.record.verdict

    @property
    def optuna_study(self) -> optuna.Study:
        """A copy of the search as an Optuna study in memory, for Optuna's own analyses and plots."""
        import optuna
        from optuna.storages import InMemoryStorage

        from autotune.store.database import storage_to_read

        record = self.record
        copy = InMemoryStorage()
        with storage_to_read(record.run, record.storage_url, record.spec.limits.heartbeat_s) as storage:
            optuna.copy_study(from_study_name=record.spec.name, from_storage=storage, to_storage=copy)
        return optuna.load_study(study_name=record.spec.name, storage=copy)

    def promote(
        self,
        *,
        tokens: int | None = None,
        hours: float | None = None,
        until: str | None = None,
        trial: int | None = None,
        as_is: bool = False,
        device: str = "auto",
        session_hours: float | None = None,
        mirror: str | Path | None = None,
        mirror_minutes: float = MIRROR_MINUTES,
    ) -> Tuned:
        """Train the best settings for longer: the full run. If it is interrupted, the same call resumes it.

        Args:
            tokens: Training tokens; None for as many as fit until the end, or as the study says.
            hours: Finish within this many hours.
            until: Finish by this time of day, "07:00".
            trial: Use the settings of this trial instead of the study's best.
            as_is: Use the settings unchanged, not fitted to the longer run.
            device: "auto", "cpu", "cuda" or "cuda:1".
            session_hours: The session ends within so many hours: park before.
            mirror: Keep snapshots of the study in this folder.
            mirror_minutes: Minutes between two snapshots.

        Returns:
            The study; its `state` tells whether the full run was parked or failed.

        Raises:
            UserError: If nothing can be promoted, or the run cannot go on.
        """
        from autotune.api.forms import whole
        from autotune.api.work import hosting_of, require_known_device, work
        from autotune.cli.launch import make_options
        from autotune.cli.options import deadline_of, load_study
        from autotune.core.text import say

        require_known_device(device)
        tokens = None if tokens is None else whole(tokens, "tokens")
        trial = None if trial is None else whole(trial, "trial")
        if tokens is not None and tokens < 1:
            raise UserError(f"tokens is {tokens}; write how many tokens to train on, such as 1_000_000")

        def agree(cost: str) -> bool:
            say(cost)
            return True

        hosting = hosting_of(session_hours, mirror, mirror_minutes)
        hosting.adopt(self.path)
        study = load_study(str(self.path), self.path.parent, None)
        options = make_options(study, self.path.parent, device, "", deadline_of(None, hours, until), hosting)
        work(study, self.path, options, hosting, lambda session: session.promote(tokens, trial, as_is, agree))
        return self

    def clone(
        self,
        name: str,
        *,
        set: Changes | None = None,
        hours: float | None = None,
        until: str | None = None,
        trials: int | None = None,
    ) -> Path:
        """Write a study file like this study's, with changes; this one's trials count there where they mean the same.

        Args:
            name: Of the new study.
            set: Changes of the study file, as `autotune.run` takes them.
            hours: Finish everything within this many hours.
            until: Finish everything by this time of day, "07:00".
            trials: Trials at most, those that are taken along included.

        Returns:
            The new study's folder, for `autotune.run`; its study.toml may be edited before.

        Raises:
            UserError: If there is a study of that name, or a change is wrong.
        """
        from autotune.api.forms import changes_text
        from autotune.api.work import faults_told
        from autotune.cli.cloning import limits_as_changes, make_clone
        from autotune.core.text import say

        with faults_told():
            changes = limits_as_changes(changes_text(set), hours, until, trials)
            made = make_clone(self.record, name, self.path.parent, changes)
        for line in made.lines():
            say(line)
        return made.run.root

    def stop(self, *, now: bool = False) -> None:
        """Park the study, which another thread or process runs, after its next evaluation.

        Args:
            now: Stop at once; the trials that were running are run again later.

        Raises:
            UserError: If it is not running.
        """
        from autotune.api.work import stop

        stop(self._run, now, self._storage)

    def steer(
        self,
        *,
        stop_trial: int | Sequence[int] = (),
        add: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
        ranges: Mapping[str, Sequence[Any]] | None = None,
        trials: int | None = None,
        hours: float | None = None,
        until: str | None = None,
    ) -> list[str]:
        """Change the study while it runs, in this process or in another, or before it goes on: `autotune steer`.

        All of it is checked before any of it counts.

        Args:
            stop_trial: Trials to end after their next evaluation; they are not trained again.
            add: Settings of a trial to train as soon as possible, by dotted path, or of several; those that are not
                named are the default's.
            ranges: What is searched from now on, by dotted path: (low, high), or the choices that are left.
            trials: Search at most this many trials.
            hours: Finish everything within this many hours from now.
            until: Finish everything by this time of day, "07:00".

        Returns:
            What will happen, a sentence each.

        Raises:
            UserError: With a line for each thing that cannot be done; then nothing is changed.
        """
        from autotune.api.forms import ranges_by_path, settings, whole
        from autotune.api.work import faults_told
        from autotune.cli.options import load_study
        from autotune.cli.steer import end_of
        from autotune.night.steer import Orders, steer

        stopped = list(stop_trial) if isinstance(stop_trial, Iterable) else [stop_trial]
        added = list(add) if isinstance(add, list | tuple) else [add]
        orders = Orders(
            [whole(number, "stop_trial") for number in stopped],
            [settings(each, "add") for each in added],
            ranges_by_path(ranges or {}),
            None if trials is None else whole(trials, "trials"),
            end_of(hours, until),
        )
        with faults_told():
            load = partial(load_study, str(self.path), self.path.parent, None)
            return [accepted.says for accepted in steer(self.path, self._storage, load, orders)]

    def page(self, height: int = 800) -> PageFrame:
        """Return the study's page as a frame that a notebook shows in its cell; the page itself is a part of it.

        Args:
            height: Of the frame, in pixels.
        """
        from autotune.core.page_frame import PageFrame
        from reports.page import study_page

        return PageFrame(study_page(self.record), height)

    def __repr__(self) -> str:
        return f"<autotune.Tuned {self.name!r} at {str(self.path)!r}>"

    def __str__(self) -> str:
        from reports.page import summary_lines

        return "\n".join([f"{self.name}: {self.state}", *summary_lines(self.record)])

    def _repr_html_(self) -> str:
        from reports.card import study_card

        record = self.record
        return study_card(record, state_of(record))

    @property
    def _run(self) -> RunDirectory:
        return RunDirectory(self.path)
