"""Theme, style sheet and scripts of the page."""

import gradio as gr

# Only fonts of the system, because the page loads nothing from other servers.
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif"]
THEME = gr.themes.Default(
    primary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=["ui-monospace", "Consolas", "monospace"]
)

STYLE_SHEET = """
.gradio-container { max-width: 1240px !important; margin: 0 auto; }
.gradio-container .html-container { padding: 0 !important; }
.gradio-container .prose h1 { font-size: 1.5rem; font-weight: 650; margin: 0 0 .2rem; }
.gradio-container .prose h2 { font-size: 1.1rem; font-weight: 600; margin: 0 0 .2rem; }
.gradio-container .prose p { margin: .3rem 0; }
.prose .simulated { border-left: 4px solid #E69F00; padding: .1rem .6rem; font-weight: 600; }
.prose .notice { border-left: 4px solid #0072B2; padding: .2rem .6rem; overflow-wrap: anywhere; }
.prose .notice[role=alert] { border-color: #D55E00; }

/* The label gives the time in words; the number of the step is hidden. */
#time .tab-like-container, #time .min_value, #time .max_value { display: none; }
#time .slider_input_container { padding-top: .4rem; }

.tiles { display: grid; grid-template-columns: 1.3rem repeat(9, minmax(0, 1fr)); gap: 2px; }
.tiles .axis { display: flex; align-items: center; justify-content: center; font-size: .8rem; min-height: 1.2rem; }
.prose .tile {
  aspect-ratio: 1; min-width: 0; padding: 0; border: 0; border-radius: 3px; cursor: pointer;
  color: #000; font-weight: 700; font-size: .9rem; line-height: 1;
}
.prose .tile.white-text { color: #fff; }
.tile:hover { outline: 2px solid #888; }
/* A black line between white lines is visible on every colour. */
.tile[aria-pressed=true], .tile:focus-visible { position: relative; box-shadow: inset 0 0 0 2px #fff, 0 0 0 5px #fff; }
.tile[aria-pressed=true] { outline: 3px solid #000; z-index: 1; }
.tile:focus-visible { outline: 3px dashed #D55E00; z-index: 2; }
.unknown { background: repeating-linear-gradient(45deg, #ddd 0 4px, #999 4px 6px); }
.compass, .numbers { display: flex; justify-content: space-between; gap: .5rem; }
.compass, .numbers { font-size: .8rem; margin-left: 1.4rem; }
.bar { height: .9rem; border-radius: 3px; margin: .5rem 0 0 1.4rem; }
.prose .key { font-size: .85rem; margin-left: 1.4rem; display: flex; flex-wrap: wrap; column-gap: 1.2rem; }
.swatch { display: inline-block; width: 1rem; height: .8rem; vertical-align: middle; border-radius: 2px; }

.chart { position: relative; max-width: 580px; }
.chart svg { width: 100%; height: auto; display: block; }
.dark .chart svg { filter: brightness(1.35); }
.chart i { position: absolute; border-left: 3px solid #888; opacity: .7; margin-left: -1.5px; }

.prose table { border-collapse: collapse; width: 100%; font-size: .88rem; margin: .3rem 0; }
.prose table, .prose th, .prose td, .prose tr { border: 0; }
.prose tbody tr { border-top: 1px solid var(--border-color-primary); }
.prose th, .prose td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; }
.prose th { font-weight: 600; }
.prose .unbroken { white-space: nowrap; color: inherit; }
/* A table that is too wide scrolls by itself; the page does not. */
.wide { overflow-x: auto; }
.prose .link { background: none; border: 0; padding: 0; font: inherit; text-align: left; text-decoration: underline; }
.prose .link { color: var(--link-text-color); cursor: pointer; }
.prose .download {
  display: inline-block; padding: .45rem .9rem; border-radius: 6px; border: 1px solid var(--border-color-primary);
  color: inherit; text-decoration: none; font-weight: 600;
}
@media (max-width: 640px) {
  .gradio-container > .main { padding: .8rem !important; }
  .gradio-container .html-container { padding: 0 !important; }
  .gradio-container .prose h1 { font-size: 1.25rem; }
  .prose th, .prose td { padding-right: .4rem; font-size: .8rem; }
}
"""

# The chosen tile is pressed and takes the focus of the Tab key; arrow keys reach the other tiles. The choice is stored
# with its region on an element that the answer to an earlier choice does not replace.
_PRESS = """
const press = tile => {
  const map = document.querySelector('#map');
  for (const other of map.querySelectorAll('button[data-tile]')) {
    other.setAttribute('aria-pressed', other === tile);
    other.tabIndex = other === tile ? 0 : -1;
  }
  const [region] = map.querySelector('[data-shown]').dataset.shown.split(' ');
  map.dataset.chosen = `${region} ${tile.dataset.tile}`;
};
"""

MAP_SCRIPT = (
    _PRESS
    + """
const arrows = {ArrowUp: 9, ArrowDown: -9, ArrowLeft: -1, ArrowRight: 1};
element.addEventListener('keydown', event => {
  const tile = event.target.closest('button[data-tile]');
  if (!tile || !(event.key in arrows)) return;
  event.preventDefault();
  const from = Number(tile.dataset.tile), to = from + arrows[event.key];
  const wraps = Math.abs(arrows[event.key]) === 1 && Math.floor(from / 9) !== Math.floor(to / 9);
  const next = wraps ? null : element.querySelector(`button[data-tile='${to}']`);
  if (next) next.focus();
});
element.addEventListener('click', event => {
  const tile = event.target.closest('button[data-tile]');
  if (!tile) return;
  press(tile);
  trigger('select');
});
"""
)

TABLE_SCRIPT = (
    _PRESS
    + """
element.addEventListener('click', event => {
  const name = event.target.closest('button[data-tile]');
  if (!name) return;
  press(document.querySelector(`#map button[data-tile='${name.dataset.tile}']`));
  document.querySelector('#tile').scrollIntoView({block: 'nearest'});
  trigger('select');
});
"""
)

# Returns what the page shows, and the last chosen tile of the region that is shown.
VIEW = """(region, channel, time) => {
  const map = document.querySelector('#map'), shown = map.querySelector('[data-shown]').dataset.shown;
  const [shownRegion] = shown.split(' ');
  if (region !== shownRegion) delete map.dataset.chosen;
  const [chosenRegion, chosen] = (map.dataset.chosen ?? '').split(' ');
  const pressed = map.querySelector("[aria-pressed='true']").dataset.tile;
  return [region, channel, time, {tile: Number(chosenRegion === shownRegion ? chosen : pressed), shown}];
}"""

# Screen readers read out the changes.
LIVE_SCRIPT = "element.setAttribute('aria-live', 'polite');"


def notice_script(most_megabytes: int) -> str:
    """Return a script that stops a too large upload before it is sent and triggers the event `too_large`."""
    return f"""
{LIVE_SCRIPT}
document.addEventListener('change', event => {{
  if (event.target.type !== 'file') return;
  const bytes = [...event.target.files].reduce((sum, file) => sum + file.size, 0);
  if (bytes <= {most_megabytes}e6) return;
  event.stopImmediatePropagation();
  event.target.value = '';
  trigger('too_large');
}}, true);
"""
