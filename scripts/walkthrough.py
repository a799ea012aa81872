# %% [markdown]
# # From the Sun to a forecast
#
# Solar active regions surface within hours. SOLARED asks a model to forecast the brightness of each tile around an
# emerging region twelve hours ahead, before the region darkens. This walk-through shows the whole workflow with the
# functions of `solared-hf`: from FITS files, as a telescope writes them, to a forecast with its uncertainty and
# alarms.
#
# **The Sun here is simulated. Nothing below was observed.** The simulation has the amplitudes, the noise and the gaps
# of the published observations, so every step works as on real data, without a download. But all simulated regions
# emerge in the same way. A forecast is therefore easier than on the real Sun, and the scores do not apply to it.
#
# Run the cells as a notebook (VS Code, Spyder, or Jupyter with jupytext can open this file), or run all of them with
# `python scripts/walkthrough.py`. This takes one to two minutes on two cores, offline. Figures and files are written
# to `runs/walkthrough`.

# %%
import json
import shutil
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path

import numpy as np
from astropy.io import fits
from datasets import load_dataset
from distributed import LocalCluster
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dataset_builder import FitsSource, build_dataset
from dataset_builder.fits import (
    BAND_EDGES_MHZ,
    OBSERVABLES,
    WINDOW_FRAMES,
    PatchMapper,
    Pointing,
    RegionFile,
    band_power,
    collect,
    find_files,
    format_time,
    interpolate_missing,
    keep_tiles,
    read_patch,
    read_planes,
    read_region_file,
    remove_latitude_background,
    scan_files,
    slot_of,
    tile_means,
    write_region_file,
)
from dataset_builder.simulation import emergence, fits_files, simulate_observations, write_observations
from dataset_builder.simulation.observations import FIELD_FRAME, FRAMES_PER_STEP
from solared_hf import SolaredWindows, load_forecaster, load_timelines
from solared_hf.evaluation import (
    add_up,
    alarm_scale,
    coverage,
    forecast_trajectories,
    interval_of_80_percent,
    issue_alarms,
    observed_onsets,
    score_alarms,
    score_on_split,
)
from solared_hf.forecasters import committed_models
from solared_hf.plotting import STYLE, as_png, mark_as_simulated, plot_timeline
from solared_hf.plotting.forecasts import plot_region_forecast
from solared_hf.schema import AVAILABILITY_DELAY, CHANNELS, PATCH_COLUMNS, PATCH_ROWS, TILE_COLUMNS, TILE_ROWS, UNITS
from solared_hf.training import parse_arguments, train

OUTPUT = Path("runs/walkthrough")
# NOAA will not reach the numbers of the simulated regions for decades. Of ten regions, six are for training, two for
# validation and two for the test.
REGIONS = range(90001, 90011)
# Hours of observation for each region, with one step per hour.
HOURS = 240
# The region and the step that the figures show.
REGION, STEP = 90009, 130
# The model averages this many networks, and each network sees the train split this many times.
NETWORKS, EPOCHS = 4, 3

OUTPUT.mkdir(parents=True, exist_ok=True)
rcParams.update(STYLE)


def show(figure, name):
    """Save a figure, marked as simulated, and display it in a notebook."""
    mark_as_simulated(figure)
    path = OUTPUT / f"{name}.png"
    path.write_bytes(as_png(figure))
    if "get_ipython" in globals():
        from IPython.display import Image, display

        display(Image(filename=str(path), width=900))
    else:
        print(f"figure: {path}")


# %% [markdown]
# ## The files of a telescope
#
# Every 45 seconds, HMI on board SDO takes a *dopplergram* (velocity along the line of sight, m/s), a *magnetogram*
# (field along the line of sight, G) and an image of the *continuum intensity* (DN). We observe one simulated region
# for ten days, and select the eight hours around one moment: 640 frames. We write the first hour of dopplergrams, and
# the magnetogram and the continuum image of the moment, as small images of the whole Sun with 256 x 256 pixels.
# `region.json` gives the position of the region.

# %%
observations = simulate_observations(REGION, steps=HOURS)
frames = slice(FRAMES_PER_STEP * STEP, FRAMES_PER_STEP * STEP + WINDOW_FRAMES)
eight_hours = replace(
    observations,
    magnetogram=observations.magnetogram[STEP : STEP + 1],
    continuum=observations.continuum[STEP : STEP + 1],
    **{
        name: getattr(observations, name)[frames]
        for name in ("times", "velocity", "orbital_velocity", "missing", "bad")
    },
)
raw = OUTPUT / "full_disk" / f"AR{REGION}"
shutil.rmtree(raw, ignore_errors=True)
write_region_file(raw, RegionFile(REGION, observations.trajectory))
for observable in OBSERVABLES:
    (raw / observable).mkdir()
    for name, content in islice(fits_files(eight_hours, observable, "full_disk"), FRAMES_PER_STEP):
        (raw / observable / name).write_bytes(content)

# %% [markdown]
# The builder does not rely on the names or the order of files. It scans the headers, and assigns each frame to the 45
# s slot that its header states. It rejects and counts frames that are bad according to the keyword QUALITY.

# %%
observed = {
    observable: collect(raw / observable, scan_files(find_files(raw / observable))) for observable in OBSERVABLES
}
for observable, of_observable in observed.items():
    print(f"{observable}: {len(of_observable.frames)} frames of the form {of_observable.form!r}")

first = {observable: next(iter(of_observable.frames.values())) for observable, of_observable in observed.items()}
with fits.open(first["dopplergram"].file.path) as hdus:
    header = hdus[-1].header
for keyword in ("T_OBS", "QUALITY", "CTYPE1", "CDELT1", "CRPIX1", "CROTA2", "CRLN_OBS", "CRLT_OBS", "DSUN_OBS"):
    print(f"{keyword:8} = {header[keyword]}")

# %% [markdown]
# ## From images of the Sun to patches
#
# The header gives the position of each point of the Sun in the image (`Pointing`). `PatchMapper` uses it to map a
# square patch of 30 degrees around the region from every image: Postel's projection, north up. The patch moves with
# the region as the Sun rotates. (Real patches have 512 x 512 pixels. For these small images, 27 x 27 pixels are
# enough.)
#
# The images are upside down, like those of HMI: CROTA2 is near 180 degrees. In the dopplergram everything moves away
# at some 2 km/s, because of the orbit of the satellite. Only the patch is simulated. The surroundings continue its
# edge.

# %%
mapper = PatchMapper(read_region_file(raw).trajectory, size=27, degrees_per_pixel=1.12)

figure = Figure(figsize=(9, 7))
panels = figure.subplots(2, 3)
scales = {
    "dopplergram": ("RdBu_r", 4500, "m/s"),
    "magnetogram": ("gray", 300, "G"),
    "continuum": ("inferno", None, "DN"),
}
for (above, below), (observable, (colours, limit, unit)) in zip(panels.T, scales.items(), strict=True):
    with fits.open(first[observable].file.path) as hdus:
        image, pointing = hdus[-1].data, Pointing.from_header(hdus[-1].header)
    colouring = {"origin": "lower", "cmap": colours, "vmin": limit and -limit, "vmax": limit}
    drawn = above.imshow(image, **colouring)
    columns, rows = mapper.pixel_coordinates(pointing)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        above.plot(columns[edge], rows[edge], color="black" if observable == "dopplergram" else "cyan")
    below.imshow(mapper.map(image, pointing), **colouring | {"vmin": drawn.norm.vmin, "vmax": drawn.norm.vmax})
    above.set(title=f"{observable}\n{format_time(pointing.time)}", xticks=[], yticks=[])
    below.set(title="tracked: north up, east left", xticks=[], yticks=[])
    figure.colorbar(drawn, ax=below, location="bottom", label=unit, ticks=MaxNLocator(3))
show(figure, "1_tracking")

# %% [markdown]
# `interpolate_missing` takes a stream of patches, one for each 45 s slot, and interpolates missing pixels between
# their neighbours in time. It also returns which pixels of each patch were missing.


# %%
def patch_at(slot):
    """Return the patch in the dopplergram of a slot, or None if the dopplergram is missing or empty."""
    frame = observed["dopplergram"].frames.get(slot)
    return None if frame is None else read_patch(frame.file, mapper)


start = slot_of(eight_hours.times[0])
patches = list(interpolate_missing(patch_at(slot) for slot in range(start, start + FRAMES_PER_STEP)))
filled = sum(missing is not None for _, missing in patches)
print(f"{len(patches)} patches of {patches[0][0].shape}, {filled} of them filled in")

# %% [markdown]
# ## From patches to acoustic power
#
# Tracking ten days of ten regions would take longer than this walk-through. The simulation can also write tracked
# patches, with one day of frames per file, and the builder reads these too. Here are the 640 patches of our eight
# hours.

# %%
SUN = OUTPUT / "simulated_sun"
write_observations(SUN, REGIONS, steps=HOURS)


def patches_of(observable):
    """Return all patches of the region by 45 s slot; a plane without values is a missing frame."""
    patches = {}
    for file in scan_files(find_files(SUN / f"AR{REGION}" / observable)):
        patches |= zip(file.slots, read_planes(file, slice(None)), strict=True)
    return patches


dopplergrams = patches_of("dopplergram")
patches = list(interpolate_missing(dopplergrams[slot] for slot in range(start, start + WINDOW_FRAMES)))
velocity = np.stack([patch for patch, _ in patches])
filled = sum(missing is not None for _, missing in patches)
print(f"velocity {velocity.shape} m/s, {filled} frames filled in")

# %% [markdown]
# Sound waves make the surface of the Sun oscillate, mostly between 2 and 6 mHz. A magnetic field absorbs these waves,
# and is reported to do so before it surfaces (arXiv 2402.08890). In this simulation it does so three hours before.
#
# `band_power` computes the differences of neighbouring frames, which removes the rotation of the Sun and the motion of
# the satellite, and sums their power spectrum in four bands for each pixel. The dark hole is the region. In the
# highest band, the weak field around the region is brighter than the quiet Sun: the acoustic halo.

# %%
power = band_power(velocity)
print(f"power {power.shape} (m/s)^2 per Hz, summed over bins")

figure = Figure(figsize=(9, 3.2))
for axes, (low, high), band in zip(figure.subplots(1, 4), BAND_EDGES_MHZ, power, strict=True):
    drawn = axes.imshow(band / 1e6, origin="lower", cmap="viridis")
    axes.set(title=f"{low}-{high} mHz", xticks=[], yticks=[])
    figure.colorbar(drawn, ax=axes, location="bottom", ticks=MaxNLocator(4, prune="both"))
figure.suptitle("Acoustic power of eight hours (10⁶ (m/s)² per Hz, summed over bins)")
show(figure, "2_power_maps")

# %% [markdown]
# ## From maps to 63 tiles
#
# A patch is divided into 9 x 9 tiles, row 0 in the south and column 0 in the east. The tiles contain a background that
# depends on latitude, because we look at the north and the south of the patch from the side. In every column, a line
# between the southern and the northern row is subtracted. These two rows become 0, and 63 tiles in 7 rows are kept.
#
# The absolute value of the magnetogram is computed for each pixel first, because opposite polarities in a tile would
# cancel.

# %%
magnetogram, continuum = (patches_of(name)[start + FIELD_FRAME] for name in ("magnetogram", "continuum"))
maps = np.concatenate([power, np.abs(magnetogram)[np.newaxis], continuum[np.newaxis]])
tiles = tile_means(maps)
kept = keep_tiles(remove_latitude_background(tiles))
print(f"maps {maps.shape} -> tiles {tiles.shape} -> without background {kept.shape}")

shown = CHANNELS.index("power_3_4mhz")
pictures = {
    "a map of 27 x 27 pixels": maps[shown],
    "means over 9 x 9 tiles": tiles[shown].reshape(PATCH_ROWS, PATCH_COLUMNS),
    "background removed, 63 tiles": kept[shown].reshape(TILE_ROWS, TILE_COLUMNS),
}
figure = Figure(figsize=(9, 3.8))
panels = figure.subplots(1, 3)
for axes, (title, values) in zip(panels, pictures.items(), strict=True):
    drawn = axes.imshow(values / 1e6, origin="lower", cmap="viridis")
    axes.set(title=title, xticks=range(PATCH_COLUMNS))
    axes.grid(visible=False)
    figure.colorbar(drawn, ax=axes, location="bottom")
for edge in 3 * np.arange(1, PATCH_ROWS) - 0.5:
    panels[0].axhline(edge, color="white", linewidth=0.5)
    panels[0].axvline(edge, color="white", linewidth=0.5)
panels[0].set(xticks=[], yticks=[])
panels[1].set(xlabel="column, east to west", ylabel="row, south to north", yticks=range(PATCH_ROWS))
panels[2].set_yticks(range(TILE_ROWS), range(1, TILE_ROWS + 1))
figure.suptitle("Acoustic power at 3-4 mHz (10⁶ (m/s)² per Hz, summed over bins)")
show(figure, "3_tiles")

# %% [markdown]
# ## The dataset
#
# Now we do the same for every hour of ten days, and for ten regions. If you run this cell again, it only does the
# remaining work.
#
# The work runs on a Dask cluster. In a notebook, or below `if __name__ == "__main__":`, `FitsSource(folder)` starts a
# cluster with one process per core; with `scheduler` it uses your own cluster. Here the cluster is a single thread of
# this process, so that these cells also run as a plain script. This takes some twenty seconds.

# %%
with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
    source = FitsSource(SUN, scheduler=cluster.scheduler_address)
    report = build_dataset(source, OUTPUT / "dataset", progress=True)
print(f"{report.regions} regions, {report.rows} rows, {report.bytes:,} bytes of Parquet in {report.folder}")

manifest = json.loads((OUTPUT / "dataset" / "manifest.json").read_text())
for region in manifest["regions"]:
    number, filled, lost = region["ar_number"], region["interpolated_frames"], region["unobserved"]
    why = f": {lost[0]['reasons'][0]}" if lost else ""
    print(f"AR{number}: {region['steps']} steps, frames filled in for {len(filled)}, {len(lost)} lost{why}")

# %% [markdown]
# This folder can be pushed to the Hugging Face Hub, and `load_dataset` reads it from both places. One row is one step
# of one region: the time and six lists of 63 physical values. A value that was not observed is NaN.

# %%
dataset = str(OUTPUT / "dataset")
rows = load_dataset(dataset, split="test")
print(rows)
for name in CHANNELS:
    print(f"{name:24} {UNITS[name]}")
catalog = load_dataset(dataset, "catalog", split="regions").to_pandas()
print(catalog[["ar_number", "split", "steps", "gaps", "nan_steps"]].to_string(index=False))

# %% [markdown]
# Does the step in the dataset agree with the step that we computed ourselves?

# %%
timelines = {timeline.ar_number: timeline for timeline in load_timelines(dataset, "test")}
timeline = timelines[REGION]
for name, ours, theirs in zip(CHANNELS, kept, timeline.values[STEP], strict=True):
    print(f"{name:24} differs by {np.abs(ours - theirs).max() / np.abs(theirs).max():.0e} of its largest value")

# %% [markdown]
# ## Why a forecast is possible
#
# The timeline of the region shows a quiet Sun, and within a day an active region. The first figure shows all tiles,
# the second one the darkest tile. Because the region is simulated, we know when its flux began to surface.

# %%
show(plot_timeline(timeline, f"AR{REGION}"), "4_timeline")

truth = emergence(REGION)
tile = int(np.nanmin(timeline.intensity, axis=0).argmin())
hours = (timeline.times - timeline.times[0]) / np.timedelta64(1, "h")
onset = (observed_onsets(timeline)[tile] - timeline.times[0]) / np.timedelta64(1, "h")

figure = Figure(figsize=(9, 7))
panels = figure.subplots(3, 1, sharex=True)
of_tile = dict(zip(CHANNELS, timeline.values[:, :, tile].T, strict=True))
for name, (low, high) in zip(CHANNELS, BAND_EDGES_MHZ, strict=False):
    panels[0].plot(hours, of_tile[name] / 1e6, label=f"{low}-{high} mHz")
panels[1].plot(hours, of_tile["unsigned_magnetic_flux"])
panels[2].plot(hours, of_tile["continuum_intensity"])
for axes, label in zip(panels, ("power\n(10⁶ (m/s)² per Hz)", "unsigned flux (G)", "intensity (DN)"), strict=True):
    axes.set_ylabel(label)
    axes.axvline(truth.onset_hours, color="black", linestyle="--", label="flux surfaces")
    axes.axvline(onset, color="black", linestyle=":", label="onset: intensity falls")
panels[0].legend(*(entries[:4] for entries in panels[0].get_legend_handles_labels()), loc="lower left")
panels[2].legend(loc="lower left")
panels[2].set(xlabel="hours since the first step", xlim=(truth.onset_hours - 36, truth.onset_hours + 84))
figure.suptitle(f"AR{REGION}, tile {tile}: power falls, flux grows, and only then the intensity falls")
show(figure, "5_why")
print(f"tile {tile}: flux surfaces at {truth.onset_hours:.0f} h, the onset in intensity is at {onset:.0f} h")

# %% [markdown]
# The power falls first, because the waves meet the field before it surfaces, and because each step contains the eight
# hours around it. The flux follows. The intensity falls last, when the flux is dense enough for pores and spots. The
# past of the first five channels therefore contains information about the future of the sixth channel.
#
# The *onset* follows the published definition: the smoothed intensity falls by more than 1 % of the region's range per
# hour, for four hours or more.
#
# ## Windows, gaps and splits
#
# A model sees 48 steps, and forecasts the intensity of all tiles 12 h after the last of these steps. `SolaredWindows`
# cuts such windows. A window never spans a gap, and never has a filled target. The report gives the number of windows
# of each region, and why other windows were dropped. A torch `DataLoader` can use the windows directly.
#
# Splits are by region. The windows of one region overlap, so windows of test regions must not be used in training. The
# normalisation also comes from the train split only.

# %%
INPUT_STEPS, HORIZON = 48, timedelta(hours=12)
windows = SolaredWindows(load_dataset(dataset, split="train"), input_steps=INPUT_STEPS, horizon=HORIZON)
print(f"{len(windows)} windows for training", *windows.report(), sep="\n")
print({name: tuple(values.shape) for name, values in windows.batch(range(8)).items()})

# %% [markdown]
# ## A model
#
# A model must beat *persistence*, which repeats the last intensity. Persistence is hard to beat while nothing happens,
# and always too late when something happens.
#
# We train the family of `solared-quantile-trajectory`, a model in the package. It forecasts the change of each tile
# from its last intensity, 1 to 24 h ahead, with quantiles. The arguments are those of transformers' `Trainer`. The
# command for the same training is `solared train --config quantile_trajectory --dataset FOLDER`. It takes half a
# minute on two cores.

# %%
model = str(OUTPUT / "model")
options = {
    "model_type": "quantile_trajectory",
    "model_config": json.dumps({"num_members": NETWORKS}),
    "dataset": dataset,
    "output_dir": model,
    "input_steps": INPUT_STEPS,
    "horizon_hours": HORIZON / timedelta(hours=1),
    "num_train_epochs": EPOCHS,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 64,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.15,
    "weight_decay": 0.1,
    "load_best_model_at_end": False,
    "report_to": "none",
    # An interrupted run is resumed, and a finished run is not trained again.
    "resume_from_checkpoint": "last",
}
metrics = train(parse_arguments([part for name, value in options.items() for part in (f"--{name}", str(value))]))
print(
    f"{metrics['parameters']:,} parameters, skill on the validation split {metrics['validation']['eval_skill']:+.2f}"
)

# %% [markdown]
# ## Scores
#
# Scores always stand beside those of persistence, in DN and with an interval. The interval is a bootstrap over
# regions, because the windows of one region are not independent. With two regions, it is only a hint. Skill is the
# share of the squared error of persistence that the model removes. A model with a skill below 0 is worse than
# persistence.
#
# With real data, do not use the test split before all choices are made.

# %%
forecaster = load_forecaster(model)
scores = score_on_split(forecaster, dataset, "test")
scores.print()

# %% [markdown]
# Is the uncertainty realistic? 80 % of the observations should be between the quantiles 0.1 and 0.9.

# %%
of_region = forecaster.windows([timeline])
quantiles = forecaster.quantiles(of_region, of_region.horizon_steps)[:, -1]
low, high = interval_of_80_percent(quantiles, forecaster.quantile_levels)
print(f"within the 80 % interval: {coverage(low, high, of_region.observed_targets):.0%} of AR{REGION}")

# %% [markdown]
# ## The forecast of a region
#
# Each line consists of forecasts for 12 h after the last step that the model saw. A step contains the eight hours
# around it, so a forecast can be issued four hours after its last step, which leaves 8 h. The alarm for a tile is the
# first forecast whose trajectory contains an onset. It counts from the moment when it could be issued.

# %%
scale = alarm_scale(load_timelines(dataset, "train"))
show(plot_region_forecast(forecaster, timeline, scale), "6_forecast")

# %% [markdown]
# Which onsets in the test regions would the model have warned of? A hit is an alarm up to 24 h before the onset. An
# alarm at the onset or later is late.

# %%
windows = forecaster.windows(timelines.values(), require_target=False)
for name, compared in {"model": forecaster, "persistence": load_forecaster("persistence")}.items():
    alarms = issue_alarms(windows, forecast_trajectories(compared, windows), scale)
    score = add_up(score_alarms(windows, alarms).values())
    lead = f", {np.median(score.lead_hours):.0f} h ahead in the median" if score.lead_hours else ""
    print(
        f"{name}: {score.hits} of {score.onsets} onsets warned of{lead}; {score.late} late, {score.missed} missed, "
        f"{score.false_alarms} false alarms"
    )

# %% [markdown]
# ## The current forecast
#
# In operation, the target is unknown. With `require_target=False`, the windows reach up to the latest step. Here is
# the forecast that could have been issued four hours before the onset of the darkest tile, or the first forecast.
#
# Compare the forecast with the later observations. The intervals are right on average over all tiles, most of which
# are quiet. When the intensity falls, the intervals tend to be too narrow, and the fall is steeper than forecast.

# %%
windows = forecaster.windows([timeline], require_target=False)
issued = windows.last_input_times + np.timedelta64(AVAILABILITY_DELAY)
before = observed_onsets(timeline)[tile] - np.timedelta64(4, "h")
now = max(np.searchsorted(issued, before, side="right") - 1, 0)
last = np.searchsorted(timeline.times, windows.last_input_times[now])
print(f"issued {format_time(issued[now])} for tile {tile}, last seen at {timeline.intensity[last, tile]:.0f} DN")
path = forecaster.quantiles(windows, 24)[now, :, :, tile]
for ahead in (6, 12, 18, 24):
    low, middle, high = (path[ahead - 1, forecaster.quantile_levels.index(level)] for level in (0.1, 0.5, 0.9))
    later = timeline.intensity[last + ahead, tile]
    print(f"{ahead:2} h later: {middle:6.0f} DN, 80 % interval {low:6.0f} to {high:6.0f} DN; seen: {later:6.0f} DN")

# %% [markdown]
# ## Next steps
#
# - **Real data**: `solared import nasa-impact/ar_emergence --output solared` downloads the published files, and builds
#   the same kind of folder from them. All cells from "Windows, gaps and splits" on also work with that folder.
# - **Your own regions**: `solared select`, `solared download` and `solared build --source fits`.
# - **Trained models**: the package contains some, each with a card. `load_forecaster("solared-quantile-trajectory")`
#   loads a model by name, and `solared benchmark` compares it with strong baselines on real data.
# - **Longer training, more GPUs**: `accelerate launch scripts/train.py --config quantile_trajectory`.
# - **Sharing**: `solared push FOLDER --repo-id you/name` pushes a dataset or a model to the Hub, with its card.
#
# README lists the commands, and each of its snippets is tested.

# %%
for name, folder in committed_models().items():
    print(f"{name}: {folder}")
