"""Speed and memory, each figure a ratio within one run; a CSV row per measurement.

    python tests/benchmarks/speed.py step mixture growth --threads 2
    python tests/benchmarks/speed.py digits mnist --data FOLDER --peer PYTHON
    python tests/benchmarks/speed.py distributed --threads 1

Each row is written as soon as it is measured; of two rows for one measurement the later
counts. Machines are shared and noisy: what is compared runs in turns, and the least
time of each counts. `--peer` is the interpreter of an environment that holds ClustPy
0.0.3 and the same torch.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from accuracy import append, load
from methods import peer
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn import functional as F

from skvade import VaDEClusterer, __version__
from skvade._data import device
from skvade._data.process_group import SINGLE_PROCESS
from skvade._data.scaling import uniform_weights
from skvade._model.elbo import Posterior, mixture_term
from skvade._state import init_training
from skvade._training import joint, pretraining
from skvade._training.initialization import initialize_mixture
from skvade._training.joint import elbo_loss, make_adam
from skvade._training.pretraining import reconstruction_loss
from skvade._training.trainer import train_epoch
from skvade.metrics import clustering_accuracy

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "docs" / "benchmarks" / "speed.csv"
COLUMNS = ["measure", "setting", "ours", "reference", "unit", "ratio", "threads"]
COLUMNS += ["torch", "version"]
PAPER = (500, 500, 2000)
N_STEPS = 12  # steps per turn
N_TURNS = 12


def least_times(*functions, n_turns=N_TURNS):
    """Give the least seconds of each function, called in turns after a warm-up."""
    for function in functions:
        function()
    times = [[] for _ in functions]
    for _ in range(n_turns):
        for function, seconds in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
    return [min(seconds) for seconds in times]


# --- A step, beside a minimal loop --------------------------------------------------


def make_state(
    X,
    n_clusters=10,
    hidden_layer_sizes=PAPER,
    batch_size=256,
    latent_dim=10,
    group=SINGLE_PROCESS,
    covariance_type="diag",
):
    """Start a training run of which the mixture is initialized."""
    model = VaDEClusterer(
        n_clusters,
        latent_dim=latent_dim,
        hidden_layer_sizes=hidden_layer_sizes,
        likelihood="bernoulli",
        covariance_type=covariance_type,
        init="random",
        batch_size=batch_size,
        device="cpu",
        random_state=0,
    )
    state = init_training(model, X, uniform_weights(len(X)), group)
    initialize_mixture(state)
    return state


def our_epoch(state):
    """Make a function that trains for an epoch and keeps the optimizer."""
    module = state.module
    parts = module.encoder, module.decoder, module.prior
    optimizer = make_adam(state, dict.fromkeys(parts, 1e-3))
    return lambda: train_epoch(state, elbo_loss, optimizer, "")


def minimal_epoch(X, n_clusters=10, hidden_layer_sizes=PAPER, batch_size=256):
    """Make the same for the same arithmetic, with nothing around it."""
    sizes = [X.shape[1], *hidden_layer_sizes]

    def layers(sizes):
        pairs = ([nn.Linear(*pair), nn.ReLU()] for pair in pairwise(sizes))
        return nn.Sequential(*(layer for pair in pairs for layer in pair))

    hidden, heads = layers(sizes), nn.Linear(sizes[-1], 20)
    decoder = layers([10, *sizes[:0:-1]]).append(nn.Linear(sizes[1], sizes[0]))
    logits = torch.zeros(n_clusters, requires_grad=True)
    means = torch.randn(n_clusters, 10).requires_grad_()
    log_variances = torch.zeros(n_clusters, 10, requires_grad=True)
    mixture = [logits, means, log_variances]
    networks = [p for part in (hidden, heads, decoder) for p in part.parameters()]
    optimizer = torch.optim.Adam([*networks, *mixture], 1e-3, fused=True)
    samples = torch.from_numpy(X)

    def step(x):
        mean, log_variance = heads(hidden(x)).chunk(2, dim=1)
        variance = log_variance.exp()
        z = mean + variance.sqrt() * torch.randn_like(mean)
        loss = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        precisions = torch.exp(-log_variances)
        constant = (log_variances + means.square() * precisions).sum(1)
        moments = torch.cat([mean.square() + variance, mean], 1)
        weights = torch.cat([-0.5 * precisions, means * precisions], 1)
        log_joint = F.linear(moments, weights, logits.log_softmax(0) - 0.5 * constant)
        loss = loss - log_joint.logsumexp(1).sum() - 0.5 * log_variance.sum()
        optimizer.zero_grad()
        (loss / len(x)).backward()
        optimizer.step()

    def epoch():
        for indices in torch.randperm(len(samples)).split(batch_size):
            step(samples.index_select(0, indices))

    return epoch


def flops_per_sample(n_features, hidden_layer_sizes):
    """Count the operations of the matrix products of a step: one forward, two backward.

    The gradient with respect to the samples is not needed.
    """
    sizes = [n_features, *hidden_layer_sizes]
    products = 2 * sum(a * b for a, b in pairwise(sizes)) + 30 * sizes[-1]
    return 6 * products - 2 * sizes[0] * sizes[1]


def measure_step(options):
    """Measure a step against the minimal loop, and against bare matrix products."""
    a, b = torch.randn(2, 2048, 2048)
    for batch_size in (256, 1024):
        X = np.random.default_rng(0).random((N_STEPS * batch_size, 784), np.float32)
        ours, loop, products = least_times(
            our_epoch(make_state(X, batch_size=batch_size)),
            minimal_epoch(X, batch_size=batch_size),
            lambda: [torch.mm(a, b) for _ in range(N_STEPS)],
        )
        setting = f"784-500-500-2000-10, batch {batch_size}, float32"
        yield "step / minimal loop", setting, ours / N_STEPS, loop / N_STEPS, "s"
        floor = 2 * 2048**3 * N_STEPS / products / 1e9
        rate = flops_per_sample(784, PAPER) * len(X) / ours / 1e9
        yield "rate of a step / matrix product", setting, rate, floor, "GFLOP/s"
    X = np.random.default_rng(0).random((1792, 64), np.float32)
    small = {"hidden_layer_sizes": (128, 64), "batch_size": 56}
    ours, loop = least_times(
        our_epoch(make_state(X, **small)), minimal_epoch(X, **small)
    )
    setting = "64-128-64-10, batch 56, float32"
    yield "step / minimal loop", setting, ours / 32, loop / 32, "s"


def measure_bfloat16(options):
    """Compare a large matrix product, and the ELBO of fits, with float32."""
    a, b = torch.randn(2, 2048, 2048)
    low, high = a.bfloat16(), b.bfloat16()
    rounded, exact = least_times(lambda: low @ high, lambda: a @ b)
    yield "bfloat16 / float32 product", "2048 x 2048 x 2048", rounded, exact, "s"
    X, _ = load("digits", options.data)
    bounds = {}
    # Also where it would be slower, and float32 would take its place.
    with mock.patch.object(device, "has_fast_bfloat16", lambda _: True):
        for precision in ("bfloat16", "float32"):
            settings = {"max_iter": 50, "tol": 0, "precision": precision}
            models = [VaDEClusterer(10, random_state=s, **settings) for s in range(3)]
            bounds[precision] = np.mean([m.fit(X).lower_bound_ for m in models])
    setting = "digits, 50 epochs, 3 seeds"
    yield "ELBO of bfloat16 / float32", setting, *bounds.values(), "nats"


def measure_mixture(options):
    """Measure the mixture's part of the loss, forward and backward, in a step."""
    X = np.random.default_rng(0).random((N_STEPS * 256, 784), np.float32)
    for n_clusters in (10, 100, 1000):
        state = make_state(X, n_clusters)

        def mixture(prior=state.module.prior):
            mean = torch.randn(256, 10, requires_grad=True)
            log_variance = torch.zeros(256, 10, requires_grad=True)
            for _ in range(N_STEPS):
                mixture_term(prior, Posterior(mean, log_variance))[0].mean().backward()

        ours, step = least_times(mixture, our_epoch(state))
        setting = f"784-500-500-2000-10, batch 256, K = {n_clusters}"
        yield "mixture / step", setting, ours / N_STEPS, step / N_STEPS, "s"


def measure_covariances(options):
    """Measure a step with each kind of covariances against one with variances."""
    types = ("diag", "full", "tied", "spherical")
    for n_features, layers in ((64, (128, 64)), (784, PAPER)):
        shape = (N_STEPS * 256, n_features)
        X = np.random.default_rng(0).random(shape, np.float32)
        states = (make_state(X, 100, layers, covariance_type=name) for name in types)
        diag, *others = least_times(*map(our_epoch, states))
        sizes = "-".join(map(str, (n_features, *layers, 10)))
        for name, seconds in zip(types[1:], others, strict=True):
            setting = f"{name}, {sizes}, batch 256, K = 100"
            yield "step / step of diag", setting, seconds / N_STEPS, diag / N_STEPS, "s"


# --- Whole fits, beside ClustPy -----------------------------------------------------


def our_fit(
    X, hidden_layer_sizes, seed, n_clusters, batch_size, pretrain_epochs, epochs
):
    """Fit ours as `peer` fits ClustPy's, from the same kind of initial mixture."""
    model = VaDEClusterer(
        n_clusters,
        hidden_layer_sizes=hidden_layer_sizes,
        likelihood="bernoulli",
        pretrain_max_iter=pretrain_epochs,
        warmup_max_iter=0,
        max_iter=epochs,
        batch_size=batch_size,
        init="gmm",
        n_init=1,
        tol=0,
        random_state=seed,
    )
    epoch_times = defaultdict(list)

    def timed_epoch(state, loss_function, *args):
        start = time.perf_counter()
        means = train_epoch(state, loss_function, *args)
        epoch_times[loss_function].append(time.perf_counter() - start)
        return means

    with (
        mock.patch.object(pretraining, "train_epoch", timed_epoch),
        mock.patch.object(joint, "train_epoch", timed_epoch),
    ):
        start = time.perf_counter()
        model.fit(X)
        seconds = time.perf_counter() - start
    start = time.perf_counter()
    model.predict(X)
    return {
        "fit": seconds,
        "predict": time.perf_counter() - start,
        "pretrain_epoch": np.median(epoch_times[reconstruction_loss]),
        "epoch": np.median(epoch_times[elbo_loss]),
        "labels": model.labels_,
    }


def beside_peer(options, name, X, y, n_seeds, **settings):
    """Fit ours and ClustPy's in turns; the least times over the seeds count."""
    runs = {"ours": [], "clustpy": []}
    for seed in range(n_seeds):
        runs["ours"].append(our_fit(X, seed=seed, **settings))
        theirs = peer(options.peer, X, seed=seed, threads=options.threads, **settings)
        runs["clustpy"].append(theirs)
    epochs = f"{settings['pretrain_epochs']} + {settings['epochs']} epochs"
    setting = f"{name}, {epochs}, batch {settings['batch_size']}"
    for part in ("pretrain_epoch", "epoch", "fit", "predict"):
        ours, theirs = (min(run[part] for run in runs[who]) for who in runs)
        yield f"ClustPy: {part.replace('_', ' ')}", setting, ours, theirs, "s"
    ours, theirs = (
        np.mean([clustering_accuracy(y, np.array(run["labels"])) for run in runs[who]])
        for who in runs
    )
    yield "ClustPy: accuracy", f"{setting}, {n_seeds} seeds", ours, theirs, "accuracy"


def measure_digits(options):
    X, y = load("digits", options.data)
    settings = {"hidden_layer_sizes": (128, 64), "batch_size": 56, "n_clusters": 10}
    yield from beside_peer(
        options, "digits", X, y, 5, pretrain_epochs=20, epochs=30, **settings
    )


def measure_mnist(options):
    X, y = load("mnist", options.data)
    settings = {"hidden_layer_sizes": PAPER, "batch_size": 256, "n_clusters": 10}
    yield from beside_peer(
        options, "mnist", X, y, 1, pretrain_epochs=3, epochs=3, **settings
    )


# --- Several processes --------------------------------------------------------------


def measure_distributed(options):
    """Measure a step of two processes against one, and the exchange of gradients."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(HERE / "two_processes.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    yield from map(json.loads, done.stdout.splitlines())


# --- Imports, memory, growth, searches ----------------------------------------------


def in_fresh_process(code, options):
    """Run Python code with the threads of this study; give its standard output."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return done.stdout


def measure_imports(options):
    floor = "import torch, sklearn.cluster, sklearn.mixture"
    ours, theirs = least_times(
        lambda: in_fresh_process("import skvade", options),
        lambda: in_fresh_process(floor, options),
    )
    yield "import", floor, ours, theirs, "s"


FIRST_OPTIMIZER = """
import time
import torch
{imports}
parameter = torch.nn.Parameter(torch.zeros(10))
parameter.grad = torch.ones(10)
start = time.perf_counter()
{make}.step()
print(time.perf_counter() - start)
"""


def measure_optimizer(options):
    """Measure the first optimizer of a process and a step of it.

    The first class of `torch.optim` imports torch's compiler.
    """
    codes = {
        "ours": FIRST_OPTIMIZER.format(
            imports="from skvade._training.optim import Adam",
            make="Adam([(1e-3, [parameter])], fused=True)",
        ),
        "torch": FIRST_OPTIMIZER.format(
            imports="", make="torch.optim.Adam([parameter], fused=True)"
        ),
    }
    seconds = {name: [] for name in codes}
    for _ in range(5):
        for name, code in codes.items():
            seconds[name].append(float(in_fresh_process(code, options)))
    setting = "a step of Adam after the imports, in a fresh process"
    ours, theirs = map(min, seconds.values())
    yield "first optimizer of torch.optim", setting, ours, theirs, "s"


MEMORY = """
import sys
import numpy as np
from skvade import VaDEClusterer
sys.path.append({folder!r})
from accuracy import resident_mb
X = np.random.default_rng(0).random(({n}, 500), np.float32)
small = VaDEClusterer(n_init=1, max_iter=1, pretrain_max_iter=1, random_state=0)
small.fit(X[:500])
before = resident_mb("VmHWM")
if {predict}:
    small.predict(X)
else:
    small.fit(X)
print(resident_mb("VmHWM") - before, X.nbytes / 2**20)
"""


def measure_memory(options):
    """Measure what a fit and a prediction add to the peak of the process, in MiB."""
    for n_samples in (50_000, 200_000):
        for predict in (False, True):
            code = MEMORY.format(n=n_samples, predict=predict, folder=str(HERE))
            added, size = map(float, in_fresh_process(code, options).split())
            name = "predict" if predict else "fit"
            setting = f"{n_samples} x 500, float32"
            yield f"memory that {name} adds / X", setting, added, size, "MiB"


def measure_growth(options):
    """Measure how the time of an epoch grows from a size to four times as much."""
    base = {"n": 1024, "D": 256, "K": 64, "L": 32}
    for name, small in base.items():
        epochs = []
        for factor in (4, 16):
            size = {**base, name: factor * small}
            shape = (size["n"], size["D"])
            X = np.random.default_rng(0).random(shape, np.float32)
            layers = {"hidden_layer_sizes": (128, 64), "latent_dim": size["L"]}
            epochs.append(our_epoch(make_state(X, size["K"], **layers)))
        quarter, full = least_times(*epochs)
        setting = f"{name} from {4 * small} to {16 * small}, at most 1.05"
        slope = np.log(full / quarter) / np.log(4)
        yield "log-log slope of an epoch's time", setting, slope, 1.05, "slope"


def measure_search(options):
    """Time GridSearchCV over eight candidates with two processes, against one."""
    X, _ = make_blobs(600, 10, centers=5, random_state=0)

    def search(n_jobs):
        model = VaDEClusterer(max_iter=10, tol=0, random_state=0)
        grid = {"n_clusters": list(range(2, 10))}
        GridSearchCV(model, grid, cv=2, n_jobs=n_jobs).fit(X)

    ours, theirs = least_times(lambda: search(2), lambda: search(1), n_turns=2)
    yield "GridSearchCV, n_jobs 2 / 1", "8 candidates, 2 folds", ours, theirs, "s"


MEASURES = {
    "step": measure_step,
    "bfloat16": measure_bfloat16,
    "mixture": measure_mixture,
    "covariances": measure_covariances,
    "digits": measure_digits,
    "mnist": measure_mnist,
    "imports": measure_imports,
    "optimizer": measure_optimizer,
    "memory": measure_memory,
    "growth": measure_growth,
    "search": measure_search,
    "distributed": measure_distributed,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("measures", nargs="+", choices=sorted(MEASURES))
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--peer", help="Python with ClustPy: see clustpy_vade.py")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    for measure in options.measures:
        for name, setting, ours, reference, unit in MEASURES[measure](options):
            values = [f"{ours:.4g}", f"{reference:.4g}", unit]
            row = [name, setting, *values, f"{ours / reference:.3f}", options.threads]
            row += [torch.__version__, __version__]
            append(options.results, COLUMNS, dict(zip(COLUMNS, row, strict=True)))
            print(*row, sep=", ", flush=True)


if __name__ == "__main__":
    main()
