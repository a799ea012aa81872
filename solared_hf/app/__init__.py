"""The interactive page of `solared app`: forecasts of emerging active regions in the browser.

- What is shown: `regions`, `forecasts`, `uploads`; what the map can show, in words: `channels`.
- As HTML: `tile_map`, `tile_report`, `alarm_table`; how it looks: `look`; put together: `page`.
- Served from this machine or from a Space: `serving`; written as the folder of a Space: `space`.

This is a top floor like `solared_hf.cli`: it may import `dataset_builder`, and nothing below imports it.
"""

from solared_hf.app.serving import serve

__all__ = ["serve"]
