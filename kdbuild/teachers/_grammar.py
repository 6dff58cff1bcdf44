"""JSON schemas as masks over the next token, by xgrammar."""

# Shape suffixes: B rows of the batch, V vocabulary.

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import TypeAlias

import torch
import xgrammar

from kdbuild.errors import RowError
from kdbuild.teachers._batch import Network, num_words

_CACHE_BYTES = 512 * 2**20
"""Memory of compiled schemas; an operator has a few, each about 1 MB."""
_LOOSE, _STRICT = r"[^\"\\\r\n]", r"[^\0-\x1f\"\\\r\n]"
"""A character of a text of limited length as xgrammar has it (its issue 800), and without the control characters that JSON forbids."""

Matcher: TypeAlias = xgrammar.GrammarMatcher
"""How far one answer is in its schema."""


@lru_cache(maxsize=256)
def grammar_of(schema: str) -> str:
    """Return a JSON schema as a grammar (EBNF) of the one spelling with a blank after `,` and `:` and no other.

    Left to choose, a small model writes blanks until the limit. A text of limited length can hold no quotation mark, backslash or line
    break: xgrammar matches escapes within a limit 10,000 times slower.

    Raises:
        RowError: it is not a JSON schema, or asks for what a grammar cannot express.
    """
    try:
        return str(xgrammar.Grammar.from_json_schema(schema, any_whitespace=False)).replace(_LOOSE, _STRICT)
    except (RuntimeError, ValueError) as error:
        raise RowError(f"the schema cannot be followed: {error}") from error


class Grammars:
    """Compiles schemas for one model, each once."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._num_words = num_words(network.model)

    @cached_property
    def _compiler(self) -> xgrammar.GrammarCompiler:
        # Reading a large vocabulary takes a second, and most sessions are asked for no schema.
        ends = sorted(self._network.ends)
        info = xgrammar.TokenizerInfo.from_huggingface(self._network.tokenizer, vocab_size=self._num_words, stop_token_ids=ends)
        return xgrammar.GrammarCompiler(info, max_threads=torch.get_num_threads(), cache_limit_bytes=_CACHE_BYTES)

    def matcher(self, schema: str) -> Matcher:
        """Return a matcher at the beginning of an answer.

        Raises:
            RowError: see `grammar_of`.
        """
        return xgrammar.GrammarMatcher(self._compiler.compile_grammar(grammar_of(schema)))

    def masked(self, logits_BV: torch.Tensor, matchers: Mapping[int, Matcher]) -> torch.Tensor:
        """Return the logits with -inf for what a row's schema forbids: an end of turn too, until the answer is complete."""
        bits_BV = xgrammar.allocate_token_bitmask(logits_BV.shape[0], self._num_words)
        for i, matcher in matchers.items():
            matcher.fill_next_token_bitmask(bits_BV, i)
        masked_BV = logits_BV.clone()
        xgrammar.apply_token_bitmask_inplace(masked_BV, bits_BV.to(masked_BV.device), indices=list(matchers))
        return masked_BV
