"""Safe readers for the published `.npz` files and for their index on the Hub."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .files import read_timeline as read_timeline
    from .files import write_published as write_published
    from .index import IndexRow as IndexRow
    from .index import read_index as read_index
    from .source import PublishedSource as PublishedSource

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "files": ["read_timeline", "write_published"],
        "index": ["IndexRow", "read_index"],
        "source": ["PublishedSource"],
    },
)
