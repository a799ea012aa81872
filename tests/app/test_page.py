"""The page in a real browser: view, click, upload and download, also with two users at once."""

import itertools
import os
import re
import shutil
import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from dataset_builder.simulation import simulate_region
from solared_hf.app.channels import in_words
from solared_hf.app.serving import load, page_server
from solared_hf.app.uploads import MOST_SESSIONS, Uploads
from solared_hf.plotting.style import minute
from solared_hf.schema import CHANNELS
from tests.app.conftest import OWN_REGION, code_as_times, every_twelve_minutes, parquet, published
from tests.conftest import is_here

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")
# Chromium looks for updates and accounts on its own; let it reach this machine only.
ALONE = ("--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
OPTIONS = ("--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-background-networking", *ALONE)
# Milliseconds. Machines that run tests may be slow.
PATIENCE = 180_000
SCREEN = {"viewport": {"width": 1280, "height": 900}}
FIRST = "90009"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Serve the page of the simulated Sun with a model of the package, on a free port."""
    temporary = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listening:
        patch.setenv("GRADIO_TEMP_DIR", str(temporary))
        collection, forecasts = load("solared-quantile-trajectory", None, None, None)
        uploads = Uploads()
        server = page_server(collection, forecasts, uploads)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield SimpleNamespace(
            url=f"http://127.0.0.1:{listening.getsockname()[1]}",
            collection=collection,
            forecasts=forecasts,
            uploads=uploads,
            temporary=temporary,
        )
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def known_browser(browser):
    """Return a browser context that has opened the page before, so that the page loads faster."""
    with browser.new_context(**SCREEN) as context:
        yield context


@pytest.fixture
def visit(served, browser, known_browser):
    """Return a function that opens the page, in a new browser context if options are given.

    The test fails if a page logs an error or sends a request to another machine.
    """
    errors, pages, contexts = [], [], []

    def watch(page) -> None:
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("response", lambda answer: answer.status >= 400 and errors.append(answer.url))
        page.on("request", lambda request: _is_outside(request.url) and errors.append(request.url))

    def open_page(**options):
        context = known_browser
        if options:
            context = browser.new_context(**options)
            contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        pages.append(page)
        watch(page)
        page.goto(served.url)
        expect(page.locator("#map .tile")).to_have_count(63)
        return page

    yield open_page
    for opened in (*pages, *contexts):
        opened.close()
    assert not errors


def _is_outside(url: str) -> bool:
    scheme, _, rest = url.partition(":")
    return scheme not in ("data", "blob") and not is_here(re.match(r"//([^:/]+)", rest)[1])


def shown(page) -> tuple[str, str]:
    """Return the table of the chosen tile, and the picture in words."""
    picture = page.locator("#tile [role=img]")
    return page.locator("#tile table").inner_text(), picture.get_attribute("aria-label")


def tile(page, number: int):
    return page.locator(f"#map button[data-tile='{number}']")


def choose_region(page, label: str) -> None:
    page.get_by_label("Region", exact=True).click()
    page.get_by_role("option", name=label).click()
    expect(page.locator("#tile h2")).to_contain_text(label.partition(" ")[0])


def no_upload_is_kept(served) -> bool:
    """Return True if the server keeps no content of an upload; Gradio leaves empty files behind."""
    return not any(path.stat().st_size for path in served.temporary.rglob("*") if path.is_file())


def expected_texts(served, key: str, step: int, number: int) -> list[str]:
    """Return the texts that the page must show for a tile, computed by the library."""
    region = served.collection.regions[key]
    forecast = served.forecasts.make(region).forecast
    at = np.flatnonzero(forecast.target_times == region.times[step])[0]
    ours, persistence = (values[at, number] for values in forecast.forecasts.values())
    lower, upper = (end[at, number] for end in forecast.band)
    observed = region.timeline.intensity[np.flatnonzero(region.timeline.times == region.times[step])[0], number]
    interval = f"80 % interval {lower:,.0f} to {upper:,.0f} DN"
    return [f"{observed:,.0f} DN", f"{ours:,.0f} DN, {interval}", f"{persistence:,.0f} DN", minute(region.times[step])]


def test_page_has_a_title_and_names_all_its_elements(visit):
    page = visit()
    assert page.title() == page.locator("h1").inner_text() == "Emerging active regions: forecast of every tile"
    assert "12 h ahead by solared-quantile-trajectory, beside persistence. Data: the simulated Sun." in (
        page.locator("body").inner_text()
    )
    expect(page.get_by_text("Simulated Sun: nothing here was observed.")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "en"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('img, [role=img], input:not([type=file]), button, a, [role=group]')]
        .filter(element => !(element.alt || element.ariaLabel || element.innerText.trim() || element.labels?.length))
        .map(element => element.outerHTML)"""
    )
    assert unnamed == []


def test_click_shows_the_values_of_the_tile(visit, served):
    page = visit()
    region = served.collection.regions[FIRST]
    step, first = region.first_view
    for number in (first, 40, 3):
        if number != first:
            tile(page, number).click()
        expect(page.locator("#tile h2")).to_have_text(f"AR{FIRST}, row {number // 9 + 1}, column {number % 9}")
        expect(tile(page, number)).to_have_attribute("aria-pressed", "true")
        assert page.locator("#map [aria-pressed=true]").count() == 1
        table, words = shown(page)
        for text in expected_texts(served, FIRST, step, number):
            assert text in " ".join(table.split())
            assert text in words
        assert page.locator("#tile svg").count() == 1


def test_keyboard_moves_the_time(visit, served):
    page = visit()
    region = served.collection.regions[FIRST]
    step, number = region.first_view
    slider = page.locator("#time input[type=range]")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    step -= 3
    expect(page.locator("#map .when")).to_have_text(f"{minute(region.times[step])} TAI")
    expect(page.locator("#time label")).to_have_text(f"Time: {minute(region.times[step])} TAI")
    name = f"row 7, column 8: {in_words('continuum_intensity', region.timeline.intensity[step, 62])}"
    expect(tile(page, 62)).to_have_attribute("aria-label", re.compile(re.escape(name)))
    expect(page.locator("#tile table")).to_contain_text(minute(region.times[step]))
    for text in expected_texts(served, FIRST, step, number):
        assert text in shown(page)[1]
    # After the last observed step only the forecast is left.
    page.keyboard.press("End")
    expect(tile(page, 62)).to_have_attribute("aria-label", re.compile("row 7, column 8: not observed"))
    expect(page.locator("#tile table")).to_contain_text("80 % interval")


def test_page_ends_with_the_last_choice(visit, served):
    """A user who clicks faster than the server answers does not see late answers to earlier choices."""
    page = visit()
    region = served.collection.regions[FIRST]
    step, _ = region.first_view
    slider = page.locator("#time input[type=range]")
    for number in (11, 47, 5, 33):
        tile(page, number).click()
        slider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
    # The page has not shown the last choice before.
    for number in (12, 48, 34):
        tile(page, number).click()
    step -= 20
    expect(page.locator("#map .when")).to_have_text(f"{minute(region.times[step])} TAI")
    expect(page.locator("#tile h2")).to_have_text(f"AR{FIRST}, row 4, column 7")
    expect(page.locator("#tile th[scope=col]").first).to_have_text(f"intensity at {minute(region.times[step])}")
    expect(page.locator("#time label")).to_have_text(f"Time: {minute(region.times[step])} TAI")
    expect(tile(page, 34)).to_have_attribute("aria-pressed", "true")
    for text in expected_texts(served, FIRST, step, 34):
        assert text in shown(page)[1]


def test_keyboard_reaches_and_chooses_tiles(visit, served):
    page = visit()
    _, number = served.collection.regions[FIRST].first_view
    tile(page, number).focus()
    for key in ("ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
    expect(tile(page, number + 10)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#tile h2")).to_contain_text(f"row {(number + 10) // 9 + 1}, column {(number + 10) % 9}")
    expect(tile(page, number + 10)).to_be_focused()
    # The Tab key stops at one tile, and arrow keys stop at the edge.
    assert page.locator("#map .tile[tabindex='0']").count() == 1
    tile(page, 8).focus()
    for key in ("ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
        expect(tile(page, 8)).to_be_focused()


def test_map_shows_every_channel(visit, served):
    page = visit()
    region = served.collection.regions[FIRST]
    step, _ = region.first_view
    page.get_by_label("Map of", exact=True).click()
    page.get_by_role("option", name="Acoustic power, 3 to 4 mHz").click()
    expect(page.locator("#map h2")).to_have_text("Acoustic power, 3 to 4 mHz")
    value = region.timeline.values[step, CHANNELS.index("power_3_4mhz"), 7]
    words = f"row 1, column 7: {in_words('power_3_4mhz', value)}"
    expect(tile(page, 7)).to_have_attribute("aria-label", re.compile(re.escape(words)))


def test_forecast_of_one_user_does_not_delay_another(visit, served, monkeypatch):
    """A slow forecast, as of a large model, delays only the user who asked for it."""
    waiting, other = visit(), visit()
    forecaster, may_continue = served.forecasts.forecaster, threading.Event()
    trajectory = forecaster.trajectory

    def slow_trajectory(windows, steps):
        may_continue.wait(PATIENCE / 1000)
        return trajectory(windows, steps)

    monkeypatch.setattr(forecaster, "trajectory", slow_trajectory)
    choose_region(waiting, "AR90003 (train)")
    expect(waiting.locator("#tile")).to_contain_text("The forecast is being computed.")
    tile(other, 12).click()
    expect(other.locator("#tile h2")).to_have_text(f"AR{FIRST}, row 2, column 3")
    # The waiting user chooses another tile and then sees the forecast of that tile.
    tile(waiting, 33).click()
    expect(waiting.locator("#tile h2")).to_have_text("AR90003, row 4, column 6")
    may_continue.set()
    expect(waiting.locator("#tile table")).to_contain_text("80 % interval")
    expect(waiting.locator("#tile h2")).to_have_text("AR90003, row 4, column 6")
    step, _ = served.collection.regions["90003"].first_view
    for text in expected_texts(served, "90003", step, 33):
        assert text in shown(waiting)[1]
    expect(waiting.locator("#alarms h2")).to_have_text("Alarms of AR90003")
    expect(other.locator("#alarms h2")).to_have_text(f"Alarms of AR{FIRST}")


def test_alarm_table_compares_with_persistence_and_chooses_tiles(visit, served):
    page = visit()
    forecast = served.forecasts.make(served.collection.regions[FIRST]).forecast
    ours, persistence = forecast.alarms.values()
    number = min(tile for tile in ours.lead_hours.keys() & persistence.lead_hours.keys() if ours.lead_hours[tile])
    row = page.locator("#alarms tr", has=page.locator(f"button[data-tile='{number}']"))
    expected = [minute(forecast.onsets[number])]
    for alarms in (ours, persistence):
        hours = alarms.lead_hours[number]
        lead = f"{hours:g} h before" if hours > 0 else f"{-hours:g} h late"
        expected.append(f"{minute(alarms.issued[number])}, {lead}")
    assert [" ".join(text.split()) for text in row.locator("td").all_inner_texts()] == expected
    heads = page.locator("#alarms thead").inner_text().split("\t")
    assert [head.strip() for head in heads] == ["tile", "onset observed", *forecast.forecasts]
    tile(page, 0).click()
    row.locator("button").click()
    expect(page.locator("#tile h2")).to_contain_text(f"row {number // 9 + 1}, column {number % 9}")
    expect(tile(page, number)).to_have_attribute("aria-pressed", "true")
    for text in expected[1:]:
        assert text in shown(page)[1]


def test_bad_uploads_are_refused_with_a_reason_and_the_page_still_works(visit, served, own_region, tmp_path):
    page, marker = visit(), tmp_path / "was_run"
    notes, empty, noise, short, fast, large = (
        tmp_path / name for name in ("notes.txt", "empty.parquet", "a.parquet", "b.parquet", "c.parquet", "d.parquet")
    )
    notes.write_text("words")
    empty.touch()
    noise.write_bytes(b"no <b>Parquet</b>")
    short.write_bytes(parquet(simulate_region(OWN_REGION, steps=20)))
    fast.write_bytes(parquet(every_twelve_minutes()))
    with large.open("wb") as file:
        os.truncate(file.fileno(), 21_000_000)
    good, evil = published(tmp_path / "good", own_region), published(tmp_path / "evil", own_region)
    for path in evil:
        code_as_times(path, marker)
    refusals = [
        ([notes], "notes.txt is neither Parquet nor npz. Upload one Parquet file"),
        ([empty], "empty.parquet is empty. Upload the whole file."),
        ([noise], "a.parquet cannot be read as Parquet ("),
        ([short], "No window of 72 input steps and a target 12:00:00 later could be cut: AR90021"),
        ([fast], "AR90022 has a step every 0:12:00, but the processor was fitted on a step every 1:00:00. Use data"),
        ([large], "The files have more than 20 MB. Upload fewer regions at once"),
        (good[:2], "AR90021 lacks mean_pmdop90021_flat.npz. Choose all three files of the region at once."),
        (evil, "which is not allowed). Download it again."),
    ]
    for files, sentence in refusals:
        page.locator("input[type=file]").set_input_files(files)
        expect(page.locator("#notice [role=alert]")).to_contain_text(sentence)
    tile(page, 3).click()
    expect(page.locator("#tile h2")).to_have_text(f"AR{FIRST}, row 1, column 3")
    expect(page.locator("#notice [role=alert]")).to_contain_text(refusals[-1][1])
    assert not marker.exists()
    assert no_upload_is_kept(served)
    assert len(served.uploads) == 0


def test_each_user_sees_only_their_own_upload(visit, served, tmp_path):
    hers, his = simulate_region(OWN_REGION, steps=90), simulate_region(90025, steps=90)
    (tmp_path / "hers.parquet").write_bytes(parquet(hers))
    mine, yours = visit(**SCREEN), visit(**SCREEN)
    mine.locator("input[type=file]").set_input_files(tmp_path / "hers.parquet")
    yours.locator("input[type=file]").set_input_files(published(tmp_path, his))
    for page, region in ((mine, hers), (yours, his)):
        expect(page.locator("#notice")).to_have_text(f"Uploaded: AR{region.ar_number} ({len(region)} steps).")
        expect(page.locator("#alarms h2")).to_have_text(f"Alarms of AR{region.ar_number}")
        forecaster = served.forecasts.forecaster
        windows = forecaster.windows([region], require_target=False)
        page.locator("#time input[type=range]").focus()
        page.keyboard.press("End")
        expect(page.locator("#tile table")).to_contain_text(minute(windows.target_times[-1]))
        chosen = int(page.locator("#map [aria-pressed=true]").get_attribute("data-tile"))
        assert f"{forecaster.forecast(windows)[-1, chosen]:,.0f} DN" in shown(page)[1]
    assert len(served.uploads) == 2
    shared_labels = [region.label for region in served.collection.regions.values()]
    for page, own in ((mine, ["AR90021 (yours)"]), (yours, ["AR90025 (yours)"])):
        page.get_by_label("Region", exact=True).click()
        options = page.get_by_role("option")
        expect(options).to_have_count(len(own) + len(shared_labels))
        assert [words.removeprefix("✓").strip() for words in options.all_inner_texts()] == own + shared_labels
    # One user goes back to a shared region; the other user still sees the upload.
    mine.get_by_role("option", name=f"AR{FIRST} (test)").click()
    expect(mine.locator("#alarms h2")).to_have_text(f"Alarms of AR{FIRST}")
    expect(yours.locator("#alarms h2")).to_have_text("Alarms of AR90025")
    # An upload is deleted when its user closes the page.
    mine.context.close()
    deadline = time.monotonic() + PATIENCE / 1000
    while len(served.uploads) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(served.uploads) == 1
    assert no_upload_is_kept(served)
    # A user whose upload was dropped gets a notice and sees a shared region.
    others = [f"somebody {number}" for number in range(MOST_SESSIONS)]
    for other in others:
        served.uploads.keep(other, {})
    tile(yours, 3).click()
    expect(yours.locator("#notice [role=alert]")).to_have_text(
        "Your upload is not on the server any more. Upload it again."
    )
    expect(yours.locator("#alarms h2")).to_have_text(f"Alarms of AR{FIRST}")
    expect(yours.get_by_label("Region", exact=True)).to_have_value(f"AR{FIRST} (test)")
    for other in others:
        served.uploads.forget(other)


def test_forecast_can_be_downloaded(visit, served, simulated_dataset, solared, tmp_path):
    page = visit()
    with page.expect_download() as started:
        page.get_by_text("Download the forecast").click()
    assert started.value.suggested_filename == f"forecast_AR{FIRST}.parquet"
    output = tmp_path / "forecast.parquet"
    code, _, errors = solared(
        "predict", "--model", "solared-quantile-trajectory", "--dataset", simulated_dataset, "--ar", FIRST,
        "--output", output,
    )  # fmt: skip
    assert code == 0, errors
    assert started.value.path().read_bytes() == output.read_bytes()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_phone_shows_everything_in_one_column(visit, colours):
    page = visit(
        viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, device_scale_factor=2,
        color_scheme=colours,
    )  # fmt: skip
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    boxes = [page.locator(name).bounding_box() for name in ("#time", "#map", "#tile", "#alarms", "#download")]
    for above, below in itertools.pairwise(boxes):
        assert above["y"] + above["height"] <= below["y"]
        assert below["width"] > 300
    tile(page, 20).tap()
    expect(page.locator("#tile h2")).to_contain_text("row 3, column 2")
    # Tiles are large enough for a finger, and the text contrasts with the background.
    assert tile(page, 20).bounding_box()["width"] > 28
    text, behind = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert abs(_lightness(text) - _lightness(behind)) > 0.6


def _lightness(colour: str) -> float:
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    return 0.299 * red + 0.587 * green + 0.114 * blue
