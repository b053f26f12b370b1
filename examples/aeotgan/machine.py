"""Where a run computes: the device, mixed precision, several processes, and randomness that needs no memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# a network is called twice before its gradient is taken, and its buffers must not be exchanged between; named so since 2.13
SYNC = next(
    name for name in ("forward_sync_buffers", "broadcast_buffers") if name in signature(DistributedDataParallel).parameters
)


@dataclass(frozen=True)
class Machine:
    """One of `world` processes, of which the first alone writes files."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def records(self) -> bool:
        """Whether whole steps may be recorded as CUDA graphs: by a single process on its GPU."""
        return self.device.type == "cuda" and self.world == 1

    def adam(self, parameters: Iterable[nn.Parameter], lr: float, **more: Any) -> torch.optim.Adam:
        """Adam in one launch; where steps are recorded, with a learning rate that lives on the device: see `set_rate`."""
        rate = torch.tensor(lr, device=self.device) if self.records else lr
        return torch.optim.Adam(parameters, lr=rate, fused=True, capturable=self.records, **more)

    def hold(self, data: Tensor) -> Tensor:
        """Data that batches are taken from: on the device, if a quarter of what is free there holds it."""
        if self.device.type != "cuda" or data.nbytes > torch.cuda.mem_get_info(self.device)[0] / 4:
            return data
        return data.to(self.device)

    def share(self, batch: Tensor) -> Tensor:
        """The rows of a batch that are this process's own, on its device."""
        if len(batch) % self.world:
            raise ValueError(f"a batch of {len(batch)} cannot be shared by {self.world} processes; change the batch size.")
        return batch[self.rank :: self.world].to(self.device, non_blocking=True)

    def ready(self, module: nn.Module) -> Any:
        """The module as it is called in training: gradients are averaged over all processes."""
        if self.world > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            module = DistributedDataParallel(module, device_ids=ids, **{SYNC: False})
        return self.fast(module)

    def fast(self, module: nn.Module) -> Any:
        """Compiled on CUDA, for each size of batch anew: networks share code, and sizes would become variables."""
        return torch.compile(module, dynamic=False) if self.device.type == "cuda" else module

    def placed(self, module: nn.Module) -> nn.Module:
        """The module on the device; its batch statistics are those of all processes where that can be had."""
        if self.world > 1 and self.device.type == "cuda":
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return module.to(self.device)

    def precision(self) -> Any:
        """Mixed precision on GPUs that compute in bfloat16."""
        on = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.autocast("cuda", torch.bfloat16) if on else contextlib.nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values / self.world

    def check_agreement(self, module: nn.Module) -> None:
        """Parameters must be the same in every process after training."""
        if self.world == 1:
            return
        for name, value in module.named_parameters():
            first = value.detach().clone()
            dist.broadcast(first, 0)
            if not torch.equal(first, value):
                raise RuntimeError(f"{name} differs between process 0 and process {self.rank} after training.")


def on_cuda() -> bool:
    """Whether GPUs compute: where there are any, unless SDOT_DEVICE=cpu."""
    return torch.cuda.is_available() and os.environ.get("SDOT_DEVICE") != "cpu"


def current() -> Machine:
    """This process on its GPU, or on the CPU where there is none."""
    shared = dist.is_available() and dist.is_initialized()
    if on_cuda():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    else:
        device = torch.device("cpu")
    return Machine(device, dist.get_rank(), dist.get_world_size()) if shared else Machine(device)


@contextlib.contextmanager
def processes() -> Iterator[Machine]:
    """Join the other processes that torchrun has started, if it has."""
    cuda = on_cuda()
    if cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)  # a run that goes on must end as if never stopped
        torch.utils.deterministic.fill_uninitialized_memory = False  # nothing reads it
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=12))  # others wait while one solves
    try:
        yield current()
    finally:
        if several:
            dist.destroy_process_group()


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate from the next step on, also of steps that were recorded."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


@contextlib.contextmanager
def fitting(setting: str, size: int) -> Iterator[None]:
    """Says which setting to lower when a GPU has no room for a batch."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{setting} = {size} does not fit into the memory of the GPU; try --set {setting}={max(1, size // 2)}."
        ) from error


def wait() -> None:
    """Until every process is here."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def keyed(*key: int) -> Generator:
    """Randomness that is a function of its key, so that a step draws the same numbers whenever and wherever it is made."""
    high, low = np.random.SeedSequence([abs(k) for k in key]).generate_state(2).tolist()
    return Generator().manual_seed((high << 31) ^ low)
