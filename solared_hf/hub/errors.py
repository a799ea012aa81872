"""What keeps a repository on the Hub from being read or written, as one sentence with the cure."""

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

NOT_LOGGED_IN = "The Hub has to know who you are; run `hf auth login` with a token that may write, or set HF_TOKEN."
_UNKNOWN_TOKEN = (
    "The Hub does not know your token; run `hf auth login` with a new one, and mind that HF_TOKEN, where it is set, "
    "goes before it."
)


def explain(error: BaseException, repo_id: str, revision: str | None = None) -> str | None:
    """Why the Hub's clients could not read a repository, and what to do; None where the Hub is not to blame.

    Args:
        error: what a client raised.
        repo_id: the repository that was asked for, `owner/name`.
        revision: the branch, tag or commit that was asked for; `main` by default.
    """
    # The client wraps what keeps it from downloading.
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    match error:
        case RemoteEntryNotFoundError():
            return None  # the repository is there, and is another one than was expected
        case HFValidationError():
            return f"{repo_id} is no name of a repository ({reason_of(error)}); name one as owner/name."
        case GatedRepoError():
            return f"{repo_id} is open to those only whom its owner lets in; ask on its page, then `hf auth login`."
        case RepositoryNotFoundError():
            return (
                f"There is no {repo_id} on the Hub that you may read; check its name, and if it is private, run "
                "`hf auth login` with a token that may read it."
            )
        case RevisionNotFoundError():
            return f"{repo_id} has no revision {revision}; name a branch, tag or commit that its page shows."
        case HfHubHTTPError() if error.response.status_code == _UNAUTHORISED:
            return _UNKNOWN_TOKEN
        case EntryNotFoundError() | OfflineModeIsEnabled() if is_offline_mode():
            return (
                f"{repo_id} is not on this machine, or not all of it, and HF_HUB_OFFLINE keeps the machine offline. "
                "Unset it, or fetch the repository by `hf download` where there is a network and copy "
                f"{constants.HF_HUB_CACHE}."
            )
        case HTTPError() | EntryNotFoundError() | OfflineModeIsEnabled():
            return (
                f"{repo_id} could not be read from the Hub ({reason_of(error)}); check the connection and run the "
                "same again: what has arrived is kept."
            )
    return None


def explain_push(error: BaseException, repo_id: str) -> str:
    """Why something could not be pushed to a repository, and what to do.

    Args:
        error: what a client raised.
        repo_id: the repository, `owner/name`.
    """
    reason, status = reason_of(error), error.response.status_code if isinstance(error, HfHubHTTPError) else None
    match error:
        case RepositoryNotFoundError() | HFValidationError():
            return explain(error, repo_id)
        case BadRequestError():
            return f"The Hub refuses the content of {repo_id} ({reason}); mend it and run the same command again."
        case HfHubHTTPError() if status in (_UNAUTHORISED, _FORBIDDEN, _CONFLICT, _STALE_PARENT, _TOO_MANY):
            return {
                _UNAUTHORISED: _UNKNOWN_TOKEN,
                _FORBIDDEN: may_not_write(repo_id, reason),
                _CONFLICT: f"{repo_id} was changed by somebody else at the same time; run the same command again.",
                _STALE_PARENT: f"Somebody else pushed to {repo_id} at the same time, and nothing of yours is visible "
                "there; look at what they changed, and run the same command again.",
                _TOO_MANY: f"The Hub has been asked too often ({reason}); run the same command again in some minutes.",
            }[status]
        case OSError(filename=str() as filename):
            return f"{filename} could not be read ({error.strerror}); mend this and run the same command again."
        case HTTPError() | OSError():
            return (
                f"{repo_id} could not be pushed ({reason}); check the connection to the Hub and run the same command "
                "again: what has been uploaded is not uploaded twice."
            )
        case UnicodeError():
            return _UNKNOWN_TOKEN
    return f"The Hub refuses the content of {repo_id} ({reason}); mend it and run the same command again."


def may_not_write(repo_id: str, reason: str | None = None) -> str:
    """The sentence for who has no right to write to the owner's repositories."""
    owner = repo_id.partition("/")[0]
    quoted = f" ({reason})" if reason else ""
    return (
        f"Your token may not write to {owner}{quoted}; use one with write access, ask {owner} to let you in, or "
        "choose another --repo-id."
    )
