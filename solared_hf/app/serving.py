"""Starting the page: the model and the regions are loaded, the first forecast is made, and then users may come."""

import gc
import os
import signal
import socket
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from solared_hf.errors import SolaredError

if TYPE_CHECKING:
    import uvicorn

    from solared_hf.app.forecasts import Forecasts
    from solared_hf.app.regions import Collection
    from solared_hf.app.uploads import Uploads

DEFAULT_MODEL = "solared-quantile-trajectory"
DEFAULT_PORT = 7860


def serve(
    model: str | Path = DEFAULT_MODEL,
    dataset: str | Path | None = None,
    port: int | None = None,
    model_revision: str | None = None,
    dataset_revision: str | None = None,
) -> None:
    """Serve the page until the process is interrupted: on this machine alone, or from a Space on the Hub to everybody.

    Args:
        model: whatever `load_forecaster` takes.
        dataset: whatever `load_timelines` takes; the embedded simulated Sun by default.
        port: 7860 by default, or what the environment variable GRADIO_SERVER_PORT says; 0 for any that is free.
        model_revision, dataset_revision: branch, tag or commit of a repository.

    Raises:
        SolaredError: gradio is not installed, the port is in use, or the model or the dataset cannot be loaded.
    """
    check_installed()
    from solared_hf.app.uploads import Uploads

    port = int(os.environ.get("GRADIO_SERVER_PORT", DEFAULT_PORT)) if port is None else port
    with _listening(port) as listening, tempfile.TemporaryDirectory(prefix="solared_app_") as temporary:
        # Whatever is uploaded lies there until it has been read, a moment later.
        os.environ["GRADIO_TEMP_DIR"] = temporary
        collection, forecasts = load(model, dataset, model_revision, dataset_revision)
        server = page_server(collection, forecasts, Uploads())
        # Collections of garbage leave alone what stays: to go through it would keep a click waiting for half a second.
        gc.freeze()
        host, port = listening.getsockname()
        print(f"The page is at http://{host}:{port}; Ctrl-C stops it.", flush=True)
        # Whoever stops the process otherwise than by Ctrl-C leaves no files behind either.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
        signal.signal(signal.SIGTERM, before)
        gc.unfreeze()


def check_installed() -> None:
    """Refuse to go on without gradio.

    Raises:
        SolaredError: it is not installed.
    """
    if find_spec("gradio") is None:
        raise SolaredError("The page needs gradio; install it with pip install 'solared-hf[app]'.")


def load(
    model: str | Path, dataset: str | Path | None, model_revision: str | None, dataset_revision: str | None
) -> tuple["Collection", "Forecasts"]:
    """The regions of the page and who forecasts them; the arguments are those of `serve`.

    Raises:
        SolaredError: one of them cannot be loaded, or they do not fit together.
    """
    from solared_hf.app.forecasts import Forecasts
    from solared_hf.app.regions import regions_of_dataset, simulated_sun
    from solared_hf.forecasters.base import load_forecaster

    if dataset is None and dataset_revision is not None:
        raise SolaredError("--dataset-revision is of no use without --dataset; leave it out, or name a repository.")
    forecaster = load_forecaster(model, model_revision)
    if dataset is None:
        collection = simulated_sun(forecaster)
    else:
        collection = regions_of_dataset(dataset, dataset_revision, forecaster)
    return collection, Forecasts(forecaster, collection.alarm_scale_dn)


def page_server(collection: "Collection", forecasts: "Forecasts", uploads: "Uploads") -> "uvicorn.Server":
    """A web server of the page alone, which tells nobody but its users anything; the first forecast is made here."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    from solared_hf.app.look import STYLE_SHEET, THEME
    from solared_hf.app.page import build_page
    from solared_hf.app.uploads import MOST_MEGABYTES

    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        build_page(collection, forecasts, uploads),
        path="/",
        theme=THEME,
        css=STYLE_SHEET,
        footer_links=[],
        # Nothing of what users do is kept, in their browser neither.
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        max_file_size=f"{MOST_MEGABYTES}mb",
    )
    # Open pages hold their connection, and would keep the server from stopping.
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))


def _listening(port: int) -> socket.socket:
    """The socket of the server; users that come before it is ready wait."""
    # In a Space, users come from elsewhere.
    host = "0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1"
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise SolaredError(
            f"The port {port} cannot be used ({os.strerror(error.errno)}); choose another with --port, or stop the "
            "program that uses it."
        ) from error
