"""Seconds to import the package in a fresh process, against `import transformers` and an import of the models."""

import statistics
import subprocess
import sys
import time

ROUNDS = 5
STATEMENTS = {
    "import solared_hf": "import solared_hf",
    "import transformers": "import transformers",
    "the models": "from solared_hf import SpatioTemporalAttentionForPrediction, SpatioTemporalResnetForPrediction",
}


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    measured = {name: [] for name in STATEMENTS}
    for _ in range(ROUNDS):
        for name, statement in STATEMENTS.items():
            measured[name].append(seconds(statement))
    medians = {name: statistics.median(times) for name, times in measured.items()}
    own = medians["import solared_hf"]
    for name, median in medians.items():
        print(f"{name:22} {median:6.2f} s, {median / own:6.1f} times")


if __name__ == "__main__":
    main()
