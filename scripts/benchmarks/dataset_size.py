"""Size on disk and time to build of the dataset folder, against the published npz files or simulated files."""

import os
import tempfile
import time
from pathlib import Path

from dataset_builder import build_dataset
from dataset_builder.published import PublishedSource
from dataset_builder.simulation import write_simulated

PUBLISHED = Path(
    os.environ.get("SOLARED_PUBLISHED_DIR", Path(__file__).parents[2].parent / "shared" / "data" / "solared")
)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "dataset"
        kind, raw = "published", PUBLISHED
        if not PUBLISHED.is_dir():
            kind, raw = "simulated", Path(temporary) / "simulated_sun"
            write_simulated(raw)
        times = []
        for _ in range(2):
            start = time.perf_counter()
            report = build_dataset(PublishedSource(raw), output)
            times.append(time.perf_counter() - start)
        npz, folder = bytes_in(raw), bytes_in(output)
    print(f"{report.regions} {kind} regions: npz {npz:,} bytes, dataset folder {folder:,} bytes: {folder / npz:.3f}")
    print(f"build {times[0]:.2f} s, again with nothing to do {times[1]:.2f} s: {times[0] / times[1]:.1f} times")


if __name__ == "__main__":
    main()
