"""Fit one model by several processes, each with its own share of the samples.

OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 distributed.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch.distributed as dist
from sklearn.datasets import make_blobs

from skvade import VaDEClusterer


def write_share(path, rank, world_size):
    """Write every world_size-th of generated samples, which are in random order."""
    X, _ = make_blobs(6_000, 20, centers=5, random_state=0)
    np.save(path, X[rank::world_size].astype(np.float32))


def main():
    dist.init_process_group("gloo")  # "nccl" for one GPU per process
    rank, world_size = dist.get_rank(), dist.get_world_size()

    with TemporaryDirectory() as folder:
        path = Path(folder) / "share.npy"
        write_share(path, rank, world_size)
        X = np.load(path, mmap_mode="r")

        model = VaDEClusterer(
            n_clusters=5,
            pretraining="autoencoder",
            init="kmeans",
            batch_size=1_000,
            max_iter=20,
            distributed=True,
            random_state=0,
        ).fit(X)

    sizes = np.bincount(model.labels_, minlength=5)
    print(f"process {rank}: {len(X)} samples, in clusters of {sizes}")
    if rank == 0:  # the model, and its bound, are the same in all of them
        print(f"mean ELBO of all samples: {model.lower_bound_:.2f} nats")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
