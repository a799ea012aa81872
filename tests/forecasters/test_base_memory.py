"""Forecasting ten times as many windows takes only the additional memory of their forecasts."""

import json
import os
import sys

from tests.processes import run

# Run in a new process, because `ru_maxrss` of this process would include the peak memory of pytest.
SCRIPT = """
import json
from pathlib import Path
import numpy as np
from solared_hf import SolaredProcessor, Timeline
from solared_hf.forecasters import ModelForecaster
from solared_hf.models import QuantileTrajectoryConfig, QuantileTrajectoryForPrediction
from solared_hf.schema import CHANNELS

def peak():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024

times = np.datetime64("2013-04-15", "ms") + np.arange(360) * np.timedelta64(3_600_000, "ms")
random = np.random.default_rng(0)
timelines = [Timeline(90001 + i, times, random.standard_normal((360, 6, 63), np.float32)) for i in range(31)]
settings = {"input_steps": 8, "horizon_hours": 24.0}
config = QuantileTrajectoryConfig(
    **settings, forecast_steps=24, quantile_levels=[0.5], lag_hours=[1, 2], hidden_size=4, num_neighbour_features=2,
    num_layers=0, num_members=1, num_modes=2,
)
processor = SolaredProcessor.fit([timelines[0].values], CHANNELS, **settings)
forecaster = ModelForecaster(QuantileTrajectoryForPrediction(config), processor, "tiny", "cpu")
few, many = forecaster.windows(timelines[:3]), forecaster.windows(timelines)
found = []
for windows in (few, many):
    for steps in (None, 24):
        if steps is None:
            forecast = forecaster.forecast(windows, batch_size=64)
        else:
            forecast = forecaster.trajectory(windows, steps, batch_size=64)
        found.append({"windows": len(forecast), "bytes": forecast.nbytes, "peak": peak()})
        del forecast
print(json.dumps(found))
"""


def test_ten_times_the_windows_take_only_the_memory_of_their_forecasts():
    finished = run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    few, few_ways, many, many_ways = json.loads(finished.stdout)
    assert (few["windows"], many["windows"]) == (3 * 329, 31 * 329)
    # 2.5 MB of forecasts at the horizon, and 60 MB of trajectories.
    assert many["peak"] - few_ways["peak"] < many["bytes"] + 10e6
    assert many_ways["peak"] - few_ways["peak"] < many_ways["bytes"] + 10e6
