"""What a training remembers: losses, pictures on the way, and when to draw and to save."""

from __future__ import annotations

import time
from typing import Any

import machine
import torch
from results import Checkpoint
from torch import Tensor

POINTS = 200  # of each curve


class History:
    """The log of a training; it lives in the checkpoint, so that it too goes on where it stopped.

    Attributes:
        records: Means of the losses between two records, and what was noted between them.
        views: Images at some steps, as bytes.
    """

    def __init__(self, steps_per_epoch: int, epochs: int, views: int, checkpoint: Checkpoint) -> None:
        self.steps_per_epoch, self.total, self.checkpoint = steps_per_epoch, steps_per_epoch * epochs, checkpoint
        self.shown_at = {self.total * k // max(1, views - 1) for k in range(views)}
        self.step, self.records, self.views = 0, list[dict[str, Any]](), dict[str, Tensor]()
        self.sums: dict[str, list[float]] = {}  # (sum, number) since the last record
        self.before, self.started = 0.0, time.monotonic()
        if (saved := checkpoint.read()) is not None:
            self.views = {name.removeprefix("view/"): image for name, image in saved[0].items()}
            state = saved[1]
            self.step, self.records, self.sums, self.before = (state[k] for k in ("step", "records", "sums", "seconds"))

    @property
    def seconds(self) -> float:
        return float(self.before + time.monotonic() - self.started)

    def add(self, step: int, values: dict[str, float]) -> None:
        """The losses of a step."""
        for name, value in values.items():
            total, number = self.sums.get(name, (0.0, 0))
            self.sums[name] = [total + value, number + 1]
        if (step + 1) * POINTS // self.total > step * POINTS // self.total:
            here = machine.current()
            names = sorted(self.sums)
            means = here.mean(torch.tensor([self.sums[k][0] / self.sums[k][1] for k in names], dtype=torch.float64))
            self.note(step + 1, dict(zip(names, means.tolist(), strict=True)))
            self.sums = {}

    def note(self, step: int, values: dict[str, float]) -> None:
        if not self.records or self.records[-1]["step"] != step:
            self.records.append({"step": step, "epoch": step / self.steps_per_epoch})
        self.records[-1] |= values

    @property
    def last(self) -> dict[str, float]:
        """The latest value of each name."""
        return {name: value for record in self.records for name, value in record.items()}

    def save(self, step: int) -> None:
        """All of it, before the step of this number."""
        state = {"step": step, "records": self.records, "sums": self.sums, "seconds": self.seconds}
        self.checkpoint.write({f"view/{name}": image for name, image in self.views.items()}, state)
