"""Accuracy where one default is changed, a CSV row per run.

    python tests/benchmarks/ablation.py digits mnist_10k --data FOLDER --seeds 0 1 2

Runs that the CSV already holds are skipped, so an interrupted study resumes.
"""

import argparse
from pathlib import Path

from accuracy import RESULTS, study
from labeled import DATASETS

CHANGES = [
    {},
    {"pretraining": "stacked"},
    {"pretraining": "vae"},
    {"pretrain_max_iter": 0},
    {"pretrain_max_iter": 40},
    {"init": "gmm"},
    {"warmup_max_iter": 0},
    {"beta": 0.1},
    {"beta": 4.0},
    {"mixture_learning_rate_init": 1e-5},
    {"learning_rate_init": 3e-4},
    {"learning_rate_init": 3e-3},
    {"responsibilities": "sampled"},
    {"latent_dim": 5},
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="+", choices=list(DATASETS))
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--results", type=Path, default=RESULTS.with_name("ablation.csv")
    )
    options = parser.parse_args()
    for change in CHANGES:
        shared = {"methods": ["skvade"], "pictures": None, "change": change}
        study(argparse.Namespace(**vars(options), **shared))


if __name__ == "__main__":
    main()
