"""JSON schemas as masks over the next token, by xgrammar."""

# Shape suffixes: B rows of the batch, V vocabulary.

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TypeAlias

import torch
import xgrammar
from torch.nn.functional import pad

from kdbuild.errors import RowError
from kdbuild.teachers._batch import Network, num_words

_CACHE_BYTES = 512 * 2**20
"""Memory of compiled schemas; an operator has a few, each about 1 MB."""

_BITS = 32
"""Tokens in a word of a mask."""

Matcher: TypeAlias = xgrammar.GrammarMatcher
"""How far one answer is in its schema."""


class Grammars:
    """Compiles schemas for one model, each once."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._num_words = num_words(network.model)

    @cached_property
    def _info(self) -> xgrammar.TokenizerInfo:
        ends = sorted(self._network.ends)
        return xgrammar.TokenizerInfo.from_huggingface(self._network.tokenizer, vocab_size=self._num_words, stop_token_ids=ends)

    @cached_property
    def _compiler(self) -> xgrammar.GrammarCompiler:
        # Reading a large vocabulary takes a second, and most sessions are asked for no schema.
        return xgrammar.GrammarCompiler(self._info, max_threads=torch.get_num_threads(), cache_limit_bytes=_CACHE_BYTES)

    @cached_property
    def _printable(self) -> torch.Tensor:
        # xgrammar lets a text of limited length hold raw control characters (its issue 800), which JSON does not.
        words = self._info.decoded_vocab
        bits_V = torch.tensor([not any(byte < 0x20 for byte in word) for word in words])
        bits_V = pad(bits_V, (0, -len(words) % _BITS)).view(-1, _BITS)
        return (bits_V.long() << torch.arange(_BITS)).sum(dim=1).to(torch.int32)

    def matcher(self, schema: str) -> Matcher:
        """Return a matcher at the beginning of an answer.

        Raises:
            RowError: it is not a JSON schema, or asks for what a grammar cannot express.
        """
        try:
            # One spelling of JSON: left to choose, a small model writes blanks until the limit.
            compiled = self._compiler.compile_json_schema(schema, any_whitespace=False)
        except (RuntimeError, ValueError) as error:
            raise RowError(f"the schema cannot be followed: {error}") from error
        return xgrammar.GrammarMatcher(compiled)

    def masked(self, logits_BV: torch.Tensor, matchers: Mapping[int, Matcher]) -> torch.Tensor:
        """Return the logits with -inf for what a row's schema forbids: an end of turn too, until the answer is complete."""
        bits_BV = xgrammar.allocate_token_bitmask(logits_BV.shape[0], self._num_words)
        for i, matcher in matchers.items():
            matcher.fill_next_token_bitmask(bits_BV, i)
            bits_BV[i] &= self._printable
        masked_BV = logits_BV.clone()
        xgrammar.apply_token_bitmask_inplace(masked_BV, bits_BV.to(masked_BV.device), indices=list(matchers))
        return masked_BV
