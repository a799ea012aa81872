"""The interactive page of `solared app`: forecasts of emerging active regions in the browser.

- Data: `regions`, `forecasts`, `uploads`; names and units of the channels: `channels`.
- HTML: `tile_map`, `tile_report`, `alarm_table`, `tables`; theme, style sheet and scripts: `look`; the whole: `page`.
- `serving` serves the page from this machine or from a Space; `space` writes the folder of a Space.

`solared_hf.app` and `solared_hf.cli` are the top floor: they may import `dataset_builder`, and no other package
imports them.
"""

from solared_hf.app.serving import serve

__all__ = ["serve"]
