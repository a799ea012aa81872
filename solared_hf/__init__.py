"""SOLARED: forecast emerging solar active regions, native to the Hugging Face stack.

Names are imported when they are first used, so that `import solared_hf` is quick and does one thing: transformers'
Auto classes get to know the model families, and its `pipeline` the task.

The packages, each with its own public names: `data` (timelines, windows, datasets), `models` (the families),
`forecasters` (models and baselines), `evaluation`, `training`, `hub`, `plotting`.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

import lazy_loader

from solared_hf.models import FAMILIES
from solared_hf.registration import register_when_asked

if TYPE_CHECKING:
    from .data import SolaredProcessor as SolaredProcessor
    from .data import SolaredWindows as SolaredWindows
    from .data import Timeline as Timeline
    from .data import load_timelines as load_timelines
    from .data import open_dataset as open_dataset
    from .errors import SolaredError as SolaredError
    from .forecasters import SolarActiveRegionForecastingPipeline as SolarActiveRegionForecastingPipeline
    from .forecasters import load_forecaster as load_forecaster
    from .models import QuantileTrajectoryConfig as QuantileTrajectoryConfig
    from .models import QuantileTrajectoryForPrediction as QuantileTrajectoryForPrediction
    from .models import SolaredLstmConfig as SolaredLstmConfig
    from .models import SolaredLstmForPrediction as SolaredLstmForPrediction
    from .models import SpatioTemporalAttentionConfig as SpatioTemporalAttentionConfig
    from .models import SpatioTemporalAttentionForPrediction as SpatioTemporalAttentionForPrediction
    from .models import SpatioTemporalResnetConfig as SpatioTemporalResnetConfig
    from .models import SpatioTemporalResnetForPrediction as SpatioTemporalResnetForPrediction

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["data", "evaluation", "forecasters", "hub", "models", "plotting", "training"],
    submod_attrs={
        "data": ["SolaredProcessor", "SolaredWindows", "Timeline", "load_timelines", "open_dataset"],
        "errors": ["SolaredError"],
        "forecasters": ["SolarActiveRegionForecastingPipeline", "load_forecaster"],
        "models": [name for names in FAMILIES.values() for name in names],
    },
)
__all__ += ["__version__"]
__version__ = version("solared-hf")

register_when_asked()
