"""What makes the data: from observations, or the published files, to a dataset folder ready for the Hub.

A reader who follows the data meets the modules in this order:

- which regions: `catalog`; their observations: `jsoc`; the layout they are kept in: `region_folders`, `region_file`;
- what FITS files hold, when and how good: `observations`, `times`, `axes`, `units`, `quality`, `calibration`; which
  steps follow: `plan`;
- pure functions of arrays: `tracking`, `interpolation`, `acoustic_power`, `tiles`; all for some steps: `reduction`;
- many runs at once: `cluster`, `fits_source`; the published files instead: `published`, `sources`, and from the Hub:
  `published_index`, `hub_import`;
- from timelines to the folder: `shards`, `build`, `publish`; from the folder to the Hub: `dataset_folder`;
- a Sun to try all this on: `simulate` (timelines), `simulate_observations` (frames), `simulate_fits` (files).
"""
