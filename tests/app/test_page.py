"""The page as people use it, in a real browser: what they see, click, upload and download, two of them at once."""

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
# Chromium itself looks for updates and accounts; here it knows no machine but this.
ALONE = ("--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
OPTIONS = ("--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-background-networking", *ALONE)
# Machines that run tests are slow at times.
PATIENCE = 180_000
SCREEN = {"viewport": {"width": 1280, "height": 900}}
FIRST = "90009"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page of the simulated Sun with the model of the package, on a port of its own."""
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
    """A browser that has been on the page before, so that it loads sooner."""
    with browser.new_context(**SCREEN) as context:
        yield context


@pytest.fixture
def visit(served, browser, known_browser):
    """Opens the page once more, in a browser of its own where options are given.

    No page may complain, or ask any other machine for anything.
    """
    complaints, pages, contexts = [], [], []

    def watch(page) -> None:
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("response", lambda answer: answer.status >= 400 and complaints.append(answer.url))
        page.on("request", lambda request: _is_outside(request.url) and complaints.append(request.url))

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
    assert not complaints


def _is_outside(url: str) -> bool:
    scheme, _, rest = url.partition(":")
    return scheme not in ("data", "blob") and not is_here(re.match(r"//([^:/]+)", rest)[1])


def shown(page) -> tuple[str, str]:
    """The table of the chosen tile, and the picture in words."""
    picture = page.locator("#tile [role=img]")
    return page.locator("#tile table").inner_text(), picture.get_attribute("aria-label")


def tile(page, number: int):
    return page.locator(f"#map button[data-tile='{number}']")


def choose_region(page, label: str) -> None:
    page.get_by_label("Region", exact=True).click()
    page.get_by_role("option", name=label).click()
    expect(page.locator("#tile h2")).to_contain_text(label.partition(" ")[0])


def nothing_is_left(served) -> bool:
    """Whether no content of an upload lies on the server; Gradio leaves empty files behind."""
    return not any(path.stat().st_size for path in served.temporary.rglob("*") if path.is_file())


def figures(served, key: str, step: int, number: int) -> list[str]:
    """What the page must say of a tile, computed by the library."""
    region = served.collection.regions[key]
    forecast = served.forecasts.make(region).forecast
    at = np.flatnonzero(forecast.target_times == region.times[step])[0]
    ours, persistence = (values[at, number] for values in forecast.forecasts.values())
    lower, upper = (end[at, number] for end in forecast.band)
    observed = region.timeline.intensity[np.flatnonzero(region.timeline.times == region.times[step])[0], number]
    interval = f"80 % interval {lower:,.0f} to {upper:,.0f} DN"
    return [f"{observed:,.0f} DN", f"{ours:,.0f} DN, {interval}", f"{persistence:,.0f} DN", minute(region.times[step])]


def test_the_page_says_what_it_is_and_everything_on_it_has_a_name(visit):
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


def test_a_click_shows_the_figures_of_the_tile(visit, served):
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
        for text in figures(served, FIRST, step, number):
            assert text in " ".join(table.split())
            assert text in words
        assert page.locator("#tile svg").count() == 1


def test_the_time_is_moved_by_the_keyboard(visit, served):
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
    for text in figures(served, FIRST, step, number):
        assert text in shown(page)[1]
    # Beyond what was observed there is the forecast alone.
    page.keyboard.press("End")
    expect(tile(page, 62)).to_have_attribute("aria-label", re.compile("row 7, column 8: not observed"))
    expect(page.locator("#tile table")).to_contain_text("80 % interval")


def test_the_page_ends_up_with_what_was_chosen_last(visit, served):
    """Whoever is faster than the server sees no late answer to what was chosen before."""
    page = visit()
    region = served.collection.regions[FIRST]
    step, _ = region.first_view
    slider = page.locator("#time input[type=range]")
    for number in (11, 47, 5, 33):
        tile(page, number).click()
        slider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
    # The last choice is none that the page has shown on the way.
    for number in (12, 48, 34):
        tile(page, number).click()
    step -= 20
    expect(page.locator("#map .when")).to_have_text(f"{minute(region.times[step])} TAI")
    expect(page.locator("#tile h2")).to_have_text(f"AR{FIRST}, row 4, column 7")
    expect(page.locator("#tile th[scope=col]").first).to_have_text(f"intensity at {minute(region.times[step])}")
    expect(page.locator("#time label")).to_have_text(f"Time: {minute(region.times[step])} TAI")
    expect(tile(page, 34)).to_have_attribute("aria-pressed", "true")
    for text in figures(served, FIRST, step, 34):
        assert text in shown(page)[1]


def test_tiles_are_reached_and_chosen_by_the_keyboard(visit, served):
    page = visit()
    _, number = served.collection.regions[FIRST].first_view
    tile(page, number).focus()
    for key in ("ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
    expect(tile(page, number + 10)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#tile h2")).to_contain_text(f"row {(number + 10) // 9 + 1}, column {(number + 10) % 9}")
    expect(tile(page, number + 10)).to_be_focused()
    # One stop for the tabulator, and no way over the edge.
    assert page.locator("#map .tile[tabindex='0']").count() == 1
    tile(page, 8).focus()
    for key in ("ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
        expect(tile(page, 8)).to_be_focused()


def test_every_channel_has_its_map(visit, served):
    page = visit()
    region = served.collection.regions[FIRST]
    step, _ = region.first_view
    page.get_by_label("Map of", exact=True).click()
    page.get_by_role("option", name="Acoustic power, 3 to 4 mHz").click()
    expect(page.locator("#map h2")).to_have_text("Acoustic power, 3 to 4 mHz")
    value = region.timeline.values[step, CHANNELS.index("power_3_4mhz"), 7]
    words = f"row 1, column 7: {in_words('power_3_4mhz', value)}"
    expect(tile(page, 7)).to_have_attribute("aria-label", re.compile(re.escape(words)))


def test_another_region_is_forecast_while_others_go_on(visit, served, monkeypatch):
    """The forecast is held up, as by a large model; nobody waits for it but who wants it."""
    patient, other = visit(), visit()
    forecaster, may_go_on = served.forecasts.forecaster, threading.Event()
    trajectory = forecaster.trajectory

    def held_up(windows, steps):
        may_go_on.wait(PATIENCE / 1000)
        return trajectory(windows, steps)

    monkeypatch.setattr(forecaster, "trajectory", held_up)
    choose_region(patient, "AR90003 (train)")
    expect(patient.locator("#tile")).to_contain_text("The forecast is being made.")
    tile(other, 12).click()
    expect(other.locator("#tile h2")).to_have_text(f"AR{FIRST}, row 2, column 3")
    # She looks around meanwhile, and finds the forecast of what she looks at then.
    tile(patient, 33).click()
    expect(patient.locator("#tile h2")).to_have_text("AR90003, row 4, column 6")
    may_go_on.set()
    expect(patient.locator("#tile table")).to_contain_text("80 % interval")
    expect(patient.locator("#tile h2")).to_have_text("AR90003, row 4, column 6")
    step, _ = served.collection.regions["90003"].first_view
    for text in figures(served, "90003", step, 33):
        assert text in shown(patient)[1]
    expect(patient.locator("#alarms h2")).to_have_text("Alarms of AR90003")
    expect(other.locator("#alarms h2")).to_have_text(f"Alarms of AR{FIRST}")


def test_alarms_stand_beside_those_of_persistence_and_lead_to_their_tiles(visit, served):
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


def test_bad_uploads_end_in_a_sentence_and_the_page_goes_on(visit, served, own_region, tmp_path):
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
        ([notes], "notes.txt is neither Parquet nor npz; upload one Parquet file"),
        ([empty], "empty.parquet is empty; upload the whole file."),
        ([noise], "a.parquet cannot be read as Parquet ("),
        ([short], "No window of 72 input steps and a target 12:00:00 later could be cut: AR90021"),
        ([fast], "AR90022 has a step every 0:12:00, and the processor was fitted on one every 1:00:00; use data"),
        ([large], "The files have more than 20 MB; upload fewer regions at once"),
        (good[:2], "Of AR90021, mean_pmdop90021_flat.npz is missing; choose all three files of the region at once."),
        (evil, "which is not allowed). Download it again."),
    ]
    for files, sentence in refusals:
        page.locator("input[type=file]").set_input_files(files)
        expect(page.locator("#notice [role=alert]")).to_contain_text(sentence)
    tile(page, 3).click()
    expect(page.locator("#tile h2")).to_have_text(f"AR{FIRST}, row 1, column 3")
    expect(page.locator("#notice [role=alert]")).to_contain_text(refusals[-1][1])
    assert not marker.exists()
    assert nothing_is_left(served)
    assert len(served.uploads) == 0


def test_two_users_see_their_own_upload_and_neither_the_other(visit, served, tmp_path):
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
    everybodys = [region.label for region in served.collection.regions.values()]
    for page, own in ((mine, ["AR90021 (yours)"]), (yours, ["AR90025 (yours)"])):
        page.get_by_label("Region", exact=True).click()
        options = page.get_by_role("option")
        expect(options).to_have_count(len(own) + len(everybodys))
        assert [words.removeprefix("✓").strip() for words in options.all_inner_texts()] == own + everybodys
    # She goes back to the regions that everybody has, while his stays.
    mine.get_by_role("option", name=f"AR{FIRST} (test)").click()
    expect(mine.locator("#alarms h2")).to_have_text(f"Alarms of AR{FIRST}")
    expect(yours.locator("#alarms h2")).to_have_text("Alarms of AR90025")
    # Who leaves takes along what she brought.
    mine.context.close()
    deadline = time.monotonic() + PATIENCE / 1000
    while len(served.uploads) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(served.uploads) == 1
    assert nothing_is_left(served)
    # Who was idle while many others came is told what became of his, and goes on with what everybody has.
    others = [f"somebody {number}" for number in range(MOST_SESSIONS)]
    for other in others:
        served.uploads.keep(other, {})
    tile(yours, 3).click()
    expect(yours.locator("#notice [role=alert]")).to_have_text(
        "Your upload is not on the server any more; upload it once more."
    )
    expect(yours.locator("#alarms h2")).to_have_text(f"Alarms of AR{FIRST}")
    expect(yours.get_by_label("Region", exact=True)).to_have_value(f"AR{FIRST} (test)")
    for other in others:
        served.uploads.forget(other)


def test_the_forecast_is_downloaded(visit, served, simulated_dataset, solared, tmp_path):
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
def test_a_telephone_shows_everything_in_one_column(visit, colours):
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
    # Large enough for a finger, and text that is told from what is behind it.
    assert tile(page, 20).bounding_box()["width"] > 28
    text, behind = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert abs(_lightness(text) - _lightness(behind)) > 0.6


def _lightness(colour: str) -> float:
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    return 0.299 * red + 0.587 * green + 0.114 * blue
