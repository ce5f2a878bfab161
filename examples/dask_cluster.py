"""Folds and sweeps on a Dask cluster, by joblib's own backend: here two processes of this machine, elsewhere yours."""

import logging

import joblib
from sklearn.datasets import load_iris

import ppl_gen as pg


def main(num_components: tuple[int, ...] = (1, 2, 3), folds: int = 5) -> float:
    from dask.distributed import Client, LocalCluster

    table = load_iris(as_frame=True).data
    engine = pg.EM(num_starts=5, num_bootstraps=0)

    # Of your own cluster: Client("tcp://scheduler:8786"). One thread a worker: each takes one job at a time.
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.ERROR}
    with (
        LocalCluster(**options) as cluster,
        Client(cluster) as client,
        joblib.parallel_config(backend="dask"),
    ):
        workers = len(client.scheduler_info()["workers"])
        found = pg.sweep("gmm", table, {"num_components": num_components}, engine=engine, folds=folds)
        held_out = pg.fit(pg.GMM(int(found.best[-1])), table, engine=engine).held_out

    print(
        f"{len(found.frame)} points of the sweep, and 5 folds of the best fit, by {workers} processes of a Dask cluster"
    )
    print(found)
    print(f"Held-out log density of the best fit: {held_out.mean():.3f} nats a row")
    return float(held_out.mean())


if __name__ == "__main__":  # without this line each worker that starts would run the whole script again
    main()
