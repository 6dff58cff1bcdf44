"""Where training runs: the device, this process's rank, and the process group."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from kdbuild.errors import StageError
from kdbuild.spec.model import Runtime


@dataclass(frozen=True)
class Place:
    """One process of a training run."""

    device: torch.device
    rank: int
    num_ranks: int


def placed(runtime: Runtime) -> Place:
    """Set the device and the process group up for the rest of the process.

    A launcher gives rank and address by the usual environment variables; without them this process is the only one.

    Raises:
        StageError: the device is not there.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    rank = int(os.environ.get("RANK", "0"))
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    device = _device(runtime.device, local_rank)
    # Both are read when DeepSpeed is imported and when an engine starts.
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ["LOCAL_RANK"] = str(device.index if device.type == "cuda" else local_rank)
    threads = runtime.num_threads or torch.get_num_threads()
    torch.set_num_threads(max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)))
    backend = "nccl" if device.type == "cuda" else "gloo"
    if not dist.is_initialized():
        # Kept until the process ends: DeepSpeed holds on to the first group it meets.
        if num_ranks == 1:
            dist.init_process_group(backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(backend)
        atexit.register(dist.destroy_process_group)
    return Place(device, rank, num_ranks)


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type not in ("cpu", "cuda"):
        raise StageError(f"training runs on `cpu` or `cuda`; `runtime.device` in params.yaml is `{wanted}`")
    if device.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise StageError(f"`runtime.device` in params.yaml is `{wanted}`, and torch finds no CUDA device", hint="use `auto` or `cpu`")
    index = device.index if device.index is not None else local_rank
    if index >= torch.cuda.device_count():
        raise StageError(
            f"rank {local_rank} needs CUDA device {index}, and this machine has {torch.cuda.device_count()}",
            hint="lower `runtime.train.num_ranks` in params.yaml",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
