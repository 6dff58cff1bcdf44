"""DeepSpeed as the loop uses it: one engine for ZeRO 0 to 3, torch's AdamW, and every parameter and moment by its name."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kdbuild.spec.model import Train, TrainRuntime
from kdbuild.training.place import Place

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter, beside the number of steps."""


class Engine:
    """A DeepSpeed engine whose gradients are sums, whatever the ZeRO stage and the number of ranks.

    The optimiser is torch's own AdamW, which DeepSpeed takes at every stage and which needs no compiler.
    """

    def __init__(self, module: torch.nn.Module, train: Train, runtime: TrainRuntime, place: Place) -> None:
        with _quiet():
            import deepspeed

            # A shared-memory all-reduce for CPUs, compiled for minutes on first use under a lock file that a kill leaves behind for
            # every later run to wait on; gloo does its work.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            self._trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
            self.shapes = state_shapes(module)
            self._stage = zero_stage(train, runtime)
            self._optimiser = torch.optim.AdamW(
                list(self._trained.values()), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
            )
            self._num_ranks = place.num_ranks
            self._max_grad_norm = train.max_grad_norm
            self.deepspeed, *_ = deepspeed.initialize(
                model=module,
                optimizer=self._optimiser,
                config=_config(train, runtime, self._stage),
                dist_init_required=False,
            )

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """Add the gradient of `loss`, summed over ranks; `is_last` marks the last forward pass of an optimiser step."""
        self.deepspeed.set_gradient_accumulation_boundary(is_last)
        # DeepSpeed averages over ranks; the loss was divided by its global count, so the sum is wanted.
        self.deepspeed.backward(loss * self._num_ranks, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Update the weights; return the norm of the whole gradient before it was clipped."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._clip() if self._stage == 0 else None
        self.deepspeed.step()
        return float(self.deepspeed.get_global_grad_norm()) if norm is None else norm

    def _clip(self) -> float:
        """Clip as DeepSpeed does at the other stages, with a norm summed in float64; its own stage 0 sums in float32 and is off by 1e-5."""
        grads = [p.grad for p in self._trained.values() if p.grad is not None]
        norm = math.sqrt(sum(float(torch.linalg.vector_norm(grad, dtype=torch.float64)) ** 2 for grad in grads))
        factor = self._max_grad_norm / (norm + 1e-6)
        if factor < 1:
            torch._foreach_mul_(grads, factor)
        return norm

    def state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every trained parameter and moment, whole and in float32, by name; all ranks must go through it together."""
        from deepspeed import utils

        for name, parameter in self._trained.items():
            if self._stage == 0:
                yield name, parameter.detach()
                for moment in MOMENTS:
                    yield f"{name}/{moment}", self._optimiser.state[parameter][moment]
            else:
                yield name, utils.safe_get_full_fp32_param(parameter)
                for moment in MOMENTS:
                    yield f"{name}/{moment}", utils.safe_get_full_optimizer_state(parameter, moment)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every trained parameter, whole, by name; all ranks must go through it together."""
        from deepspeed import utils

        for name, parameter in self._trained.items():
            yield name, parameter.detach() if self._stage == 0 else utils.safe_get_full_fp32_param(parameter)

    def set_state(self, name: str, tensor: torch.Tensor) -> None:
        """Set what `state` yields under `name`; moments exist once a step was made."""
        from deepspeed import utils

        name, _, moment = name.partition("/")
        parameter = self._trained[name]
        if self._stage == 0:
            (self._optimiser.state[parameter][moment] if moment else parameter.data).copy_(tensor)
        elif moment:
            utils.safe_set_full_optimizer_state(parameter, tensor, moment)
        else:
            utils.safe_set_full_fp32_param(parameter, tensor)

    def set_num_steps(self, num_steps: int) -> None:
        """Tell AdamW how many steps its moments hold."""
        for state in self._optimiser.state.values():
            state["step"].fill_(num_steps)

    def close(self) -> None:
        """Free what the engine holds."""
        self.deepspeed.destroy()


def state_shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    """Return the name and whole shape of everything `Engine.state` yields for a module not yet given to an engine."""
    shapes: dict[str, torch.Size] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            shapes |= {name: parameter.shape} | {f"{name}/{moment}": parameter.shape for moment in MOMENTS}
    return shapes


def zero_stage(train: Train, runtime: TrainRuntime) -> int:
    """Return the ZeRO stage in use: bfloat16 needs stage 1 for its float32 master weights and gradients."""
    return max(runtime.zero_stage, 1) if train.dtype == "bfloat16" or runtime.offload else runtime.zero_stage


def _config(train: Train, runtime: TrainRuntime, stage: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage}
    if runtime.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the loop says where a step ends
        "gradient_clipping": train.max_grad_norm if stage else 0.0,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    if train.dtype == "bfloat16":
        config |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return config


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep DeepSpeed's prints and logs, and those of the linker it tries, off the terminal while it starts; exceptions go through."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere:
        warnings.simplefilter("ignore")
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
