"""The page: what is on it, and what happens when somebody chooses, clicks or uploads something.

What everybody sees, the regions and their forecasts, is made once. Whatever a user does, one and the same event draws
what has changed by then: the browser sends no other before it has been answered, so no late answer shows what was
chosen before. It only looks up and draws, outside of the queue; forecasts are made in the queue, one at a time, so
that nobody's click waits for somebody's forecast. When one is there, a signal makes the browser ask for what is new.
"""

from base64 import b64encode
from collections.abc import Mapping
from datetime import timedelta
from html import escape
from uuid import uuid4

import gradio as gr

from solared_hf.app.alarm_table import alarm_table
from solared_hf.app.channels import NAMES
from solared_hf.app.forecasts import Forecasts, Made
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
# Connections are lost, and of users without number not everything can be kept.
_GONE = "Your upload is not on the server any more; upload it once more."
_OWN = "own-"


def build_page(collection: Collection, forecasts: Forecasts, uploads: Uploads) -> gr.Blocks:
    """The page of a collection of regions, with the forecast of the first one made already."""
    first = collection.regions[collection.first]
    made = forecasts.make(first)
    step, tile = first.first_view

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 600)) as page:
        gr.HTML(_heading(collection, forecasts, made))
        with gr.Row(equal_height=True):
            choice = gr.Dropdown(_choices(collection.regions), value=collection.first, label="Region", min_width=150)
            channel = gr.Dropdown(
                [(name, key) for key, name in NAMES.items()], value=TARGET_CHANNEL, label="Map of", min_width=220
            )
            time = gr.Slider(**_time_settings(first, step), elem_id="time", scale=2, min_width=280, buttons=[])
        with gr.Row():
            with gr.Column(min_width=330):
                drawn = _drawn(collection.first, tile_map(first, TARGET_CHANNEL, step, tile, made), made)
                map_ = gr.HTML(drawn, js_on_load=MAP_SCRIPT, elem_id="map")
            with gr.Column(min_width=330):
                report = gr.HTML(tile_report(first, step, tile, made), js_on_load=LIVE_SCRIPT, elem_id="tile")
        with gr.Row():
            with gr.Column(min_width=330):
                alarms = gr.HTML(alarm_table(first, made), js_on_load=TABLE_SCRIPT, elem_id="alarms")
            with gr.Column(min_width=330):
                download = gr.HTML(_download(first, made), elem_id="download")
                gr.HTML(f"<h2>A region of your own</h2><p>{_UPLOAD_HINT}</p>")
                upload = gr.UploadButton("Upload a region", file_count="multiple", size="md")
                notice = gr.HTML("", js_on_load=notice_script(MOST_MEGABYTES), elem_id="notice")
        signal = gr.HTML("", js_on_load=None, visible="hidden")
        # What the browser shows, which `VIEW` finds there.
        view = gr.JSON(visible=False)

        def find(key: str, request: gr.Request) -> Region | None:
            return collection.regions.get(key) or uploads.of(request.session_hash).get(key)

        def draw(key: str, channel: str, step: float, view: dict, request: gr.Request) -> dict:
            """What has changed: the chosen region, channel, time or tile, or the forecast is there."""
            changed, chosen = {}, find(key, request)
            if chosen is None:
                key, chosen = collection.first, first
                changed |= {choice: gr.Dropdown(_choices(collection.regions), value=key), notice: _refused(_GONE)}
            made = forecasts.known(chosen)
            shown_key, _, shown_state = view["shown"].partition(" ")
            step, tile = _within(chosen, step), _checked(view["tile"])
            settings = {"label": _time_label(chosen, step)}
            if key != shown_key:
                step, tile = chosen.first_view
                settings = _time_settings(chosen, step)
            changed |= {
                time: gr.Slider(**settings),
                map_: _drawn(key, tile_map(chosen, channel, step, tile, made), made),
                report: tile_report(chosen, step, tile, made),
            }
            if (key, _state(made)) != (shown_key, shown_state):
                changed |= {alarms: alarm_table(chosen, made), download: _download(chosen, made)}
            return changed

        def make(key: str, request: gr.Request) -> str:
            forecasts.make(find(key, request) or first)
            return _signal()

        def take_upload(paths: list[str], request: gr.Request) -> dict:
            try:
                timelines = read_upload(take_files(paths))
                own = {
                    f"{_OWN}{timeline.ar_number}": region_to_show(
                        forecasts.forecaster, timeline, f"AR{timeline.ar_number} (yours)"
                    )
                    for timeline in timelines
                }
            except SolaredError as error:
                return {notice: _refused(str(error))}
            uploads.keep(request.session_hash, own)
            choices = _choices({**own, **collection.regions})
            return {notice: _accepted(own), choice: gr.Dropdown(choices, value=next(iter(own))), signal: _signal()}

        def forget(request: gr.Request) -> None:
            uploads.forget(request.session_hash)

        at_once = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        in_turn = {"concurrency_limit": 1, "show_progress": "hidden", "api_visibility": "private"}
        gr.on(
            [choice.input, channel.input, time.input, map_.select, alarms.select, signal.change],
            draw,
            [choice, channel, time, view],
            [choice, time, map_, report, alarms, download, notice],
            js=VIEW,
            trigger_mode="always_last",
            **at_once,
        )
        choice.input(make, choice, signal, trigger_mode="multiple", concurrency_id="forecast", **in_turn)
        taken = upload.upload(take_upload, upload, [notice, choice, signal], concurrency_id="upload", **in_turn)
        taken.then(make, choice, signal, concurrency_id="forecast", **in_turn)
        notice.too_large(lambda: _refused(TOO_LARGE), None, notice, **at_once)
        page.unload(forget)
    return page


def _heading(collection: Collection, forecasts: Forecasts, made: Made) -> str:
    name = forecasts.forecaster.name
    ahead = f"{made.forecast.horizon / timedelta(hours=1):g} h ahead " if made.forecast else ""
    beside = "" if name == Persistence.name else ", beside persistence"
    simulated = '<p class="simulated">Simulated Sun: nothing here was observed.</p>' if collection.simulated else ""
    return (
        f"<h1>{TITLE}</h1>"
        f"<p>Continuum intensity of 63 tiles of SDO/HMI, forecast {ahead}by {escape(name)}{beside}. "
        f"Data: {escape(collection.name)}.</p>{simulated}"
    )


def _choices(regions: Mapping[str, Region]) -> list[tuple[str, str]]:
    return [(region.label, key) for key, region in regions.items()]


def _time_settings(region: Region, step: int) -> dict:
    """The slider of a region's times. It counts steps, because gaps make times uneven."""
    last = len(region.times) - 1
    return {"minimum": 0, "maximum": last, "step": 1, "value": step, "label": _time_label(region, step)}


def _time_label(region: Region, step: int) -> str:
    return f"Time: {minute(region.times[step])} TAI"


def _within(region: Region, step: float) -> int:
    """The step, or the nearest that the region has: the slider may still be that of the region before."""
    return int(min(max(step, 0), len(region.times) - 1))


def _checked(tile: object) -> int:
    if not isinstance(tile, int) or tile not in range(NUM_TILES):
        raise gr.Error("There is no such tile; click one of the map.")
    return tile


def _state(made: Made | None) -> str:
    return "pending" if made is None else "made"


def _drawn(key: str, map_of_tiles: str, made: Made | None) -> str:
    """The map with a note of what the page shows with it."""
    return f'<div data-shown="{key} {_state(made)}">{map_of_tiles}</div>'


def _signal() -> str:
    """Something that was never sent before, so that the browser takes note."""
    return uuid4().hex


def _download(region: Region, made: Made | None) -> str:
    """The file in the link itself, so that no copy of it lies on the server."""
    if made is None or made.forecast is None:
        return ""
    name, content = f"forecast_AR{region.timeline.ar_number}.parquet", b64encode(made.file).decode()
    link = f'<a class="download" download="{name}" href="data:application/vnd.apache.parquet;base64,{content}">'
    hint = f"<p>{name}: every tile and time, as <code>solared predict</code> writes it.</p>"
    return f"{link}Download the forecast</a>{hint}"


def _refused(sentence: str) -> str:
    return f'<p class="notice" role="alert">{escape(sentence)}</p>'


def _accepted(own: Mapping[str, Region]) -> str:
    names = ", ".join(f"AR{region.timeline.ar_number} ({len(region.timeline):,} steps)" for region in own.values())
    return f'<p class="notice">Uploaded: {names}.</p>'
