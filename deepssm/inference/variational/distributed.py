"""Several processes that train one model: `torchrun` with `torch.distributed`."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    """Return the number of processes that train together, 1 without `torch.distributed`."""
    return dist.get_world_size() if _running() else 1


def rank() -> int:
    """Return this process's number, 0 for the first."""
    return dist.get_rank() if _running() else 0


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return rank() == 0


def check_set_up(modules: nn.Module, series: int) -> None:
    """Refuse set-ups in which processes would silently train apart or wait for ever.

    Args:
        modules: What is trained.
        series: Number of series of this process.

    Raises:
        ValueError: `torchrun` started several processes but no process group, the processes hold
            different parameters or data shapes, or parameters lie on a device that the group
            cannot reduce.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size() == 1:
        if started > 1:
            raise ValueError(
                f"`torchrun` started {started} processes that do not know each other, so each "
                "would train a model of its own: call `torch.distributed.init_process_group()`."
            )
        return
    shapes = [(name, tuple(p.shape)) for name, p in modules.named_parameters() if p.requires_grad]
    found: list[object] = [None] * world_size()
    dist.all_gather_object(found, (shapes, series > 0))
    if any(other != found[0] for other in found) or not series:
        raise ValueError(
            "`model` and `guide` must have the same learnt parameters in every process, and every "
            "process needs at least one series; build them by the same code in all of them."
        )
    on_cuda = any(p.is_cuda for p in modules.parameters())
    if on_cuda != (dist.get_backend() == "nccl"):
        raise ValueError(
            f"`model` lies on {'a GPU' if on_cuda else 'the CPU'}, but the process group uses "
            f"{dist.get_backend()!r}: use 'nccl' for GPUs and 'gloo' for CPUs."
        )


def replicate(loss: nn.Module) -> nn.Module:
    """Return a loss whose gradients are means over the processes; the first one's weights rule.

    Afterwards the processes draw different batches and paths, by their rank.
    """
    if world_size() == 1:
        return loss
    device = next(loss.parameters()).device
    ids = [device.index] if device.type == "cuda" else None
    together = DistributedDataParallel(loss, device_ids=ids, find_unused_parameters=True)
    torch.manual_seed(torch.initial_seed() + rank())
    return together


def mean_record(record: dict[str, float]) -> dict[str, float]:
    """Return a record whose numbers are means over the processes, equal in all of them."""
    if world_size() == 1:
        return record
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    values = torch.tensor(list(record.values()), dtype=torch.float64, device=device)
    dist.all_reduce(values)
    return dict(zip(record, (values / world_size()).tolist(), strict=True))


def agreed(holds: bool, device: torch.device) -> bool:
    """Return whether something holds in every process."""
    if world_size() == 1:
        return holds
    value = torch.tensor(float(holds), device=device)
    dist.all_reduce(value, dist.ReduceOp.MIN)
    return bool(value)


def anywhere(holds: bool, device: torch.device) -> bool:
    """Return whether something holds in some process."""
    return not agreed(not holds, device)


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()
