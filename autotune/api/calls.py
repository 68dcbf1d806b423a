"""`autotune.run`, `autotune.tune` and `autotune.load`: a study by one call, as the command line runs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.api.forms import Changes, changes_text, study_text
from autotune.api.tuned import Tuned
from autotune.cli.launch import MIRROR_MINUTES
from autotune.core.errors import UserError

if TYPE_CHECKING:
    from autotune.study.study_file import Study

_SOURCE = Path("autotune.tune")
"""What messages name instead of a study file."""


def run(
    study: str | Path,
    *,
    hours: float | None = None,
    until: str | None = None,
    trials: int | None = None,
    seed: int | None = None,
    out: str | Path = "runs",
    device: str = "auto",
    set: Changes | None = None,
    session_hours: float | None = None,
    mirror: str | Path | None = None,
    mirror_minutes: float = MIRROR_MINUTES,
) -> Tuned:
    """Run a study from its search to its report, or resume it: `autotune run`.

    Ctrl-C, or a kernel's interrupt, parks it: it stops after the next evaluation, and the same call resumes it.

    Args:
        study: A study file, or the name or folder of a study that was begun.
        hours: Finish everything within this many hours.
        until: Finish everything by this time of day, "07:00".
        trials: Run at most this many trials.
        seed: Seed of the search trials.
        out: Folder that holds one run directory for each study.
        device: "auto", "cpu", "cuda" or "cuda:1".
        set: Changes of the study file: {"budget.tokens": 1_000_000}, or assignments in TOML as `--set` takes them.
        session_hours: The session ends within so many hours, as on hosted notebooks: park before. `hours` then counts
            those of all sessions.
        mirror: Keep snapshots of the study in this folder, and go on from them where it is not in `out`.
        mirror_minutes: Minutes between two snapshots.

    Returns:
        The study; its `state` says whether it is done, was parked, or has no trial that finished.

    Raises:
        UserError: If it cannot begin or go on; what was done before stays usable.
    """
    from autotune.api.work import faults_told, hosting_of, require_known_device, work
    from autotune.cli.launch import make_options, night_options
    from autotune.cli.options import deadline_of, folder_to_run, load_study

    require_known_device(device)
    name, runs, changes = str(study), Path(out), changes_text(set)
    hosting = hosting_of(session_hours, mirror, mirror_minutes)
    with faults_told():
        hosting.adopt_named(name, runs)
        loaded = load_study(name, runs, changes, trials=trials, seed=seed)
        root = folder_to_run(name, runs, loaded, changes)
        hosting.adopt(root)
        deadline = deadline_of(loaded, hours, until)
        options = make_options(loaded, runs, device, "", deadline, hosting, night_options(hours, until))

    work(loaded, root, options, hosting, lambda session: session.work())
    return Tuned(root, loaded.spec.storage)


def tune(
    train: Callable[..., Any],
    space: Mapping[str, Any],
    *,
    tokens: int,
    base: Mapping[str, Any] | None = None,
    metric: Mapping[str, Any] | None = None,
    trials: int | None = None,
    hours: float | None = None,
    until: str | None = None,
    name: str = "",
    out: str | Path = "runs",
    device: str = "auto",
    session_hours: float | None = None,
    mirror: str | Path | None = None,
    mirror_minutes: float = MIRROR_MINUTES,
    **tables: Any,
) -> Tuned:
    """Search for good settings of a training of one's own, or resume that search.

    A function of an imported module is named in the study. One that a notebook or a script defines is stored in the
    study's folder, with what it uses, for the processes that train; a script needs no `if __name__ == "__main__"`.
    The same call resumes the study; where the function, or what it uses, has changed, it is refused as other settings.

    Args:
        train: A function of a config, the tokens to train on, and `report`: see `autotune.study.trainer_interface`.
        space: What is searched: by a setting's dotted path, a pair (low, high), a list of choices, an Optuna
            distribution, or a mapping such as {"low": 0.001, "high": 0.1, "log": True}.
        tokens: Training tokens of one trial.
        base: The default settings, nested; those that are left out are the config type's.
        metric: What the function reports, such as {"name": "accuracy", "direction": "maximize"}: see
            `trainer_interface.MetricDeclaration`. By default what its module declares, or else a loss.
        trials: Run at most this many trials.
        hours: Finish everything within this many hours.
        until: Finish everything by this time of day, "07:00".
        name: The study's name; by default the function's.
        out: Folder that holds one run directory for each study.
        device: "auto", "cpu", "cuda" or "cuda:1".
        session_hours: The session ends within so many hours, as on hosted notebooks: park before. `hours` then counts
            those of all sessions.
        mirror: Keep snapshots of the study in this folder, and go on from them where it is not in `out`.
        mirror_minutes: Minutes between two snapshots.
        tables: Whatever else a study file may have, such as `seed=3`, `finals={"prove_seeds": 8}` or
            `sampler={"name": "tpe"}`.

    Returns:
        The study; its `state` says whether it is done, was parked, or has no trial that finished.

    Raises:
        UserError: If it cannot begin or go on; what was done before stays usable.
    """
    from autotune.api.work import faults_told, hosting_of, require_known_device, work
    from autotune.cli.launch import make_options, night_options
    from autotune.cli.options import deadline_of
    from autotune.study.stored_function import is_importable, store

    require_known_device(device)
    if not callable(train):
        raise UserError(f"train is {train!r}; give a function of a config, the tokens to train on, and report")

    for table, written in (("budget", tables.get("budget", {})), ("metric", metric or {})):
        if not isinstance(written, Mapping):
            raise UserError(f"{table} is {written!r}; write a mapping, with the keys that a study file has there")

    budget = {**tables.pop("budget", {}), "tokens": tokens}
    if trials is not None:
        budget["trials"] = trials
    content = {"name": name or _name_of(train), "budget": budget, "base": base or {}, **tables}

    hosting = hosting_of(session_hours, mirror, mirror_minutes)
    with faults_told():
        stored = None if metric is None and is_importable(train) else store(train, metric)
        if stored is None:
            content["trainer"] = f"{train.__module__}:{train.__qualname__}"
        else:
            content["trainer"] = stored.trainer
            stored.make_known()

        study = _load(study_text(content, space))
        root = Path(out) / study.spec.name
        deadline = deadline_of(study, hours, until)
        options = make_options(study, root.parent, device, "", deadline, hosting, night_options(hours, until))
        hosting.adopt(root)
        if stored is not None:
            stored.write(root)

    work(study, root, options, hosting, lambda session: session.work())
    return Tuned(root, study.spec.storage)


def load(study: str | Path, *, out: str | Path = "runs", storage: str = "") -> Tuned:
    """Return a study that was begun, whether it runs or not.

    Args:
        study: Its folder, `runs/NAME`, or its name.
        out: Folder of the run directories.
        storage: URL of the database that it shares with other machines, if it does; by default OPTUNA_STORAGE.

    Raises:
        UserError: If there is no study, or it cannot be read.
    """
    from autotune.cli.options import named_storage, run_directory

    root = run_directory(str(study), Path(out))
    found = Tuned(root, named_storage(str(study), Path(out), storage))
    _ = found.record  # it raises if there is none
    return found


def _name_of(train: Callable[..., Any]) -> str:
    name = getattr(train, "__name__", "")
    if not name.isidentifier():
        raise UserError('the function has no name of its own to call the study by; give one: name="my-study"')
    return name.lower().replace("_", "-").strip("-")


def _load(text: str) -> Study:
    from autotune.study.errors import StudyFileError
    from autotune.study.study_file import load_text

    try:
        return load_text(text, _SOURCE)
    except StudyFileError as error:
        # Nobody has written the lines that these numbers count.
        message = re.sub(rf"^{re.escape(str(_SOURCE))}:\d+ ", f"{_SOURCE}: ", str(error), flags=re.MULTILINE)
        raise UserError(message, error.exit_code) from None
