"""How long the Hub may be silent: huggingface_hub sets no limit to most of what it asks, and would wait for ever."""

from functools import cache
from types import ModuleType

import wrapt

# A commit of many files takes the Hub minutes.
SECONDS_OF_SILENCE = 300.0


@cache
def limit_silence() -> None:
    """From now on, requests to the Hub fail after `SECONDS_OF_SILENCE` in which nothing came or went.

    It holds for all clients of this process, so it is for commands, not for those who import this package. It waits
    until huggingface_hub is imported, which takes a while.
    """
    wrapt.register_post_import_hook(_limit_clients, "huggingface_hub.utils._http")


def _limit_clients(http: ModuleType) -> None:
    def client():
        made = http.default_client_factory()
        hooks = made.event_hooks
        made.event_hooks = {**hooks, "request": [*hooks["request"], _limit]}
        return made

    http.set_client_factory(client)


def _limit(request) -> None:
    given = request.extensions.get("timeout") or {}
    limits = {what: given.get(what) or SECONDS_OF_SILENCE for what in ("connect", "read", "write")}
    request.extensions["timeout"] = {**given, **limits}
