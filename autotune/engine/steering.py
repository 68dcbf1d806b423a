"""What a person asks of a study that runs, taken up by the process that runs it: each wish once, in its order.

Whatever is taken up counts by what is stored, also for peers and for later starts: ranges, the number of trials and
stopped trials are read from the requests wherever they matter. Only a trial is added, and the deadline moved, here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from autotune.core.attributes import TrialAttributes
from autotune.core.records import TrialStatus
from autotune.core.requests import (
    AddTrial,
    Answer,
    Request,
    SetEnd,
    SetRange,
    SetTrials,
    StopStudy,
    StopTrial,
    stopped_trials,
    study_stops,
)
from autotune.engine.deadline import Deadline, Interval, StopRequest
from autotune.engine.session_end import SessionEnd
from autotune.store.absence import again_if_cut_off

if TYPE_CHECKING:
    from autotune.engine.trial_store import TrialStore

LOOK_EVERY_S = 1.0
"""Seconds between two looks for what was asked."""
TOO_LATE = "the search was over by then"
"""Why a wish for the search is not fulfilled, after "but"."""


class Steering:
    """Takes up what is asked; one that is made without a search has nobody to ask.

    Args:
        search: The search, whose attributes keep the requests.
        deadline: When everything must be done.
        session: When the session ends.
        note: Takes the kind of something noteworthy and a sentence about it.
        replan: Called after the deadline was moved.
        stop: Raised when the study is to be stopped.
        stops_before: Ids of requests to stop it that this process has come after.
    """

    def __init__(
        self,
        search: TrialStore | None = None,
        deadline: Deadline | None = None,
        session: SessionEnd | None = None,
        note: Callable[[str, str], None] = lambda kind, message: None,
        replan: Callable[[], None] = lambda: None,
        stop: StopRequest | None = None,
        stops_before: Collection[str] = (),
    ) -> None:
        self.stopped: frozenset[int] = frozenset()
        """Trials of the search that a person does not want to go on."""
        self._search = search
        self._deadline = deadline or Deadline()
        self._session = session or SessionEnd()
        self._note = note
        self._replan = replan
        self._stop = stop or StopRequest()
        self._stops_seen = set(stops_before)
        self._is_due = Interval(LOOK_EVERY_S)
        self._followed = ""
        self._started = ""

    def begin(self, command: str) -> None:
        """Let the end count that a person set while the study ran before, and take up what was asked since then.

        An end that is named as the study is started is a later word, unless it is the one that was moved: a command
        that resumes a study is often the one that started it. The end of a night is not that of a later full run.

        Args:
            command: What the study is started by: "run" or "promote".
        """
        if self._search is None:
            return

        attributes = self._search.attributes
        if not attributes.hears_requests:
            attributes.hears_requests = True
        self._started = f"{command} {self._deadline.words}"
        last = _last_end(attributes.requests)
        if last is not None and last.answer is not None and last.answer.instead_of != self._started:
            is_of_another = last.answer.instead_of.partition(" ")[0] != command
            if self._deadline.is_asked or is_of_another:
                self._followed = last.id
        self.look()

    def tick(self) -> None:
        """Take up what was asked, if it is time to look. Called often."""
        if self._search is not None and self._is_due.has_passed():
            self.look()

    @again_if_cut_off
    def look(self) -> None:
        """Take up what was asked, in its order."""
        if self._search is None:
            return

        requests = self._search.attributes.requests
        if any(request.answer is None for request in requests):
            # Of peers, only one answers each.
            with self._search.locked():
                for request in self._search.attributes.requests:
                    if request.answer is None:
                        self._take_up(request)
            requests = self._search.attributes.requests

        self.stopped = stopped_trials(requests)
        self._heed_stops(requests)
        self._follow(_last_end(requests))

    @again_if_cut_off
    def ends_search(self) -> bool:
        """Mark the search as over, unless it has to see to something first that was asked; return whether it is."""
        if self._search is None:
            return True

        attributes = self._search.attributes
        before = sum(map(_is_for_search, attributes.requests))
        self.look()
        with self._search.locked():
            requests = self._search.attributes.requests
            if sum(map(_is_for_search, requests)) > before or any(map(_is_new, requests)):
                return False
            attributes.search_ended = True
        return True

    def _heed_stops(self, requests: tuple[Request, ...]) -> None:
        """Park if the study was stopped since this process joined it: whoever has answered, all of them do."""
        for id_, wish in study_stops(requests).items():
            if id_ not in self._stops_seen:
                self._stops_seen.add(id_)
                self._stop.park(now=wish.now)
                self._note("stopped", "the study is stopped, on all machines: nothing is lost")

    def _take_up(self, request: Request) -> None:
        assert self._search is not None
        answer = self._answer(request)
        if answer is None:
            return

        attributes = self._search.attributes
        attributes.answer(request, answer)
        told = request.model_copy(update={"answer": answer})
        self._note("steering", told.sentence(attributes.created_at))

    def _answer(self, request: Request) -> Answer | None:
        """Do what can be done at once, and return what became of a wish; None if it is not decided yet."""
        assert self._search is not None
        attributes = self._search.attributes
        wish = request.wish
        if isinstance(wish, SetEnd):
            if wish.ends_at <= time.time():
                return Answer(why="that time had passed when the study went on")
            return Answer(instead_of=self._started)
        if isinstance(wish, StopStudy):
            return Answer()
        if isinstance(wish, StopTrial):
            return self._answer_stop(wish)
        if attributes.is_search_over:
            return Answer(why=TOO_LATE)

        if isinstance(wish, AddTrial):
            return Answer(trial=self._add(wish, request.id))
        if isinstance(wish, SetRange):
            # What a sampler could not find any more in the space before may be there now.
            attributes.exhausted = False
            return Answer()
        assert isinstance(wish, SetTrials)
        return Answer(instead_of=str(self._search.study.spec.budget.trials))

    def _answer_stop(self, wish: StopTrial) -> Answer | None:
        assert self._search is not None
        from optuna.trial import TrialState

        trial = self._search.optuna_study.get_trials(deepcopy=False)[wish.trial]
        if trial.state is TrialState.RUNNING:
            return None

        attributes = TrialAttributes(trial)
        if trial.state is TrialState.WAITING or attributes.passed_over:
            return Answer()
        result = attributes.result
        if result is None or result.status is TrialStatus.INTERRUPTED:
            return Answer()  # it ended from outside, and is not repeated
        if result.status is TrialStatus.STOPPED:
            return Answer()
        return Answer(why=f"it had ended before ({result.status})")

    def _add(self, wish: AddTrial, request_id: str) -> int:
        """Queue a trial, unless a process that was killed right after that has done so, and return its number."""
        assert self._search is not None
        identity = {"role": "search", "params": dict(wish.settings), TrialAttributes.request.name: request_id}
        self._search.enqueue(identity, wish.settings)

        trials = self._search.optuna_study.get_trials(deepcopy=False)
        return next(trial.number for trial in trials if TrialAttributes(trial).request == request_id)

    def _follow(self, last: Request | None) -> None:
        """Move the deadline to what was set last, once."""
        if last is None or last.id == self._followed:
            return

        self._followed = last.id
        assert isinstance(last.wish, SetEnd)
        seconds = last.wish.ends_at - time.time()
        # A night that is resumed after that time has the end that it is given now.
        if seconds > 0:
            self._deadline.move_to(seconds)
            self._session.bound(self._deadline)
            self._replan()


def _last_end(requests: tuple[Request, ...]) -> Request | None:
    ends = [request for request in requests if request.is_done and isinstance(request.wish, SetEnd)]
    return ends[-1] if ends else None


def _is_for_search(request: Request) -> bool:
    """Return whether a request that was taken up gives a search something to do."""
    return request.is_done and isinstance(request.wish, AddTrial | SetRange | SetTrials)


def _is_new(request: Request) -> bool:
    """Return whether a request can be taken up now."""
    return request.answer is None and not isinstance(request.wish, StopTrial)
