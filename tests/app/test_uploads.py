"""Uploads: which files are read or refused, and who sees them."""

import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builder.simulation import simulate_region
from solared_hf import SolaredError, Timeline
from solared_hf.app.regions import Region
from solared_hf.app.uploads import (
    MOST_MEGABYTES,
    MOST_STEPS,
    MOST_STEPS_OF_A_REGION,
    Uploads,
    read_upload,
    take_files,
)
from tests.app.conftest import code_as_times, parquet, published


def refusal(files: dict[str, bytes]) -> str:
    with pytest.raises(SolaredError) as refused:
        read_upload(files)
    return str(refused.value)


def contents(paths) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths}


def same(first: Timeline, other: Timeline) -> bool:
    return first.ar_number == other.ar_number and np.array_equal(first.values, other.values, equal_nan=True)


def test_parquet_and_published_files_give_the_same_regions(tmp_path, own_region):
    other = simulate_region(90023, steps=30)
    (region,) = read_upload({"mine.parquet": parquet(own_region)})
    assert same(region, own_region)
    both = read_upload({"a.parquet": parquet(own_region, other)})
    assert [region.ar_number for region in both] == [90021, 90023]
    files = contents(published(tmp_path, own_region) + published(tmp_path, other))
    assert all(map(same, read_upload(files), both))
    assert all(
        map(same, read_upload({"a.parquet": parquet(other), **contents(published(tmp_path, own_region))}), both)
    )


def test_other_file_formats_are_refused(tmp_path):
    assert refusal({"notes.txt": b"words"}).startswith("notes.txt is neither Parquet nor npz. Upload one Parquet file")
    assert refusal({"a.parquet": b""}) == "a.parquet is empty. Upload the whole file."
    assert refusal({"a.parquet": b"words, no rows"}).startswith("a.parquet cannot be read as Parquet (")
    assert refusal({"thesis.npz": b"PK"}).startswith(
        "thesis.npz is not the name of a published file. Rename the three"
    )
    assert refusal({}).startswith("The upload holds no step. Upload one Parquet file")


def test_parquet_file_with_other_columns_is_refused(own_region):
    def written(table: pa.Table) -> dict[str, bytes]:
        content = io.BytesIO()
        pq.write_table(table, content)
        return {"a.parquet": content.getvalue()}

    table = own_region.to_table()
    assert "has no column continuum_intensity" in refusal(written(table.drop_columns(["continuum_intensity"])))
    words = table.set_column(1, "step", pa.array(["word"] * len(table)))
    assert refusal(written(words)).startswith(
        "The column step of a.parquet does not hold numbers. Upload one Parquet file"
    )
    assert "The upload holds no step" in refusal(written(table.slice(0, 0)))
    # Additional columns are ignored.
    assert same(read_upload(written(table.append_column("notes", pa.array(["word"] * len(table)))))[0], own_region)


def test_small_file_with_a_large_table_is_refused():
    columns = {"ar_number": np.full(MOST_STEPS + 1, 1), "step": np.zeros(MOST_STEPS + 1)}
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    assert len(content.getvalue()) < 10_000
    assert refusal({"a.parquet": content.getvalue()}).startswith(f"a.parquet has more than {MOST_STEPS:,} steps. Upl")
    lists = pa.array([np.zeros(MOST_STEPS * 64)])
    content = io.BytesIO()
    pq.write_table(pa.table({"power_2_3mhz": lists}), content)
    assert len(content.getvalue()) < 100_000
    assert refusal({"a.parquet": content.getvalue()}).startswith(f"a.parquet has more than {MOST_STEPS:,} steps. Upl")


def test_all_three_published_files_are_needed(tmp_path, own_region):
    power, *others = sorted(published(tmp_path, own_region), reverse=True)
    assert refusal(contents([power])) == (
        "AR90021 lacks mean_mag90021_flat.npz and mean_int90021_flat.npz. Choose all three files of the region at "
        "once."
    )
    assert "AR90021 lacks mean_pmdop90021_flat.npz." in refusal(contents(others))


def test_code_in_a_published_file_is_not_run(tmp_path, own_region):
    files, marker = published(tmp_path, own_region), tmp_path / "was_run"
    for path in files:
        code_as_times(path, marker)
    assert "Download it again" in refusal(contents(files))
    assert not marker.exists()


def test_impossible_observations_are_refused(own_region):
    table = own_region.to_table()

    def written(column: str, values: pa.Array) -> dict[str, bytes]:
        content = io.BytesIO()
        pq.write_table(table.set_column(table.column_names.index(column), column, values), content)
        return {"a.parquet": content.getvalue()}

    power = own_region.values[:, 0].copy()
    power[5, 7] = np.inf
    infinite = refusal(written("power_2_3mhz", pa.array(list(power), table.schema.field("power_2_3mhz").type)))
    assert infinite.startswith("AR90021 has infinite values, first in power_2_3mhz at step 5, tile 7. Replace values")
    early = refusal(written("time_tai", pa.array(own_region.times - np.timedelta64(60 * 365, "D"))))
    assert early.startswith("AR90021 has step 0 at 1941-")
    assert "which is before 1990 or after 2099. Check the unit" in early
    long = simulate_region(90021, steps=MOST_STEPS_OF_A_REGION + 1)
    assert refusal({"a.parquet": parquet(long)}).startswith("AR90021 has 1,501 steps, more than the 1,500")
    twice = {"a.parquet": parquet(own_region), "b.parquet": parquet(own_region)}
    assert refusal(twice) == "AR90021 is in more than one file. Upload the region once."


def test_uploaded_files_are_deleted_even_if_refused(tmp_path):
    paths = [tmp_path / "one.npz", tmp_path / "two.npz"]
    for path in paths:
        path.write_bytes(b"12")
    assert take_files(map(str, paths)) == {"one.npz": b"12", "two.npz": b"12"}
    assert not list(tmp_path.iterdir())
    with pytest.raises(SolaredError, match="The upload was cut off"):
        take_files(map(str, paths))
    with (tmp_path / "large.npz").open("wb") as file:
        os.truncate(file.fileno(), int(MOST_MEGABYTES * 1e6) + 1)
    with pytest.raises(SolaredError, match="more than 20 MB"):
        take_files([str(tmp_path / "large.npz")])
    assert not list(tmp_path.iterdir())


def test_upload_belongs_to_its_session(own_region):
    uploads = Uploads(most_sessions=2)
    regions = {name: {"own-1": Region(own_region, name, own_region.times)} for name in ("ann", "ben", "eve")}
    uploads.keep("ann", regions["ann"])
    uploads.keep("ben", regions["ben"])
    assert (uploads.of("ann"), uploads.of("ben"), uploads.of("eve")) == (regions["ann"], regions["ben"], {})
    # Ben's session is idle longest, because Ann's regions have just been read.
    uploads.of("ann")
    uploads.keep("eve", regions["eve"])
    assert (uploads.of("ann"), uploads.of("ben"), len(uploads)) == (regions["ann"], {}, 2)
    uploads.forget("ann")
    uploads.forget("ann")
    assert (uploads.of("ann"), len(uploads)) == ({}, 1)
