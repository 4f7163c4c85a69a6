# SPDX-License-Identifier: GPL-2.0-or-later
"""How the ranks of a data-parallel training add up their gradients: by MPI, or by NCCL where every rank has a GPU of its own.

Each rank sends its own samples of a batch through the flow. The sum of their gradients and the log-weights of all samples are then the
same on every rank, to the last bit, and so is everything that follows from them: the step, its undoing, the schedule.
"""

import os
import socket
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lammps_bg import parallel
from lammps_bg.errors import ConfigError
from lammps_bg.training.objectives import Batch, merge


class Ranks(Protocol):
    """Anything that joins the parts of a batch."""

    def joined(self, own: Batch, parameters: Sequence[nn.Parameter]) -> Batch:
        """The whole batch from this rank's part; the gradients of `parameters` become their sum over the ranks."""
        ...


class MpiRanks:
    """Sums of one flat buffer by MPI."""

    def joined(self, own: Batch, parameters: Sequence[nn.Parameter]) -> Batch:
        """The whole batch from this rank's part; the gradients of `parameters` become their sum over the ranks."""
        if parallel.size() == 1:
            return own
        flat = _flat(parameters)
        summed = parallel.total(flat.double().cpu().numpy())
        _spread(torch.from_numpy(summed).to(flat), parameters)
        return merge(parallel.gathered(own))


class TorchRanks:
    """Sums by torch.distributed, which never leave the GPUs with NCCL; the log-weights, a number for each sample, go by MPI.

    Args:
        device: Where the gradients are: this rank's own GPU, or the CPU with gloo.
        backend: nccl or gloo.
    """

    def __init__(self, device: torch.device, backend: str = "nccl") -> None:
        if not dist.is_initialized():
            address, port = parallel.agreed(_free_port())
            os.environ.setdefault("MASTER_ADDR", address)
            os.environ.setdefault("MASTER_PORT", str(port))
            try:
                dist.init_process_group(backend, rank=parallel.rank(), world_size=parallel.size())
            except (RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"expected torch.distributed to start with {backend}, got an error ({error}); use --set device=cpu"
                ) from None
        self._device = device

    def joined(self, own: Batch, parameters: Sequence[nn.Parameter]) -> Batch:
        """The whole batch from this rank's part; the gradients of `parameters` become their sum over the ranks."""
        flat = _flat(parameters).to(self._device)
        dist.all_reduce(flat)
        dist.broadcast(flat, 0)  # rings may round differently on each rank
        _spread(flat, parameters)
        return merge(parallel.gathered(own))

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()


def ranks_for(device: torch.device) -> Ranks:
    """NCCL where every rank has a GPU of its own, else MPI; `device` is that of this rank's flow."""
    if parallel.size() == 1:
        return MpiRanks()
    every = parallel.gathered((parallel.node_name(), device.type, _identity(device)))
    if len({kind for _, kind, _ in every}) > 1:
        shown = ", ".join(sorted({f"{kind} on {node}" for node, kind, _ in every}))
        raise ConfigError(
            f"expected the same kind of device on all MPI ranks, got {shown}; use --set device=cpu, or nodes with GPUs"
        )
    own_each = device.type == "cuda" and len({(node, gpu) for node, _, gpu in every}) == len(every)
    return TorchRanks(device) if own_each and dist.is_nccl_available() else MpiRanks()


def _identity(device: torch.device) -> str:
    """Which GPU it is, whatever number it has for this process."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""


def _free_port() -> tuple[str, int]:
    """Name of this node and a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return socket.gethostname(), int(probe.getsockname()[1])


def _flat(parameters: Sequence[nn.Parameter]) -> Tensor:
    """All gradients in one vector, behind a number for each weight that says whether it has one."""
    known = torch.tensor([float(p.grad is not None) for p in parameters]).to(parameters[0])
    return torch.cat([known, *((torch.zeros_like(p) if p.grad is None else p.grad).detach().flatten() for p in parameters)])


def _spread(flat: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """The vector back into the gradients; a weight without one on all ranks keeps none."""
    known, *parts = flat.split([len(parameters), *(p.numel() for p in parameters)])
    for parameter, has, part in zip(parameters, known.tolist(), parts, strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype).clone() if has else None
