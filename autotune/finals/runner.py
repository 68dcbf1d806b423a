"""What is trained on fresh seeds: the baseline's noise before the search, then finals and attribution after it.

Each method looks at what is stored and trains what is missing.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import optuna

from autotune.core.attributes import StudyAttributes
from autotune.core.errors import UserError
from autotune.core.objectives import candidates
from autotune.core.records import TrialRecord, TrialStatus, Verdict, VerdictWord
from autotune.engine.deadline import MARGIN
from autotune.engine.event_loop import EventLoop
from autotune.engine.queue import Queue
from autotune.finals.allotment import Allotment, allot
from autotune.finals.attribution import Attributing
from autotune.finals.power import measure_noise
from autotune.finals.verdict import (
    ATTRIBUTE,
    PROVE,
    SELECT,
    FinalRun,
    choose_winner,
    failed_seeds,
    finalists,
    judge,
    noise_runs,
    proving_runs,
    ranked,
    selection_runs,
)
from autotune.store.absence import again_if_cut_off
from autotune.store.database import exclusive
from autotune.store.stored_spec import in_force
from autotune.store.study_record import StudyRecord, read_study
from autotune.study.spec import StudySpec

_PURPOSES = {
    SELECT: "to choose the winner",
    PROVE: "to prove its gain",
    ATTRIBUTE: "to find out which change gave what",
}
"""What the runs of a stage are for, in the words of the console."""
_NOISE_FRAC = 0.1
"""Share of the time left that the baseline's seeds before the search may take."""
NO_TIME = "no time was left for it, so all changes are kept"
"""Reason stored when there was no time to find out which change gave what."""
NOT_ALL_ENDED = "not all of its trainings came to an end, so all changes are kept"
"""Reason stored when a training of the attribution did not end."""


@dataclass(frozen=True)
class Judging:
    """On which devices a study is judged, where those of several classes share it: no pair of seeds is split over two.

    Args:
        own: Class of this process's device; "" where all are alike.
        judged_on: Gives the class on which it is judged.
        training_s: Gives the seconds of a training there, by its plan; 0 if that is not known.
        move_here: Lets it be judged on this process's class from now on: all is trained anew.
    """

    own: str = ""
    judged_on: Callable[[], str] = lambda: ""
    training_s: Callable[[], float] = lambda: 0.0
    move_here: Callable[[], None] = lambda: None


class NobodyLeftError(Exception):
    """Nobody is left on devices of the class that it names, where trainings wait for them."""


@dataclass
class FinalsRunner:
    """The trainings on fresh seeds and the judgement by them.

    Args:
        spec: The study.
        optuna_study: The search, whose attributes keep the results.
        open_queue: Opens the finals' queue, which a study without finals never has.
        loop: What trains.
        slots: Devices that train at once.
        later_s: Seconds to keep for what comes after the proof: the full run and the report.
        elapsed_s: Seconds for which other processes had worked on the night when this one opened the study.
        judging: On which devices all of these are trained.
    """

    spec: StudySpec
    optuna_study: optuna.Study
    open_queue: Callable[[], Queue]
    loop: EventLoop
    slots: int
    later_s: Callable[[], float]
    elapsed_s: float = 0.0
    judging: Judging = Judging()
    _opened: tuple[str, Queue] | None = None
    _has_moved: bool = False
    _proved: int = 0  # runs of the baseline that the proof will find done
    _began: float = field(default_factory=time.monotonic)

    @property
    def queue(self) -> Queue:
        """The queue of the finals, opened when it is first asked for, and again when they move to other devices."""
        judged_on = self.judging.judged_on()
        if self._opened is None or self._opened[0] != judged_on:
            self._opened = judged_on, self.open_queue()
        return self._opened[1]

    def _record(self) -> StudyRecord:
        return read_study(self.loop.run_directory.root, self.spec.storage)

    def reserve_s(self) -> float:
        """Return the seconds to keep for everything that follows the search."""
        done_s = MARGIN * self._seconds(self._proved)
        return max(self.later_s(), self.allotment().reserve_s - done_s)

    def allotment(self) -> Allotment:
        """Return how the time since the study was opened is divided, by what trainings have taken so far."""
        seconds = self.elapsed_s + time.monotonic() - self._began + self.loop.deadline.seconds_left
        attributes = StudyAttributes(self.optuna_study)
        taken = sum(earlier.taken for earlier in attributes.taken_along.values())
        spec = in_force(self.spec, attributes).less(taken)
        return allot(spec, seconds, self._seconds(1) * self.slots, self.slots, self.later_s())

    def _seconds(self, runs: int) -> float:
        each_s = 0.0
        if self.judging.judged_on() != self.judging.own:
            each_s = self.judging.training_s()
        return runs * (each_s or self.loop.pace.usual_seconds(self.spec.budget.tokens)) / self.slots

    def noise(self) -> None:
        """Train the baseline on several seeds, and store the noise and the gain that can be proved.

        The search has trained it on one seed. A peer that sees another one do this goes on to the search.
        """
        spec = self.spec.finals
        baseline = self._record().baseline
        if self.loop.stop.level or not spec.runs or baseline is None or baseline.loss is None:
            return

        count = self._noise_seeds()
        if count:
            runs = noise_runs(baseline, spec, self.spec.seed, count)
            self._train(runs, "with the default settings, to see how much chance alone changes", awaits_peers=False)

        self._require_chance(self._proofs(baseline))
        self._keep_noise(baseline)

    def _keep_noise(self, baseline: TrialRecord) -> None:
        """Store what the baseline's runs tell of the noise, once for all: settings of a longer run follow from it."""
        noise = measure_noise(baseline.number, self.queue.records(), self.spec.finals)
        attributes = StudyAttributes(self.optuna_study)
        if noise is not None and (attributes.noise is None or self._has_moved):
            self._has_moved = False
            attributes.noise = noise
            self.loop.observer.note("noise", noise.describe(self.queue.study.trainer.metric))

    def _proofs(self, baseline: TrialRecord) -> list[float]:
        """Return the baseline's losses on the seeds of the proof, which will find these trainings done."""
        of_baseline = (baseline.number, PROVE)
        losses = [run.loss for run in self.queue.records() if (run.arm, run.stage) == of_baseline]
        finished = [loss for loss in losses if loss is not None]
        self._proved = min(self.spec.finals.prove_seeds, len(finished))
        return finished

    def _require_chance(self, losses: Sequence[float]) -> None:
        """Refuse to go on if the trainer seems not to use its seed: any difference would look proved.

        Raises:
            UserError: If two seeds or more gave the same loss, and no other.
        """
        if len(losses) < 2 or len(set(losses)) > 1:
            return
        trainer = self.queue.study.trainer
        raise UserError(
            f"the default settings gave the same {trainer.metric.name}, {trainer.metric.value(losses[0])!r}, with "
            f"{len(losses)} seeds, so {trainer.name} does not seem to use its seed, and runs on fresh seeds would "
            "prove nothing; let all that is random in it follow from the seed in its config, or, if nothing is random, "
            "write finals.finalists = 0 for a search without proof"
        )

    def _noise_seeds(self) -> int:
        """Return how many seeds the time allows before the search; 0 if not even two."""
        possible = _NOISE_FRAC * self.loop.deadline.seconds_left / max(self._seconds(1), 1e-6)
        count = int(min(possible, self.spec.finals.prove_seeds))
        return count if count >= 2 else 0

    def verdict(self) -> Verdict:
        """Train the finalists again, prove the winner, and return the verdict.

        Where nobody is left on whose device that is done, all of it is done anew on this process's.
        """
        while True:
            try:
                return self._verdict()
            except NobodyLeftError as error:
                words = f"no process on {error} is left: what is on fresh seeds is trained on {self.judging.own}"
                self.loop.observer.note("finals", f"{words} from now on, both of each pair")
                self.judging.move_here()
                self._has_moved = True

    def _verdict(self) -> Verdict:
        trials = self._record().trials
        baseline = next((trial for trial in reversed(trials) if trial.role == "baseline"), None)
        best = ranked(trials)
        if not best:
            return _nothing_finished(trials)

        if baseline is None or baseline.loss is None:
            cause = "is missing" if baseline is None else f"ended as {baseline.status}"
            reason = f"the baseline {cause}, so there is nothing to compare the best trial with"
            return Verdict(VerdictWord.INCONCLUSIVE, reason, best[0].number, best[0].params)

        if not self.spec.finals.runs:
            reason = "nothing was proved on fresh seeds, since finals.finalists is 0"
            return Verdict(VerdictWord.INCONCLUSIVE, reason, best[0].number, best[0].params)

        arms = finalists(candidates(self.spec.objective, trials), baseline, self.spec.finals.finalists)
        if not arms:
            return Verdict(VerdictWord.INCONCLUSIVE, "no trial with settings other than the baseline's finished")

        self._proofs(baseline)
        affordable = self._affordable(arms)
        self._train(selection_runs(affordable, self.spec.finals, self.spec.seed))
        winner = choose_winner(affordable, self.queue.records())
        return self._prove(baseline, winner)

    def _affordable(self, arms: Sequence[TrialRecord]) -> Sequence[TrialRecord]:
        """Return as many finalists as there is time to train before the winner's gain is proved, the best first."""
        records = self.queue.records()
        trained = {(run.arm, run.seed, run.stage) for run in records if run.status is not TrialStatus.WAITING}
        proving = 2 * self.spec.finals.prove_seeds - self._proved

        for count in range(len(arms), 1, -1):
            runs = selection_runs(arms[:count], self.spec.finals, self.spec.seed)
            missing = [run for run in runs if (run.arm, run.seed, run.stage) not in trained]
            if not missing or self._has_time(self._seconds(len(missing) + proving)):
                return arms[:count]

            self.loop.observer.note("finals", f"no time to train {count} finalists again and to prove the best")

        return arms[:1]

    def _prove(self, baseline: TrialRecord, winner: TrialRecord) -> Verdict:
        """Train pairs until they decide, or until there is no time for more."""
        spec = self.spec.finals
        verdict = Verdict(VerdictWord.INCONCLUSIVE, "")
        for look, pairs in enumerate(spec.looks):
            added = pairs - (spec.looks[look - 1] if look else 0)
            if look and not self._has_time(self._seconds(2 * added)):
                break

            self._train(proving_runs(baseline, winner, spec, self.spec.seed, pairs))
            runs = self.queue.records()
            verdict = judge(baseline, winner, runs, spec, look)

            # Who was to measure it before the search may have been killed at it.
            self._keep_noise(baseline)

            # After a failed seed more pairs would not change the verdict.
            is_undecided = verdict.word is VerdictWord.INCONCLUSIVE and not failed_seeds(winner.number, runs)
            if not is_undecided or self.loop.stop.level:
                break

        return verdict

    def attribute(self, verdict: Verdict) -> None:
        """Find out which of a better winner's changes gave what, if there is time, and store it."""
        record = self._record()
        winner = next((trial for trial in record.trials if trial.number == verdict.winner), None)
        seeds = verdict.seeds[: self.spec.finals.attribute_seeds]
        if verdict.word is not VerdictWord.BETTER or winner is None or record.baseline is None or len(seeds) < 2:
            return

        attributes = StudyAttributes(self.optuna_study)
        min_gain = verdict.min_gain or math.inf
        space, base, metric = self.spec.space, self.spec.base, self.queue.study.trainer.metric
        attributing = Attributing(space, base, record.baseline, winner, seeds, min_gain, metric)
        missing = attributing.missing(self.queue.records())
        all_runs = self.spec.attributing_runs(len(attributing.changed))
        if missing and not self._has_time(self._seconds(all_runs)):
            self.loop.observer.note("attribution", "no time is left to find out which change gave what")
            attributes.why_no_attribution = NO_TIME
            return

        while missing and not self.loop.stop.level:
            before = missing
            with contextlib.suppress(NobodyLeftError):
                self._train(before)
            missing = attributing.missing(self.queue.records())
            if missing == before:
                # The time was up, or these runs cannot be trained.
                if not self.loop.stop.level:
                    attributes.why_no_attribution = NOT_ALL_ENDED
                return

        if not missing:
            attribution = attributing.result(self.queue.records())
            attributes.attribution = attribution
            self.loop.observer.note("attribution", attribution.note)

    def _has_time(self, training_s: float) -> bool:
        return self.loop.deadline.has_time(self.later_s)(training_s)

    def _train(self, runs: Sequence[FinalRun], purpose: str = "", awaits_peers: bool = True) -> None:
        if self.loop.stop.level or not runs:
            return

        self._enqueue(runs)
        waiting = sum(record.status is TrialStatus.WAITING for record in self.queue.records())
        if waiting:
            noun = "run" if waiting == 1 else "runs"
            self.loop.observer.note("finals", f"{waiting} {noun} on fresh seeds {purpose or _PURPOSES[runs[0].stage]}")

        self.loop.run(self.queue, self.loop.deadline.has_time(self.later_s), awaits_peers=awaits_peers)
        if awaits_peers and not self.loop.stop.level and self.queue.is_abandoned():
            raise NobodyLeftError(self.judging.judged_on())

    @again_if_cut_off
    def _enqueue(self, runs: Sequence[FinalRun]) -> None:
        with exclusive(self.queue.storage, self.spec.name):
            for run in runs:
                self.queue.enqueue(run.params, role="final", arm=run.arm, seed=run.seed, stage=run.stage)


def _nothing_finished(trials: Sequence[TrialRecord]) -> Verdict:
    ends = Counter(str(trial.status) for trial in trials).most_common()
    counts = ", ".join(f"{count} {status}" for status, count in ends)
    return Verdict(VerdictWord.FAILED, f"none of {len(trials)} trials finished ({counts})")
