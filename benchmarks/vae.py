"""Variational autoencoders: seconds a pass beside loops by hand, memory, binarized MNIST.

``python vae.py --tasks epoch,memory`` runs some of the tasks only. A task is a process of its own for each case.
"""

from __future__ import annotations

import argparse
import importlib.util

from common import in_process, report

PEERS = {"jax": "Flax and optax, one jitted scan", "torch": "torch"}
OURS = {"jax": "NumPyro", "torch": "Pyro"}
BUDGETS = ((3, 1), (10, 1), (30, 1), (100, 1), (10, 5), (5, 50))  # passes, and particles of the bound


def epoch() -> None:
    rows = []
    for library in PEERS:
        if library == "jax" and importlib.util.find_spec("flax") is None:
            print("Left out, as it is not installed: pip install flax")
            continue
        found = in_process("vae_peer.py", "epoch", library)
        for name, threads in (("peer", ", one thread" if library == "torch" else ""), ("two", ", two threads")):
            if name in found:
                rows.append({"784-200-200-20, 20,480 rows": OURS[library], "s a pass": found["ours"],
                             "by hand in": PEERS[library] + threads, "its s": found[name],
                             "ours, times its": found["ours"] / found[name]})  # fmt: skip
    report("A pass in batches of 128, turn by turn", rows)


def ensemble() -> None:
    rows = []
    for library in PEERS:
        found = in_process("vae_peer.py", "ensemble", library)
        rows.append({"a pass": OURS[library], "1 member, s": found["1"], "4 members, s": found["4"],
                     "times": found["4"] / found["1"]})  # fmt: skip
    report("An ensemble of 4 against one member (the target is 3 times)", rows)


def memory() -> None:
    rows = []
    for library in PEERS:
        found = in_process("vae_peer.py", "memory", library)
        rows.append({"10k images, 1,000 particles": OURS[library], "s": found["seconds"], "MB before": found["before"],
                     "MB above": found["above"]})  # fmt: skip
    report("Memory of scoring by importance sampling, one member (the target is 1 GB above)", rows)


def mnist() -> None:
    rows = []
    for epochs, particles in BUDGETS:
        found = in_process("vae_peer.py", "mnist", str(epochs), str(particles))
        rows.append({"passes": epochs, "particles": particles, "test nats": found["nats"], "se": found["se"],
                     "minus ELBO": found["elbo"],
                     "k-hat above 0.7": found["k_hat"], "of images": found["images"], "steps": found["steps"],
                     "s": found["seconds"]})  # fmt: skip
    report("Binarized MNIST, 50 latents, by 5,000 particles (published, at 3,280 passes: 86.8 with one particle, 85.5 "
           "with 5, 84.8 with 50; Burda, Grosse & Salakhutdinov 2016)", rows)  # fmt: skip


TASKS = {"epoch": epoch, "ensemble": ensemble, "memory": memory, "mnist": mnist}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"some of {', '.join(TASKS)}, with commas")
    names = parser.parse_args().tasks.split(",")
    if unknown := sorted(set(names) - set(TASKS)):
        parser.error(f"unknown task {', '.join(unknown)}: choose from {', '.join(TASKS)}")
    for name in names:
        TASKS[name]()
