"""The page: its components, and what happens when a user chooses, clicks or uploads something.

The regions and their forecasts are computed once and shared by all users. Every action of a user triggers the same
event, `_Page.draw`, which draws everything that has changed. The browser does not send the next event before this one
is answered, so a late answer never shows an earlier choice. `draw` only looks up and draws, and it runs outside the
queue. Forecasts are computed in the queue, one at a time, so no click waits for another user's forecast. When a
forecast is ready, a signal makes the browser ask for it.
"""

from base64 import b64encode
from collections.abc import Mapping
from datetime import timedelta
from html import escape
from typing import Any
from uuid import uuid4

import gradio as gr
from gradio.components import Component

from solared_hf.app.alarm_table import alarm_table
from solared_hf.app.channels import NAMES
from solared_hf.app.forecasts import ForecastCache, PageForecast
from solared_hf.app.look import LIVE_SCRIPT, MAP_SCRIPT, TABLE_SCRIPT, VIEW, notice_script
from solared_hf.app.regions import Collection, Region, region_to_show
from solared_hf.app.tile_map import tile_map
from solared_hf.app.tile_report import tile_report
from solared_hf.app.uploads import MOST_MEGABYTES, TOO_LARGE, Uploads, read_upload, take_files
from solared_hf.errors import SolaredError
from solared_hf.forecasters.baselines import Persistence
from solared_hf.plotting.style import minute
from solared_hf.schema import NUM_TILES, TARGET_CHANNEL

TITLE = "Emerging active regions: forecast of every tile"
_UPLOAD_HINT = (
    "One Parquet file of the <code>timelines</code> config, or the three published npz files of a region, up to "
    f"{MOST_MEGABYTES} MB. Nobody else sees them, and they are deleted when you close the page."
)
# The server forgets an upload when the connection is lost, or when too many users have uploaded after this one.
_UPLOAD_GONE = "Your upload is not on the server any more. Upload it again."
_UPLOAD_KEY = "own-"
# Events that only look up and draw run at once; the others run in a queue, one at a time.
_AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
_IN_TURN: dict[str, Any] = {"concurrency_limit": 1, "show_progress": "hidden", "api_visibility": "private"}


def build_page(collection: Collection, forecasts: ForecastCache, uploads: Uploads) -> gr.Blocks:
    """Return the page of a collection of regions; the forecast of the first region is computed here."""
    return _Page(collection, forecasts, uploads).blocks


class _Page:
    """The components of the page, and the functions that answer its events."""

    def __init__(self, collection: Collection, forecasts: ForecastCache, uploads: Uploads):
        self.collection = collection
        self.forecasts = forecasts
        self.uploads = uploads
        self.first = collection.regions[collection.first]
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 600)) as self.blocks:
            self._lay_out()
            self._connect_events()

    def _lay_out(self) -> None:
        """Create the components, which show the first region."""
        forecast = self.forecasts.make(self.first)
        step, tile = self.first.first_view
        gr.HTML(_heading(self.collection, self.forecasts, forecast))
        with gr.Row(equal_height=True):
            self.region = gr.Dropdown(
                _choices(self.collection.regions), value=self.collection.first, label="Region", min_width=150
            )
            self.channel = gr.Dropdown(
                [(name, key) for key, name in NAMES.items()], value=TARGET_CHANNEL, label="Map of", min_width=220
            )
            self.time = gr.Slider(**_time_slider(self.first, step), elem_id="time", scale=2, min_width=280, buttons=[])
        with gr.Row():
            with gr.Column(min_width=330):
                tiles = tile_map(self.first, TARGET_CHANNEL, step, tile, forecast)
                shown = _with_shown_state(self.collection.first, tiles, forecast)
                self.map = gr.HTML(shown, js_on_load=MAP_SCRIPT, elem_id="map")
            with gr.Column(min_width=330):
                report = tile_report(self.first, step, tile, forecast)
                self.report = gr.HTML(report, js_on_load=LIVE_SCRIPT, elem_id="tile")
        with gr.Row():
            with gr.Column(min_width=330):
                self.alarms = gr.HTML(alarm_table(self.first, forecast), js_on_load=TABLE_SCRIPT, elem_id="alarms")
            with gr.Column(min_width=330):
                self.download = gr.HTML(_download(self.first, forecast), elem_id="download")
                gr.HTML(f"<h2>A region of your own</h2><p>{_UPLOAD_HINT}</p>")
                self.upload = gr.UploadButton("Upload a region", file_count="multiple", size="md")
                self.notice = gr.HTML("", js_on_load=notice_script(MOST_MEGABYTES), elem_id="notice")
        self.signal = gr.HTML("", js_on_load=None, visible="hidden")
        # What the browser shows; `VIEW` reads it there.
        self.view = gr.JSON(visible=False)

    def _connect_events(self) -> None:
        gr.on(
            [
                self.region.input,
                self.channel.input,
                self.time.input,
                self.map.select,
                self.alarms.select,
                self.signal.change,
            ],
            self.draw,
            [self.region, self.channel, self.time, self.view],
            [self.region, self.time, self.map, self.report, self.alarms, self.download, self.notice],
            js=VIEW,
            trigger_mode="always_last",
            **_AT_ONCE,
        )
        forecast: dict[str, Any] = {"fn": self.make_forecast, "inputs": self.region, "outputs": self.signal}
        self.region.input(**forecast, trigger_mode="multiple", concurrency_id="forecast", **_IN_TURN)
        uploaded = self.upload.upload(
            self.take_upload,
            self.upload,
            [self.notice, self.region, self.signal],
            concurrency_id="upload",
            **_IN_TURN,
        )
        uploaded.then(**forecast, concurrency_id="forecast", **_IN_TURN)
        self.notice.too_large(lambda: _refused(TOO_LARGE), None, self.notice, **_AT_ONCE)
        self.blocks.unload(self.forget_uploads)

    def draw(self, key: str, channel: str, step: float, view: dict, request: gr.Request) -> dict:
        """Return the new content of each component that has changed.

        Args:
            key: Key of the chosen region.
            channel: Key of the chosen channel, from `channels.NAMES`.
            step: Position of the time slider.
            view: What the browser shows, from the script `VIEW`.
            request: The request of the user's session.
        """
        changed: dict[Component, Any] = {}
        region = self._find(key, request)
        if region is None:
            key, region = self.collection.first, self.first
            changed[self.region] = gr.Dropdown(_choices(self.collection.regions), value=key)
            changed[self.notice] = _refused(_UPLOAD_GONE)
        forecast = self.forecasts.get(region)
        shown_key, _, shown_state = view["shown"].partition(" ")
        tile = _checked(view["tile"])
        if key == shown_key:
            step = _within(region, step)
            changed[self.time] = gr.Slider(label=_time_label(region, step))
        else:
            step, tile = region.first_view
            changed[self.time] = gr.Slider(**_time_slider(region, step))
        changed[self.map] = _with_shown_state(key, tile_map(region, channel, step, tile, forecast), forecast)
        changed[self.report] = tile_report(region, step, tile, forecast)
        if (key, _state(forecast)) != (shown_key, shown_state):
            changed[self.alarms] = alarm_table(region, forecast)
            changed[self.download] = _download(region, forecast)
        return changed

    def make_forecast(self, key: str, request: gr.Request) -> str:
        """Compute the forecast of the chosen region and return a new signal."""
        self.forecasts.make(self._find(key, request) or self.first)
        return _new_signal()

    def take_upload(self, paths: list[str], request: gr.Request) -> dict:
        """Read uploaded files and show the first region in them, or the reason why they are refused."""
        try:
            uploaded = {
                f"{_UPLOAD_KEY}{timeline.ar_number}": region_to_show(
                    self.forecasts.forecaster, timeline, f"AR{timeline.ar_number} (yours)"
                )
                for timeline in read_upload(take_files(paths))
            }
        except SolaredError as error:
            return {self.notice: _refused(str(error))}
        self.uploads.keep(_session(request), uploaded)
        choices = _choices({**uploaded, **self.collection.regions})
        return {
            self.notice: _accepted(uploaded),
            self.region: gr.Dropdown(choices, value=next(iter(uploaded))),
            self.signal: _new_signal(),
        }

    def forget_uploads(self, request: gr.Request) -> None:
        """Delete the regions that the user of a closed page has uploaded."""
        self.uploads.forget(_session(request))

    def _find(self, key: str, request: gr.Request) -> Region | None:
        return self.collection.regions.get(key) or self.uploads.of(_session(request)).get(key)


def _session(request: gr.Request) -> str:
    assert request.session_hash is not None  # Gradio names the session of every event of a page
    return request.session_hash


def _heading(collection: Collection, forecasts: ForecastCache, first: PageForecast) -> str:
    name = forecasts.forecaster.name
    ahead = f"{first.forecast.horizon / timedelta(hours=1):g} h ahead " if first.forecast else ""
    beside = "" if name == Persistence.name else ", beside persistence"
    simulated = '<p class="simulated">Simulated Sun: nothing here was observed.</p>' if collection.simulated else ""
    return (
        f"<h1>{TITLE}</h1>"
        f"<p>Continuum intensity of 63 tiles of SDO/HMI, forecast {ahead}by {escape(name)}{beside}. "
        f"Data: {escape(collection.name)}.</p>{simulated}"
    )


def _choices(regions: Mapping[str, Region]) -> list[tuple[str, str]]:
    return [(region.label, key) for key, region in regions.items()]


def _time_slider(region: Region, step: int) -> dict[str, Any]:
    """Return the arguments of the time slider; the slider counts steps, because gaps make the times uneven."""
    last = len(region.times) - 1
    return {"minimum": 0, "maximum": last, "step": 1, "value": step, "label": _time_label(region, step)}


def _time_label(region: Region, step: int) -> str:
    return f"Time: {minute(region.times[step])} TAI"


def _within(region: Region, step: float) -> int:
    """Return the nearest step of the region, because the slider may still belong to the region shown before."""
    return int(min(max(step, 0), len(region.times) - 1))


def _checked(tile: object) -> int:
    if not isinstance(tile, int) or tile not in range(NUM_TILES):
        raise gr.Error("The map has no such tile. Click a tile of the map.")
    return tile


def _state(forecast: PageForecast | None) -> str:
    return "pending" if forecast is None else "ready"


def _with_shown_state(key: str, tiles: str, forecast: PageForecast | None) -> str:
    """Return the map with a note of the region and the state of the forecast that the page shows with it."""
    return f'<div data-shown="{key} {_state(forecast)}">{tiles}</div>'


def _new_signal() -> str:
    """Return a text that was never sent before, so that the browser sees a change."""
    return uuid4().hex


def _download(region: Region, forecast: PageForecast | None) -> str:
    """Return a link that contains the whole file, so that no copy of the file lies on the server."""
    if forecast is None or forecast.forecast is None:
        return ""
    name, content = f"forecast_AR{region.timeline.ar_number}.parquet", b64encode(forecast.file).decode()
    link = f'<a class="download" download="{name}" href="data:application/vnd.apache.parquet;base64,{content}">'
    hint = f"<p>{name}: every tile and time, as <code>solared predict</code> writes it.</p>"
    return f"{link}Download the forecast</a>{hint}"


def _refused(sentence: str) -> str:
    return f'<p class="notice" role="alert">{escape(sentence)}</p>'


def _accepted(uploaded: Mapping[str, Region]) -> str:
    names = ", ".join(
        f"AR{region.timeline.ar_number} ({len(region.timeline):,} steps)" for region in uploaded.values()
    )
    return f'<p class="notice">Uploaded: {names}.</p>'
