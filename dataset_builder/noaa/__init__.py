"""Select active regions from NOAA's daily Solar Region Summaries (SRS).

`selection` applies the rules. `report_dates` and `region_positions` compare the statements of the reports with each
other, because reports contain typing errors.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .selection import read_reports as read_reports
    from .selection import select_regions as select_regions
    from .selection import write_selection as write_selection

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "selection": ["read_reports", "select_regions", "write_selection"],
    },
)
