"""What training reads of a causal language model: its last hidden states, and the weight of its head."""

# Shape suffixes: S tokens of one forward pass, T trained positions among them, K terms of the loss, D width, V vocabulary.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel

from kdbuild.errors import StageError
from kdbuild.objectives import Head, Objective, Signals, Stored
from kdbuild.training.batches import Pack

PROBE_TOKENS = 8
PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest difference of a logit, relative to the largest logit, that rounding explains."""


class Network:
    """A causal language model seen as a decoder and a head whose weight is applied elsewhere, in chunks."""

    def __init__(self, model: torch.nn.Module, name: str) -> None:
        """Find the parts.

        Args:
            model: a causal language model of transformers, or what an adaptation made of one.
            name: what to call it in an error.

        Raises:
            StageError: its logits are more than `scale * hidden @ weight.T`.
        """
        core = next((part for part in model.modules() if isinstance(part, PreTrainedModel)), None)
        head = core.get_output_embeddings() if core is not None else None
        if core is None or not isinstance(head, torch.nn.Linear) or head.bias is not None:
            raise StageError(
                f"{name} has no plain linear head (without bias or adapter), which training computes in chunks",
                hint="take another model, or leave its head out of the adaptation's target modules",
            )
        if getattr(core.config, "final_logit_softcapping", None):
            raise StageError(
                f"{name} ({core.config.model_type}) soft-caps its logits, and training computes logits in chunks from the weight alone",
                hint="take a model without `final_logit_softcapping`",
            )
        self.name: str = name
        self.core: PreTrainedModel = core
        self.weight_VD: torch.Tensor = head.weight
        self.scale: float = _logit_scale(core)

    def check_length(self, num_tokens: int) -> None:
        """Raise StageError where a sequence of `num_tokens` is longer than the model's context."""
        limit = getattr(self.core.config, "max_position_embeddings", None)
        if isinstance(limit, int) and num_tokens > limit:
            raise StageError(
                f"{self.name} reads at most {limit} tokens; the longest row has {num_tokens}",
                hint=f"set `max_tokens` of the phase's `train` to {limit}: longer rows are cut at their end",
            )

    def hidden_TD(self, pack: Pack) -> torch.Tensor:
        """Return the states (scaled as the model scales its logits) at the positions that predict a trained token."""
        states_1SD = self.core.base_model(input_ids=pack.ids_1S, position_ids=pack.positions_1S, use_cache=False).last_hidden_state
        hidden_TD: torch.Tensor = states_1SD[0, pack.predicting_T] * self.scale
        return hidden_TD

    @torch.no_grad()
    def check_head(self) -> None:
        """Compare the logits of a few tokens with the model's own, and its states with those of fewer tokens.

        Raises:
            StageError: the model looks ahead (an encoder), or the model does something more between its states and its logits.
        """
        ids_1S = torch.arange(PROBE_TOKENS, device=self.core.device).unsqueeze(0)
        own_SV = self.core(input_ids=ids_1S, use_cache=False).logits[0].float()
        states_SD = self.core.base_model(input_ids=ids_1S, use_cache=False).last_hidden_state[0]
        half = PROBE_TOKENS // 2
        short_SD = self.core.base_model(input_ids=ids_1S[:, :half], use_cache=False).last_hidden_state[0]
        if not torch.allclose(short_SD.float(), states_SD[:half].float(), rtol=0, atol=PROBE_TOLERANCE.get(states_SD.dtype, 0.1)):
            raise StageError(
                f"{self.name} ({self.core.config.model_type}) looks at the tokens it is to predict: it is no causal language model",
                hint="take a model made to generate text",
            )
        ours_SV = (states_SD * self.scale).float() @ self.weight_VD.float().T
        error = (own_SV - ours_SV).abs().max().item() / max(own_SV.abs().max().item(), 1e-6)
        if not error <= PROBE_TOLERANCE.get(self.weight_VD.dtype, 0.1):
            raise StageError(
                f"the logits of {self.name} ({self.core.config.model_type}) are not a linear function of its last hidden states "
                f"(relative difference {error:.2g}), so they cannot be computed in chunks",
                hint="take a model whose head is a plain linear layer",
            )

    @torch.no_grad()
    def keeps_sequences_apart(self) -> bool:
        """Return whether a packed sequence sees nothing of the one before it: whether a change there leaves its states as they are."""
        half = torch.arange(PROBE_TOKENS, device=self.core.device)
        positions_1S = torch.cat([half, half]).unsqueeze(0)
        states = [
            self.core.base_model(
                input_ids=torch.cat([first, half]).unsqueeze(0), position_ids=positions_1S, use_cache=False
            ).last_hidden_state[0, PROBE_TOKENS:]
            for first in (half, half.flip(0))
        ]
        return torch.allclose(states[0].float(), states[1].float(), rtol=0, atol=PROBE_TOLERANCE[torch.float32])


def _logit_scale(core: PreTrainedModel) -> float:
    """Return the constant a model multiplies its logits by (Granite divides by `logits_scaling`, Cohere multiplies by `logit_scale`)."""
    config = core.config
    divisor = getattr(config, "logits_scaling", None)
    factor = getattr(config, "logit_scale", None)
    return 1.0 / float(divisor) if divisor else float(factor) if isinstance(factor, (int, float)) else 1.0


class Learner(torch.nn.Module):
    """The student and the terms of its loss as one module: what DeepSpeed runs forward and backward."""

    def __init__(self, student: torch.nn.Module, network: Network, objectives: Sequence[Objective]) -> None:
        super().__init__()
        self.student = student
        self.terms = Terms(network.weight_VD, objectives)
        self._network = [network]  # in a list: its core is not a second child

    def forward(self, pack: Pack, teachers: Mapping[str, Head], stored: Mapping[int, Stored]) -> torch.Tensor:
        """Return the sum of each term over the pack (K), in nats.

        Args:
            pack: the tokens.
            teachers: a head for each name an objective asks for.
            stored: the signals of the pack for each objective (by its number) that reads stored ones.
        """
        totals_K: torch.Tensor = self.terms(self._network[0].hidden_TD(pack), pack.labels_T, teachers, stored)
        return totals_K


class Terms(torch.nn.Module):
    """The head and the losses.

    It registers the head's weight as its own parameter, so that ZeRO stage 3 gathers it for this module's forward, tied or not.
    """

    def __init__(self, weight_VD: torch.Tensor, objectives: Sequence[Objective]) -> None:
        super().__init__()
        self.weight_VD = weight_VD
        self._objectives = tuple(objectives)

    def forward(
        self, hidden_TD: torch.Tensor, labels_T: torch.Tensor, teachers: Mapping[str, Head], stored: Mapping[int, Stored]
    ) -> torch.Tensor:
        """Return the sum of each term (K).

        Raises:
            StageError: an objective summed over something else than it declares.
        """
        totals = []
        for number, objective in enumerate(self._objectives):
            teacher = teachers.get(objective.teacher or "") if objective.is_online else None
            term = objective.term(Signals(Head(hidden_TD, self.weight_VD), labels_T, teacher, stored.get(number)))
            if term.count != len(labels_T):
                raise StageError(f"objective `{objective.kind}` counted {term.count} things where {len(labels_T)} tokens are trained")
            totals.append(term.total.float())
        return torch.stack(totals)
