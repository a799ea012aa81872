"""The dataset card describes the data, in YAML that the libraries accept and in text generated from facts."""

import json
import re

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard
from jinja2 import UndefinedError

from dataset_builder import build_dataset
from dataset_builder.description import BENCHMARK_REGIONS, dataset_card, moments, overlaps, region_facts, statistics
from dataset_builder.published import PublishedSource, read_timeline
from dataset_builder.simulation import write_simulated
from dataset_builder.sources import find_regions
from solared_hf.hub.cards import card_for, render
from solared_hf.schema import CHANNELS, POWER_CHANNELS, SCHEMA_VERSION, UNITS, catalog_features, timeline_features
from solared_hf.splits import SPLITS, published_split


@pytest.fixture(scope="module")
def manifest(simulated_dataset) -> dict:
    return json.loads((simulated_dataset / "manifest.json").read_text())


@pytest.fixture(scope="module")
def card(manifest) -> str:
    return dataset_card(manifest)


@pytest.fixture(scope="module")
def published_manifest(manifest) -> dict:
    """The manifest with the numbers of four real regions."""
    numbers = {90001: 11130, 90002: 11149, 90003: 11726, 90004: 11190}
    regions = [
        {**region, "ar_number": numbers[region["ar_number"]], "split": published_split(numbers[region["ar_number"]])}
        for region in manifest["regions"]
        if region["ar_number"] in numbers
    ]
    return {**manifest, "simulated": False, "regions": regions}


def test_card_equals_the_readme_of_the_folder_and_ends_in_one_newline(simulated_dataset, card):
    assert (simulated_dataset / "README.md").read_bytes() == card.encode()
    assert card.endswith(".\n")
    assert not card.endswith("\n\n")
    assert "\n\n\n" not in card
    assert "None" not in card


def test_libraries_read_the_yaml_of_the_card(card, manifest, tmp_path):
    data = DatasetCard(card).data
    assert yaml.safe_load(card.split("---\n")[1]) == data.to_dict()
    assert data.get("schema_version") == SCHEMA_VERSION
    assert data.task_categories == ["time-series-forecasting"]
    assert data.size_categories == ["1K<n<10K"]

    configs = MetadataConfigs.from_dataset_card_data(data)
    assert configs.get_default_config_name() == "timelines"
    expected = [{"split": split, "path": f"data/{split}/AR*.parquet"} for split in SPLITS]
    assert configs["timelines"]["data_files"] == expected
    assert configs["catalog"]["data_files"] == [{"split": "regions", "path": "catalog/regions.parquet"}]

    infos = DatasetInfosDict.from_dataset_card_data(data)
    assert infos["timelines"].features == timeline_features()
    assert infos["catalog"].features == catalog_features()


@pytest.mark.parametrize("streaming", [False, True])
def test_one_region_is_loaded_by_a_filter(simulated_dataset, manifest, streaming):
    """The YAML must not prevent loading a part of a split."""
    steps = {region["ar_number"]: region["steps"] for region in manifest["regions"]}
    for split, number in (("train", 90003), ("test", 90010)):
        only = [("ar_number", "==", number)]
        region = load_dataset(str(simulated_dataset), split=split, filters=only, streaming=streaming)
        assert [row["ar_number"] for row in region] == [number] * steps[number]
    only = [("ar_number", "in", [90001, 90009])]
    rows = load_dataset(str(simulated_dataset), "catalog", split="regions", filters=only, streaming=streaming)
    assert [row["steps"] for row in rows] == [steps[90001], steps[90009]]


def test_the_snippets_of_the_card_run_as_written(simulated_dataset, manifest):
    loaded = {}
    for snippet in re.findall(
        r"^```python\n(.*?)^```",
        dataset_card(manifest).replace("path/to/this/folder", str(simulated_dataset)),
        re.S | re.M,
    ):
        exec(compile(snippet, "README.md", "exec"), loaded)
    assert {split: rows.num_rows for split, rows in loaded["dataset"].items()} == {
        split: sum(region["steps"] for region in manifest["regions"] if region["split"] == split) for split in SPLITS
    }
    assert set(loaded["region"]["ar_number"]) == {90009}
    assert set(loaded["test"]["ar_number"]) == {90009, 90010}
    assert next(iter(loaded["stream"])) == loaded["pinned"][0] == loaded["test"][0]
    assert loaded["catalog"].num_rows == len(manifest["regions"])
    assert loaded["windows"][0]["past_values"].shape == (48, 6, 63)
    assert loaded["windows"][0]["future_values"].shape == (63,)


def test_the_card_of_a_repository_loads_that_repository(card):
    elsewhere = card_for("solared-team/ar_emergence", card.encode()).decode()
    assert elsewhere.count("solared-team/ar_emergence") == 1
    assert "path/to/this/folder" not in elsewhere


def test_sizes_in_the_manifest_match_the_files(simulated_dataset, manifest):
    described = {region["path"]: region["bytes"] for region in manifest["regions"]}
    described[manifest["catalog"]["path"]] = manifest["catalog"]["bytes"]
    found = simulated_dataset.rglob("*.parquet")
    assert described == {path.relative_to(simulated_dataset).as_posix(): path.stat().st_size for path in found}


def test_card_of_simulated_data_does_not_mention_observations(card):
    assert "Simulated data" in card
    assert "Nothing in this dataset was observed" in card
    assert DatasetCard(card).data.license == "apache-2.0"
    for claim in ("nasa-impact", "JSOC", "Princeton", "older descriptions", "AR13213"):
        assert claim not in card


def test_published_card_lists_discrepancies_and_open_questions(published_manifest):
    card = dataset_card(published_manifest)
    data = DatasetCard(card).data
    assert (data.license, data.license_name) == ("other", "to-be-confirmed-with-the-authors")
    assert "Simulated" not in card
    powers = [split[name] for split in published_manifest["statistics"].values() for name in POWER_CHANNELS]
    lowest, highest = min(power["min"] for power in powers), max(power["max"] for power in powers)
    for fact in (
        'repository = "path/to/this/folder"',
        "the files go from 2001-01-01 to 2001-01-10",
        "In the index, AR11190 stands among rows of",
        f"here it is {lowest:.4g} to {highest:.4g}",
        "The cadence is 1 h",
        "The original description says 12 minutes and 2 days",
        "The benchmark lists 57; 4 of them are here",
        "do not state a license",
        "February 2023",
        "arXiv 2508.14107",
    ):
        assert fact in card
    absent = card.split("Absent: ")[1].split(".\n")[0].split(", ")
    assert len(absent) == 53
    assert "AR13098" in absent
    assert "AR11130" not in absent


def test_benchmark_has_57_regions():
    """There are 41 train, 5 test and 11 validation regions."""
    splits = [published_split(number) for number in BENCHMARK_REGIONS]
    assert [splits.count(split) for split in SPLITS] == [41, 11, 5]


def test_every_published_region_belongs_to_the_benchmark(published_dir):
    assert {int(path.name[2:]) for path in find_regions(published_dir)} <= BENCHMARK_REGIONS


def test_card_states_units_gaps_and_every_region(card, manifest):
    for channel in CHANNELS:
        assert f"| `{channel}` | float32[63] | {UNITS[channel]} |" in card
    for region in manifest["regions"]:
        assert f"| AR{region['ar_number']} | {region['start_tai'][:16]} |" in card
    assert card.count("- AR90003: 9 missing between 2001-01-24T23:59 and 2001-01-25T09:59") == 1
    assert "some tiles are NaN: AR90005." in card


def test_statistics_match_the_values(simulated_published, manifest):
    timelines = [read_timeline(path) for path in find_regions(simulated_published)[:6]]
    described = manifest["statistics"]["train"]
    assert list(manifest["statistics"]) == sorted(SPLITS)
    for index, channel in enumerate(CHANNELS):
        values = np.concatenate([timeline.values[:, index].ravel() for timeline in timelines]).astype(np.float64)
        facts = described[channel]
        assert facts["count"] == np.isfinite(values).sum()
        moments = [moment(values) for moment in (np.nanmin, np.nanmax, np.nanmean, np.nanstd)]
        found = [facts[name] for name in ("min", "max", "mean", "std", "nan_share")]
        np.testing.assert_allclose(found, [*moments, np.isnan(values).mean()], rtol=1e-5)
    assert described["power_2_3mhz"]["nan_share"] > described["continuum_intensity"]["nan_share"] > 0


def test_statistics_of_a_channel_of_nan_only(make_timeline):
    timeline = make_timeline(11130, 5)
    timeline.values[:, 2] = np.nan
    facts = statistics([{"steps": len(timeline), "statistics": moments(timeline)}])["power_4_5mhz"]
    assert facts == {"count": 0, "min": None, "max": None, "mean": None, "std": None, "nan_share": 1.0}


def test_facts_of_gaps_and_of_repeated_frames(make_timeline):
    timeline = make_timeline(11130, 30, missing=(10, 11, 12, 20))
    timeline.values[5:8, 4:] = timeline.values[5, 4:]
    facts = region_facts(timeline)
    assert [gap["missing_steps"] for gap in facts["gaps"]] == [3, 1]
    assert facts["gaps"][0]["after_tai"] == "2013-04-15T23:59:37.500"
    assert (facts["steps"], facts["missing_steps"], facts["repeated_frames"]) == (26, 4, 2)


def test_gaps_of_broken_length_count_the_same_everywhere(make_timeline):
    """One half, three halves and five halves of a cadence."""
    timeline = make_timeline(11130, 12)
    for step, hours in ((3, -0.5), (6, 0.5), (9, 1.5)):
        timeline.times[step:] += np.timedelta64(int(hours * 60), "m")
    facts = region_facts(timeline)
    assert [gap["missing_steps"] for gap in facts["gaps"]] == [0, 1, 2]
    assert facts["missing_steps"] == timeline.missing_steps == 3


def test_nan_at_the_limb_is_told_from_other_nan(make_timeline):
    def at_ends(*places) -> bool:
        timeline = make_timeline(11130, 10)
        grid = timeline.values.reshape(10, len(CHANNELS), 7, 9)
        for place in places:
            grid[place] = np.nan
        return region_facts(timeline)["nan_at_ends"]

    everything = slice(None)
    assert at_ends()
    assert at_ends((slice(0, 3), 2, everything, 0), (slice(8, 10), everything, everything, 8))
    assert not at_ends((slice(3, 4), 2, everything, 0))  # in the middle of the timeline
    assert not at_ends((slice(0, 3), 2, everything, 8))  # at the other limb
    assert not at_ends((slice(8, 10), 2, everything, 0))
    assert not at_ends((slice(0, 3), 2, slice(0, 6), 0))  # part of a column
    assert not at_ends((everything,))


def test_card_says_where_nan_are_only_if_it_is_true(published_manifest):
    sentence = "NaN values fill whole columns of tiles"
    assert sum(region["nan_steps"] for region in published_manifest["regions"]) == 0
    assert sentence not in dataset_card(published_manifest)
    first, *others = published_manifest["regions"]
    for at_ends in (True, False):
        regions = [{**first, "nan_steps": 2, "nan_at_ends": at_ends}, *others]
        card = dataset_card({**published_manifest, "regions": regions})
        assert (sentence in card) == at_ends


def test_card_says_that_nothing_is_filled_if_no_frames_were_interpolated(card):
    assert "Nothing is filled." in card
    assert "interpolated" not in card


def test_card_cites_the_article_in_full(card):
    entry = re.search(r"^@article\{kasapis2025,\n(.*?)^\}", card, re.S | re.M)[1]
    assert re.findall(r"^  (volume|number|eid) = \{(\d+)\},$", entry, re.M) == [
        ("volume", "280"),
        ("number", "2"),
        ("eid", "64"),
    ]


def test_card_states_the_weights_of_the_correction(card):
    assert "(0, 2, 4, 6, 9, 12, 14, 16, 18)/18" in card
    assert "straight line" not in card


def test_descriptions_change_when_the_data_change(manifest):
    def descriptions(manifest: dict) -> dict[str, str]:
        return {
            config["config_name"]: config["description"]
            for config in DatasetCard(dataset_card(manifest)).data["configs"]
        }

    before = descriptions(manifest)
    assert before == descriptions(json.loads(json.dumps(manifest)))
    first, *others = manifest["regions"]
    after = descriptions({**manifest, "regions": [{**first, "sha256": "0" * 64}, *others]})
    assert after["timelines"] != before["timelines"]
    assert after["catalog"] == before["catalog"]
    after = descriptions({**manifest, "catalog": {**manifest["catalog"], "sha256": "0" * 64}})
    assert after["timelines"] == before["timelines"]
    assert after["catalog"] == f"sha256 {'0' * 64}"


def test_overlaps_in_time(make_timeline):
    def facts(number, start, steps):
        timeline = make_timeline(number, start + steps, missing=range(start))
        return region_facts(timeline)

    pairs = overlaps([facts(3, 30, 10), facts(1, 0, 10), facts(2, 5, 26)])
    found = [(pair["first"]["ar_number"], pair["second"]["ar_number"], pair["hours"]) for pair in pairs]
    assert found == [(1, 2, 4.0), (2, 3, 0.0)]


def test_card_counts_overlaps_that_are_divided_between_splits(published_manifest):
    """Four regions at the same time, two of them in train: only one of six pairs is within a split."""
    first, *_ = published_manifest["regions"]
    span = {name: first[name] for name in ("start_tai", "end_tai")}
    regions = [{**region, **span} for region in published_manifest["regions"]]
    assert [region["split"] for region in regions] == ["train", "train", "test", "validation"]
    card = dataset_card({**published_manifest, "regions": regions})
    assert "Of 6 pairs, 5 are divided between two splits." in card
    assert "- AR11130 (train) and AR11726 (test): 239 h" in card


def test_card_of_one_region_without_gaps_and_overlaps(tmp_path):
    write_simulated(tmp_path / "in", (90001,), steps=20)
    build_dataset(PublishedSource(tmp_path / "in"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "No two regions." in card
    assert card.count("\nNone.\n") == 2
    assert [item["split"] for item in DatasetCard(card).data["configs"][1]["data_files"]] == ["train"]
    assert 'train = load_dataset(repository, split="train")' in card
    for fact in (
        "follows one of them from before it is\nvisible",
        "### train: 1 region\n",
        "| steps a region | 20, up to",
        "- One region, which emerged. The dataset holds no quiet Sun",
    ):
        assert fact in card


def test_card_counts_in_the_singular(published_manifest):
    """Two regions of two splits at the same time, one of which repeats a frame."""
    first, *_, last = published_manifest["regions"]
    span = {name: first[name] for name in ("start_tai", "end_tai")}
    regions = [{**first, "repeated_frames": 1}, {**last, **span, "repeated_frames": 0}]
    described = {region["split"]: published_manifest["statistics"][region["split"]] for region in regions}
    card = dataset_card({**published_manifest, "regions": regions, "statistics": described})
    assert "Of 1 pair, 1 is divided between two splits." in card
    assert "(1 step in all)" in card


def test_a_missing_fact_is_an_error():
    with pytest.raises(UndefinedError):
        render("dataset_card_published.md.j2", {"front_matter": "", "regions": {"train": []}})
