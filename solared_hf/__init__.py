"""SOLARED: forecast emerging solar active regions with the Hugging Face stack.

Start with `open_dataset` (the data), `SolaredWindows` (inputs and targets) and `load_forecaster` (a trained model or a
baseline). The packages have more public names: `data`, `models` (the families), `forecasters`, `evaluation`,
`training`, `hub` (cards and pushes) and `plotting`.

Names are imported when they are first used, so that `import solared_hf` is fast. The import makes the model families
known to the Auto classes of transformers, and the task to `transformers.pipeline`.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

import lazy_loader

from solared_hf.models import FAMILIES
from solared_hf.registration import register_when_asked

if TYPE_CHECKING:
    from . import data as data
    from . import evaluation as evaluation
    from . import forecasters as forecasters
    from . import hub as hub
    from . import models as models
    from . import plotting as plotting
    from . import training as training
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

__getattr__, _, __all__ = lazy_loader.attach(
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


def __dir__() -> list[str]:
    return sorted(__all__)


register_when_asked()
