"""Explain errors of the clients of the Hub: what is wrong, and what to do."""

from huggingface_hub import constants, is_offline_mode
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from solared_hf.errors import reason_of

_UNAUTHORISED, _FORBIDDEN, _CONFLICT, _STALE_PARENT, _TOO_MANY = 401, 403, 409, 412, 429

NOT_LOGGED_IN = "You are not logged in to the Hub. Run `hf auth login` with a token that can write, or set HF_TOKEN."
_UNKNOWN_TOKEN = (
    "The Hub does not know your token. Run `hf auth login` with a new token, and unset HF_TOKEN, which has priority "
    "if it is set."
)


def explain(error: BaseException, repo_id: str, revision: str | None = None) -> str | None:
    """Return why a repository could not be read, and what to do; None if the Hub is not the cause.

    Args:
        error: The error that a client raised.
        repo_id: The requested repository, `owner/name`.
        revision: The requested branch, tag or commit; `main` by default.
    """
    # The client wraps the cause of a failed download.
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    match error:
        case RemoteEntryNotFoundError():
            return None  # the repository exists, but holds something else
        case HFValidationError():
            return f"{repo_id} is not a valid repository name ({reason_of(error)}). Use the form owner/name."
        case GatedRepoError():
            return f"{repo_id} is gated. Ask for access on its page, then run `hf auth login`."
        case RepositoryNotFoundError():
            return (
                f"There is no {repo_id} on the Hub that you can read. Check the name, and if the repository is "
                "private, run `hf auth login` with a token that can read it."
            )
        case RevisionNotFoundError():
            return f"{repo_id} has no revision {revision}. Name a branch, tag or commit of the repository."
        case HfHubHTTPError() if error.response.status_code == _UNAUTHORISED:
            return _UNKNOWN_TOKEN
        case EntryNotFoundError() | OfflineModeIsEnabled() if is_offline_mode():
            return (
                f"{repo_id} is not complete on this machine, and HF_HUB_OFFLINE is set. Unset HF_HUB_OFFLINE, or run "
                f"`hf download` on a machine with a network and copy {constants.HF_HUB_CACHE}."
            )
        case HTTPError() | EntryNotFoundError() | OfflineModeIsEnabled():
            return (
                f"{repo_id} could not be read from the Hub ({reason_of(error)}). Check the connection and run the "
                "same command again: finished downloads are kept."
            )
    return None


def explain_push(error: BaseException, repo_id: str) -> str:
    """Return why a push to a repository failed, and what to do.

    Args:
        error: The error that a client raised.
        repo_id: The repository, `owner/name`.
    """
    reason, status = reason_of(error), error.response.status_code if isinstance(error, HfHubHTTPError) else None
    match error:
        case RepositoryNotFoundError() | HFValidationError():
            return explain(error, repo_id) or reason
        case BadRequestError():
            return _refused(repo_id, reason)
        case HfHubHTTPError() if status in (_UNAUTHORISED, _FORBIDDEN, _CONFLICT, _STALE_PARENT, _TOO_MANY):
            return {
                _UNAUTHORISED: _UNKNOWN_TOKEN,
                _FORBIDDEN: may_not_write(repo_id, reason),
                _CONFLICT: f"Somebody else changed {repo_id} at the same time. Run the same command again.",
                _STALE_PARENT: f"Somebody else pushed to {repo_id} at the same time, so nothing of your push is "
                "visible there. Look at their changes, and run the same command again.",
                _TOO_MANY: f"The Hub got too many requests ({reason}). Run the same command again in some minutes.",
            }[status]
        case OSError(filename=str() as filename):
            return f"{filename} could not be read ({error.strerror}). Make it readable and run the same command again."
        case HTTPError() | OSError():
            return (
                f"{repo_id} could not be pushed ({reason}). Check the connection to the Hub and run the same command "
                "again: finished uploads are not repeated."
            )
        case UnicodeError():
            return _UNKNOWN_TOKEN
    return _refused(repo_id, reason)


def _refused(repo_id: str, reason: str) -> str:
    return f"The Hub refuses the content of {repo_id} ({reason}). Correct it and run the same command again."


def may_not_write(repo_id: str, reason: str | None = None) -> str:
    """Return the message for a user who cannot write to the repositories of the owner."""
    owner = repo_id.partition("/")[0]
    quoted = f" ({reason})" if reason else ""
    return (
        f"Your token cannot write to {owner}{quoted}. Use a token with write access, ask {owner} for access, or "
        "choose another --repo-id."
    )
