"""Kill fits and writes of checkpoints, fill a disk, and print what is left.

    python tests/benchmarks/checkpoints.py fits      # kill -9 of a fit, then resume
    python tests/benchmarks/checkpoints.py writes    # kill -9 of the write of a file
    python tests/benchmarks/checkpoints.py full      # a disk without room for the file

Each prints what it saw. "full" mounts a file system in memory where it may, and
otherwise limits the size of files.
"""

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import joblib
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from killing import PRETRAINING, fit, kill, make_data, make_model, write

from skvade import VaDEClusterer
from skvade._archive import read_archive
from skvade.callbacks import Checkpoint

warnings.simplefilter("ignore")


def kill_fits(folder, tries, seed, max_iter):
    """Kill fits at random moments between their first file and their end."""
    rng, X, n_kills, n_equal = random.Random(seed), make_data(), 0, 0
    precisions = ("float32", "float64")
    cases = [(name, precision) for precision in precisions for name in PRETRAINING]
    expected, seconds = {}, {}
    while n_kills < tries:
        case = (*cases[n_kills % len(cases)], max_iter)
        path = folder / f"fit-{n_kills}.npz"
        if case not in expected:
            start = time.monotonic()
            expected[case] = joblib.hash(make_model(*case).fit(X))
            seconds[case] = time.monotonic() - start
        wait = rng.uniform(0, seconds[case])
        if not kill(fit, (torch.get_num_threads(), *case), path, wait):
            path.unlink()  # the fit had ended
            continue
        n_kills += 1
        state = read_archive(path)["processes"][0]["state"]
        is_equal = joblib.hash(VaDEClusterer().resume(path, X)) == expected[case]
        n_equal += is_equal
        where = f"{state['stage']} epoch {state['epoch']}"
        print(f"{case}: killed after {where}, equal bits: {is_equal}", flush=True)
    print(f"{n_equal} of {n_kills} killed fits ended with the same bits")


def kill_writes(folder, tries, seed, size):
    """Kill a process that does nothing but write, at random microseconds."""
    rng, n_cut, n_complete = random.Random(seed), 0, 0
    for number in range(tries):
        path = folder / f"{number}.npz"
        assert kill(write, (size,), path, rng.uniform(0, 0.1))
        n_cut += len(list(folder.iterdir())) > 1
        tree = read_archive(path)
        is_one = (tree["x"] == tree["first"]).all() and tree["first"] == tree["last"]
        n_complete += bool(is_one)
        print(f"{number + 1} kills: {n_complete} complete, {n_cut} cut", flush=True)
        for file in folder.iterdir():
            file.unlink()
    print(f"{n_cut} of {tries} kills cut a write short")
    print(f"{n_complete} of {tries} kills left a complete file")


@contextmanager
def small_disk(folder, n_bytes):
    """Mount a file system of so many bytes, or limit the size of files."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode == 0:
        print(f"A tmpfs of {n_bytes:,} bytes:")
        try:
            yield
        finally:
            subprocess.run(["umount", folder], check=True)
        return
    print(f"A limit of {n_bytes:,} bytes per file; there is no permission to mount:")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill_disk(folder):
    """Fit where no file has room, and where the second one may have none."""
    X, path = make_data(), folder / "fit.npz"
    make_model("vae").set_callbacks(Checkpoint(path)).fit(X)
    expected, size = joblib.hash(make_model("vae").fit(X)), path.stat().st_size
    path.unlink()
    for n_bytes in (size // 2, size * 3 // 2):
        with small_disk(folder, n_bytes), warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            model = make_model("vae").set_callbacks(Checkpoint(path)).fit(X)
            is_equal = joblib.hash(model.set_callbacks()) == expected
            print(f"    a file has {size:,} bytes; the fit has equal bits: {is_equal}")
            texts = [str(warning.message) for warning in seen]
            print("    warnings:", [text for text in texts if "checkpoint" in text])
            print("    files:", os.listdir(folder))
            if path.exists():
                resumed = VaDEClusterer().resume(path, X)
                print("    resumed to equal bits:", joblib.hash(resumed) == expected)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=["fits", "writes", "full"])
    parser.add_argument("--tries", type=int, help="default: 20 fits or 100 writes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-iter", type=int, default=40, help="of the fits")
    parser.add_argument("--size", type=int, default=1_000_000, help="values to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.part == "fits":
            kill_fits(folder, args.tries or 20, args.seed, args.max_iter)
        elif args.part == "writes":
            kill_writes(folder, args.tries or 100, args.seed, args.size)
        else:
            fill_disk(folder)


if __name__ == "__main__":
    main()
