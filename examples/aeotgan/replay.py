"""A training step as one launch: on a GPU, small networks wait for Python and not for arithmetic.

A step of the GAN on MNIST launches over a thousand kernels. Launched one by one they took ten times as long as they ran.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import machine
import torch
from torch import Tensor

WARM = 3  # calls that run as they are, while compilers and libraries choose their kernels


class Replay:
    """f(kind, *tensors) -> tensor, for inputs whose shapes never change and a state that f changes in place.

    On one CUDA device the launches of each kind are recorded once, as a CUDA graph, and replayed from then on. Calls return
    before the device is done: what they return waits for it and gives the numbers.
    """

    def __init__(self, f: Callable[..., Tensor]) -> None:
        here = machine.current()
        self.f, self.records = f, here.records
        self.calls, self.graphs = Counter[Hashable](), dict[Hashable, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]]()
        self.stream: Any = torch.cuda.Stream(here.device) if self.records else None
        self.pool: Any = None

    def __call__(self, kind: Hashable, *inputs: Tensor) -> Callable[[], list[float]]:
        if self.stream is None:
            return self.f(kind, *inputs).tolist
        self.stream.wait_stream(torch.cuda.current_stream())
        for tensor in inputs:
            tensor.record_stream(self.stream)
        self.calls[kind] += 1
        with torch.cuda.stream(self.stream):
            if self.records and kind not in self.graphs and self.calls[kind] > WARM:
                self._record(kind, inputs)
            if kind in self.graphs:
                graph, held, out = self.graphs[kind]
                for own, new in zip(held, inputs, strict=True):
                    own.copy_(new)
                graph.replay()
            else:
                out = self.f(kind, *inputs)

            here = torch.empty(out.shape, pin_memory=True).copy_(out, non_blocking=True)  # the next replay writes over `out`
            done = torch.cuda.Event()
            done.record(self.stream)

        def numbers() -> list[float]:
            done.synchronize()
            return here.tolist()  # type: ignore[no-any-return]

        return numbers

    def _record(self, kind: Hashable, inputs: tuple[Tensor, ...]) -> None:
        graph, held = torch.cuda.CUDAGraph(), [tensor.clone() for tensor in inputs]
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                out = self.f(kind, *held)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what cannot be recorded is launched anew each time
            self.records = False
            print(f"steps are not recorded as CUDA graphs ({str(error).splitlines()[0]})", file=sys.stderr)
            return
        self.pool = graph.pool()
        self.graphs[kind] = graph, held, out
