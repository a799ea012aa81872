"""Start of the page: load the model and the regions, compute the first forecast, and serve."""

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

    from solared_hf.app.forecasts import ForecastCache
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
    """Serve the page until the process is interrupted.

    The page can be opened from this machine only, except in a Space on the Hub, where everybody can open it.

    Args:
        model: Baseline, model of the package, folder or repository, as in `load_forecaster`.
        dataset: Folder, or repository on the Hub; the simulated Sun by default.
        port: Port of the server; by default the value of GRADIO_SERVER_PORT, or 7860. 0 chooses a free port.
        model_revision, dataset_revision: Branch, tag or commit of a repository; `main` by default.

    Raises:
        SolaredError: If gradio is not installed, the port is in use, or the model or the dataset cannot be loaded.
    """
    check_installed()
    from solared_hf.app.uploads import Uploads

    port = int(os.environ.get("GRADIO_SERVER_PORT", DEFAULT_PORT)) if port is None else port
    with _listening(port) as listening, tempfile.TemporaryDirectory(prefix="solared_app_") as temporary:
        # Gradio stores each upload here until the page has read it.
        os.environ["GRADIO_TEMP_DIR"] = temporary
        collection, forecasts = load(model, dataset, model_revision, dataset_revision)
        server = page_server(collection, forecasts, Uploads())
        # Garbage collection skips what is loaded at start-up; scanning it would delay a click by half a second.
        gc.freeze()
        host, port = listening.getsockname()
        print(f"The page is at http://{host}:{port}; Ctrl-C stops it.", flush=True)
        # SIGTERM ends the process as Ctrl-C does, so that the temporary folder is deleted.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
        signal.signal(signal.SIGTERM, before)
        gc.unfreeze()


def check_installed() -> None:
    """Check that gradio is installed.

    Raises:
        SolaredError: If gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise SolaredError("The page needs gradio, which is not installed. Run pip install 'solared-hf[app]'.")


def load(
    model: str | Path, dataset: str | Path | None, model_revision: str | None, dataset_revision: str | None
) -> tuple["Collection", "ForecastCache"]:
    """Load the regions of the page and the forecaster; the arguments are the same as in `serve`.

    Raises:
        SolaredError: If the model or the dataset cannot be loaded, or the model cannot forecast any region.
    """
    from solared_hf.app.forecasts import ForecastCache
    from solared_hf.app.regions import regions_of_dataset, simulated_sun
    from solared_hf.data.loading import open_dataset
    from solared_hf.forecasters.base import load_forecaster

    if dataset is None and dataset_revision is not None:
        raise SolaredError("--dataset-revision is given without --dataset. Leave it out, or add --dataset.")
    forecaster = load_forecaster(model, model_revision)
    if dataset is None:
        collection = simulated_sun(forecaster)
    else:
        collection = regions_of_dataset(open_dataset(dataset, dataset_revision), forecaster)
    return collection, ForecastCache(forecaster, collection.alarm_scale_dn)


def page_server(collection: "Collection", forecasts: "ForecastCache", uploads: "Uploads") -> "uvicorn.Server":
    """Return a web server of the page, which sends no usage data; the first forecast is computed here."""
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
        # Keep no history of what users do, not even in their browser.
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        max_file_size=f"{MOST_MEGABYTES}mb",
    )
    # Without a time limit, the connections of open pages would keep the server from stopping.
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))


def _listening(port: int) -> socket.socket:
    """Return the socket of the server; connections wait until the server is ready."""
    # In a Space, users connect from other machines.
    host = "0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1"
    try:
        return socket.create_server((host, port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise SolaredError(
            f"The port {port} cannot be used ({reason}). Choose another port with --port, or stop the program that "
            "uses it."
        ) from error
