"""What counts as a word wherever texts are compared word by word."""

from __future__ import annotations

import re

# Scripts written without spaces (Thai, Lao, Khmer, Burmese, Japanese, Chinese) would be one word a sentence, and rouge-score would drop
# them: there each character is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case: runs of letters and digits, for ASCII as rouge-score takes them."""
    return _WORD.findall(text.lower())
