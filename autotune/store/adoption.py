"""Going on with a study from its mirror, on a machine that has nothing of it or an earlier state."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from autotune.core.errors import UserError
from autotune.core.text import moment
from autotune.store.mirror import Beat, Manifest, Mirror, TornError, remove_folder
from autotune.store.run_directory import RunDirectory, log_event
from autotune.store.snapshots import State, another_study, state_of
from autotune.store.sqlite_file import reader_of


def adopt(run: RunDirectory, folder: Path, say: Callable[[str], None], beat: Beat = lambda: None) -> bool:
    """Put the newest whole snapshot of a study in the place of its run directory, if it is of a later state.

    The run directory wins otherwise: it is what the snapshot was taken of, or has gone on without its mirror. Which one
    is later is decided by the trials that ended and the evaluations that are stored, which both databases hold; clocks
    differ between machines, and files are as new as their copy. What was in the run directory is set aside within it.

    Args:
        run: The run directory.
        folder: The mirror's folder, in which each study has one of its name.
        say: Takes a line for a person.
        beat: Called after each piece of work.

    Returns:
        Whether a snapshot was adopted.

    Raises:
        UserError: If the mirror holds another study of that name, or no whole snapshot where there is no study here;
            with exit code 5 if another process runs the study.
        OSError: If the drive or the disk fails.
    """
    _require_usable(folder, run)
    _mend_interrupted(run)
    mirror = Mirror(folder / run.name)
    # Nobody else may begin in the folder that is about to be replaced; where there is none, there is nothing to hold.
    held = run.held() if run.root.exists() else contextlib.nullcontext()
    with held:
        return _adopt_newest(run, mirror, say, beat)


def _adopt_newest(run: RunDirectory, mirror: Mirror, say: Callable[[str], None], beat: Beat) -> bool:
    manifests, torn = mirror.manifests()
    if not manifests and not torn:
        return False

    here = _state_here(run)
    if here is not None and manifests and manifests[0].begun != here.begun:
        raise UserError(another_study(mirror, manifests[0]))

    later = [manifest for manifest in manifests if here is None or manifest.done > here.done]
    if not later and here is not None:
        return False
    for name, fault in sorted(torn.items()):
        say(f"snapshot {name} in {mirror.root} is not whole and is passed over: {fault}")

    for manifest in later:
        restored = run.root.with_name(f".{run.name}.restored.tmp")
        try:
            mirror.restore(manifest, restored, beat)
            _require_sound(restored)
        except TornError as error:
            remove_folder(restored)
            torn[manifest.name] = str(error)
            when = moment(manifest.taken_s)
            say(f"snapshot {manifest.name} of {when} in {mirror.root} is not whole and is passed over: {error}")
            continue

        _replace(run, restored)
        told = _describe(manifest, mirror)
        log_event(run, "mirror", told)
        say(told)
        return True

    if here is None:
        # To begin anew would be to lose what may yet be loaded, and its snapshots would take the place of these.
        faults = "; ".join(f"{name}: {fault}" for name, fault in sorted(torn.items(), reverse=True))
        raise UserError(
            f"no snapshot in {mirror.root} is whole ({faults}): wait until the drive has loaded all of it and run "
            "again, or name another folder with --mirror to begin the study anew",
            3,
        )
    return False


def _require_usable(folder: Path, run: RunDirectory) -> None:
    """Make the mirror's folder, if the folder around it is there.

    Raises:
        UserError: If that is missing, as where a drive is not mounted: what is written there would stay on this
            machine. Or if the study itself is kept there.
    """
    if folder / run.name == run.root.absolute():
        raise UserError(f"--mirror {folder} is where the study itself is kept; name a folder on another disk")
    if not folder.exists() and not folder.parent.exists():
        raise UserError(
            f"--mirror {folder}: there is no folder {folder.parent}; is the drive mounted? Mount it, or name another "
            "folder"
        )
    if folder.is_file():
        raise UserError(f"--mirror {folder} is a file; name a folder")
    folder.mkdir(exist_ok=True)


def _state_here(run: RunDirectory) -> State | None:
    """Return the state of the study that is in the run directory, None if there is none.

    Raises:
        UserError: If its database cannot be read; what can be done is told by whoever opens it.
    """
    try:
        if not run.database.stat().st_size:
            return None
    except FileNotFoundError:
        return None

    try:
        with reader_of(run.database) as connect, contextlib.closing(connect()) as connection:
            return state_of(connection)
    except sqlite3.Error as error:
        raise UserError(f"{run.database} cannot be read ({error}), so that its mirror is left alone", 3) from None


def _require_sound(restored: Path) -> None:
    """Refuse a snapshot without the two files that make it a study.

    Raises:
        TornError: If one is missing.
    """
    run = RunDirectory(restored)
    for path in (run.database, run.spec):
        if not path.exists():
            raise TornError(f"{path.name} is missing")


def _replace(run: RunDirectory, restored: Path) -> None:
    """Put a restored folder in the place of the run directory; after a kill in between, the next start ends it."""
    before = _before(run)
    if run.root.exists():
        os.rename(run.root, before)
    os.rename(restored, run.root)
    _mend_interrupted(run)


def _mend_interrupted(run: RunDirectory) -> None:
    """Put what was in the run directory before where it belongs: into the folder that took its place, or back."""
    before = _before(run)
    if not before.exists():
        return
    if not run.root.exists():
        os.rename(before, run.root)
        return

    kept = run.root / "set_aside"
    kept.mkdir(exist_ok=True)
    os.rename(before, kept / f"before-the-mirror-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")


def _before(run: RunDirectory) -> Path:
    return run.root.with_name(f".{run.name}.before.tmp")


def _describe(manifest: Manifest, mirror: Mirror) -> str:
    trials = manifest.done.trials
    ended = "1 training" if trials == 1 else f"{trials} trainings"
    return (
        f"going on from the snapshot of {moment(manifest.taken_s)} in {mirror.root}, taken on {manifest.host}: "
        f"{ended} had ended"
    )
