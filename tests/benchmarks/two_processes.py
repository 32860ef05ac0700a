"""A step by two processes beside that of one; speed.py starts this and keeps the rows.

    python -m torch.distributed.run --standalone --nproc-per-node 2 \\
        tests/benchmarks/two_processes.py

One process works alone while the other waits, then both share the same batches, in
turns. The first prints a row of JSON for each measurement: measure, setting, seconds of
two processes, seconds of one, unit.
"""

import json
import time

import numpy as np
import torch
import torch.distributed as dist
from speed import PAPER, make_state, our_epoch

from skvade._data.process_group import make_process_group

N_STEPS = 4  # steps per turn
N_TURNS = 5
SIZES = [  # features, layers, samples of a step
    (784, PAPER, 512),
    (64, (128, 64), 256),
]


def least_times(group, together, alone):
    """Give the least seconds of what all do together, and of what the first does alone.

    The first call of each is a warm-up.
    """
    times = [[], []]
    for _ in range(1 + N_TURNS):
        dist.barrier()
        start = time.perf_counter()
        together()
        dist.barrier()
        times[0].append(time.perf_counter() - start)
        start = time.perf_counter()
        if group.rank == 0:
            alone()
        times[1].append(time.perf_counter() - start)
    return [min(seconds[1:]) for seconds in times]


def measure(group):
    """Iterate over the rows, on all processes."""
    for n_features, layers, batch_size in SIZES:
        shape = (N_STEPS * batch_size, n_features)
        X = np.random.default_rng(0).random(shape, np.float32)
        network = {"hidden_layer_sizes": layers, "batch_size": batch_size}
        own = X[group.rank :: group.world_size]
        state = make_state(own, group=group, **network)
        together = our_epoch(state)
        alone = our_epoch(make_state(X, **network)) if group.rank == 0 else None
        seconds = least_times(group, together, alone)
        sizes = "-".join(str(size) for size in (n_features, *layers, 10))
        setting = f"{sizes}, batch {batch_size} in all, float32"
        yield "step of 2 processes / 1", setting, *(s / N_STEPS for s in seconds), "s"
        gradients = [torch.zeros_like(p.detach()) for p in state.module.parameters()]
        flat = torch.zeros(sum(gradient.numel() for gradient in gradients))
        ours, reference = [], []
        for _ in range(1 + N_TURNS):
            for times, function in (
                (ours, lambda g=gradients: group.sum_(g)),
                (reference, lambda f=flat: dist.all_reduce(f)),
            ):
                dist.barrier()
                start = time.perf_counter()
                function()
                times.append(time.perf_counter() - start)
        setting = f"2 processes, {flat.nbytes / 1e6:.3g} MB"
        yield (
            "exchange of gradients / all_reduce",
            setting,
            min(ours),
            min(reference),
            "s",
        )


def main():
    dist.init_process_group("gloo")
    group = make_process_group(distributed=True)
    for row in measure(group):
        if group.rank == 0:
            print(json.dumps(row), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
