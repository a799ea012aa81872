"""An LSTM that reads the past of each tile, and an LSTM that writes its future."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .configuration_solared_lstm import SolaredLstmConfig as SolaredLstmConfig
    from .modeling_solared_lstm import SolaredLstmForPrediction as SolaredLstmForPrediction

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "configuration_solared_lstm": ["SolaredLstmConfig"],
        "modeling_solared_lstm": ["SolaredLstmForPrediction"],
    },
)
