"""What all commands here share: the options --threads and --data, and a process in which they hold."""

from __future__ import annotations

import argparse
import os
import sys

import torch


def parser(doc: str | None) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=1, help="CPU threads, for every library alike (%(default)s)")
    p.add_argument("--data", metavar="FOLDER", help="folder of the real data; problems that need it are skipped without")
    return p


def start(options: argparse.Namespace) -> None:
    """Let the options hold. Libraries read the number of threads when they load, so the process may start anew."""
    wanted = environment(options.threads)
    if options.data:
        wanted["SDOT_DATA"] = options.data
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)
    torch.set_num_threads(options.threads)


def environment(threads: int) -> dict[str, str]:
    """The variables that hold every library to so many threads."""
    n = str(threads)
    wanted = {f"{name}_NUM_THREADS": n for name in ("OMP", "MKL", "OPENBLAS")} | {"NPROC": n, "JAX_PLATFORMS": "cpu"}
    if threads == 1:
        wanted["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return wanted
