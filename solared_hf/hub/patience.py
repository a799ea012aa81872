"""A time limit for answers of the Hub, because huggingface_hub sets no limit for most requests."""

from functools import cache
from types import ModuleType

import wrapt

# The Hub needs minutes for a commit of many files.
SECONDS_OF_SILENCE = 300.0


@cache
def limit_silence() -> None:
    """Make requests to the Hub fail if no data come or go for `SECONDS_OF_SILENCE`.

    The limit holds for all clients of this process, so only commands call this, not `import solared_hf`. The hook is
    installed when huggingface_hub is imported, because the import takes a while.
    """
    wrapt.register_post_import_hook(_limit_clients, "huggingface_hub.utils._http")


def _limit_clients(http: ModuleType) -> None:
    def client():
        limited = http.default_client_factory()
        hooks = limited.event_hooks
        limited.event_hooks = {**hooks, "request": [*hooks["request"], _limit]}
        return limited

    http.set_client_factory(client)


def _limit(request) -> None:
    given = request.extensions.get("timeout") or {}
    limits = {what: given.get(what) or SECONDS_OF_SILENCE for what in ("connect", "read", "write")}
    request.extensions["timeout"] = {**given, **limits}
