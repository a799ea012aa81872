"""`solared app` in a headless Chromium: seconds until the server starts, a page is loaded, and a click is answered.

A page is loaded when its map is visible. A click is answered when the browser shows the heading of the tile, which
arrives with the picture and the figures. The first click on a tile draws the picture, and the second click reuses it.
While one user waits for the forecast of another region, another user continues to click.
"""

import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

from playwright.sync_api import Page, sync_playwright

LOADS, TILES, STEPS = 7, range(0, 60, 3), 20
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Milliseconds from an event on one element until the browser shows another text in a second one.
ANSWER = """([selector, event, watched]) => new Promise(resolve => {
  const element = document.querySelector(selector), text = () => document.querySelector(watched).innerText;
  const before = text(), start = performance.now();
  const look = () => text() === before ? requestAnimationFrame(look) : resolve(performance.now() - start);
  if (event === 'step') element.stepDown();
  element.dispatchEvent(new Event(event === 'step' ? 'input' : event, {bubbles: true}));
  look();
})"""


def answer(page: Page, selector: str, event: str, watched: str) -> float:
    seconds = page.evaluate(ANSWER, [selector, event, watched]) / 1000
    # Other changes of the same event may arrive later.
    page.wait_for_timeout(100)
    return seconds


def clicks(page: Page) -> list[float]:
    return [answer(page, f"#map button[data-tile='{tile}']", "click", "#tile h2") for tile in TILES]


def say(name: str, seconds: list[float]) -> None:
    print(f"{name:42} {statistics.median(seconds):6.3f} s, at most {max(seconds):6.3f} s", flush=True)


def load(page: Page, url: str) -> float:
    start = time.perf_counter()
    page.goto(url)
    page.locator("#map .tile").first.wait_for()
    return time.perf_counter() - start


def main() -> None:
    if CHROMIUM is None:
        raise SystemExit("There is no Chromium here; install it with apt-get install chromium.")
    start = time.perf_counter()
    command = [sys.executable, "-m", "solared_hf", "app", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = re.search(r"http://[\d.]+:\d+", server.stdout.readline())[0]
        print(f"{'server ready':42} {time.perf_counter() - start:6.1f} s", flush=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            # Each measurement has its own context, so that nothing comes from the browser's cache.
            say("page loaded", [load(browser.new_context().new_page(), url) for _ in range(LOADS)])
            page, other = (browser.new_context().new_page() for _ in range(2))
            load(page, url)
            load(other, url)
            say("click on a tile", clicks(page))
            say("click on a tile that was drawn before", clicks(page))
            say(
                "step of the time",
                [answer(page, "#time input[type=range]", "step", "#map .when") for _ in range(STEPS)],
            )
            other.get_by_label("Region", exact=True).click()
            other.get_by_role("option").first.click()
            other.get_by_text("The forecast is being computed.").wait_for()
            say("click while another user's forecast is made", clicks(page)[:5])
            browser.close()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
