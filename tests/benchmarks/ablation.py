"""Accuracy where one default is changed, a CSV row per run.

    python tests/benchmarks/ablation.py digits dermatology --data FOLDER --seeds 0 1 2

Runs that the CSV already holds are skipped, so an interrupted study resumes.
"""

from accuracy import RESULTS, make_parser, study

from skvade import VaDEClusterer

CHANGES = [
    {},
    {"pretraining": "autoencoder"},
    {"pretraining": "vae"},
    {"pretrain_max_iter": 0},
    {"neighbors": 5},
    {"neighbors": 50},
    {"init": "kmeans"},
    {"init": "gmm"},
    {"warmup_max_iter": 0},
    {"learning_rate": "constant"},
    {"responsibilities": "sampled"},
    {"latent_dim": 5},
    {"latent_dim": 20},
]


def changed(change):
    """Make a method of a change of one default."""

    def build(dataset, k, seed, options):
        return VaDEClusterer(k, random_state=seed, **change), change

    return build


def name(change):
    changes = (f"{parameter}={value!r}" for parameter, value in change.items())
    return ", ".join(changes) or "the defaults"


def main():
    parser = make_parser(__doc__.partition("\n")[0], RESULTS.with_name("ablation.csv"))
    study({name(change): changed(change) for change in CHANGES}, parser.parse_args())


if __name__ == "__main__":
    main()
