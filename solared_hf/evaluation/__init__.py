"""Evaluation of forecasts: errors, skill, onsets and alarms, and benchmarks of forecasters on the same windows."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .alarms import add_up as add_up
    from .alarms import alarm_scale as alarm_scale
    from .alarms import forecast_trajectories as forecast_trajectories
    from .alarms import issue_alarms as issue_alarms
    from .alarms import score_alarms as score_alarms
    from .benchmark import benchmark as benchmark
    from .benchmark_table import Benchmark as Benchmark
    from .emergence import emergence_onsets as emergence_onsets
    from .emergence import observed_onsets as observed_onsets
    from .errors import mean_absolute_error as mean_absolute_error
    from .errors import mean_squared_error as mean_squared_error
    from .errors import root_mean_squared_error as root_mean_squared_error
    from .errors import skill_score as skill_score
    from .protocol_scores import score_by_published_protocol as score_by_published_protocol
    from .quantiles import coverage as coverage
    from .quantiles import interval_of_80_percent as interval_of_80_percent
    from .quantiles import reliability as reliability
    from .region_forecast import RegionForecast as RegionForecast
    from .region_forecast import forecast_region as forecast_region
    from .scores import Score as Score
    from .scores import score_forecasts as score_forecasts
    from .split_scores import SplitScores as SplitScores
    from .split_scores import score_on_split as score_on_split

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "alarms": ["add_up", "alarm_scale", "forecast_trajectories", "issue_alarms", "score_alarms"],
        "benchmark": ["benchmark"],
        "benchmark_table": ["Benchmark"],
        "emergence": ["emergence_onsets", "observed_onsets"],
        "errors": ["mean_absolute_error", "mean_squared_error", "root_mean_squared_error", "skill_score"],
        "protocol_scores": ["score_by_published_protocol"],
        "quantiles": ["coverage", "interval_of_80_percent", "reliability"],
        "region_forecast": ["RegionForecast", "forecast_region"],
        "scores": ["Score", "score_forecasts"],
        "split_scores": ["SplitScores", "score_on_split"],
    },
)
