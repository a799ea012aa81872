"""Datasets and models on the Hub: the content of a push, the cards, and readable errors of the Hub."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .model_card import model_card as model_card
    from .model_folder import model_to_push as model_to_push
    from .push import PushReport as PushReport
    from .push import push as push

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "model_card": ["model_card"],
        "model_folder": ["model_to_push"],
        "push": ["PushReport", "push"],
    },
)
