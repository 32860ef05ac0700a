"""Run random fits in batches, a CSV row each; bad states go to the terminal.

    python tests/benchmarks/fuzz.py --examples 10000
    python tests/benchmarks/fuzz.py --tables --examples 1000

The cases and what must hold for them stand in tests/fuzzing.py. A run goes on after the
last row of the file; a batch is the same wherever it is run.
"""

import argparse
import csv
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzzing import CASES, TABLES, run_case, run_table

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
COLUMNS = ["batch", "examples", "fitted", "warned", "refused", "bad", "seconds"]
BATCH_SIZE = 100


def run_batch(batch, cases, check):
    """Check the examples of a batch and count how they ended."""
    states = Counter()

    @seed(batch)
    @settings(
        max_examples=BATCH_SIZE,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(case=cases)
    def run(case):
        try:
            state = check(case)
        except Exception as error:
            state = "bad"
            print(f"{type(error).__name__}: {error}\n{case}\n", flush=True)
        states[state] += 1

    run()
    return states


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--tables", action="store_true", help="fit mixed tables")
    parser.add_argument("--results", type=Path, help="default: in docs/benchmarks")
    options = parser.parse_args()
    cases, check, name = CASES, run_case, "fuzz.csv"
    if options.tables:
        cases, check, name = TABLES, run_table, "fuzz_tables.csv"
    results = options.results or FOLDER / name
    torch.set_num_threads(1)
    n_done = 0
    if results.exists():
        n_done = len(results.read_text().splitlines()) - 1
    with results.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not n_done:
            writer.writeheader()
        for batch in range(n_done, options.examples // BATCH_SIZE):
            start = time.perf_counter()
            states = run_batch(batch, cases, check)
            row = {name: states[name] for name in COLUMNS[2:-1]}
            seconds = round(time.perf_counter() - start)
            total = sum(states.values())
            writer.writerow(
                {"batch": batch, "examples": total, **row, "seconds": seconds}
            )
            file.flush()
            print(f"Batch {batch}: {dict(states)}, {seconds} s", flush=True)


if __name__ == "__main__":
    main()
