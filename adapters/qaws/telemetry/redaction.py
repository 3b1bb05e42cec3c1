"""What looks like a secret in what people write, masked. A net, not a wall: not every secret looks like one."""

from __future__ import annotations

import re

MASK = "***"

_NAMES = (
    "pass(?:word|wd|phrase|code)?|pwd|contrase(?:ñ|n)a|clave|secret(?:o)?|token|credentials?|cookie|set-cookie|"
    r"(?:api|access|private|secret|client|auth|signing|account)[ _-]?(?:key|secret|token|id_token)"
)
_KEYS = (  # of well-known services, by how they begin
    r"(?:sk|pk|rk|ak)[-_][A-Za-z0-9_-]{12,}|gh[a-z]_[A-Za-z0-9]{12,}|github_pat_[A-Za-z0-9_]{12,}|glpat-[A-Za-z0-9_-]{12,}|"
    r"xox[a-z]-[A-Za-z0-9-]{8,}|A(?:KIA|SIA)[A-Z0-9]{12,}|AIza[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{16,}|npm_[A-Za-z0-9]{16,}"
)
# None of them looks at a character more than a few times, however a text is made: each goes on without a choice.
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{1,64}-----.*?(?:-----END [A-Z0-9 ]{1,64}-----|\Z)", re.DOTALL)
_SCHEME = re.compile(r"\b(bearer|basic|digest)([ \t]+)(?=\S*[0-9])[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE)
_HEADER = re.compile(r"\b((?:proxy-)?authorization[\"']?[ \t]*[:=][ \t]*)[^\r\n]+", re.IGNORECASE)
_NAMED = re.compile(
    rf"(?<![A-Za-z])((?:{_NAMES})[\"']?[ \t]*(?:[:=]|\b(?:is|es)\b)[ \t]*)(\"[^\"]*\"?|'[^']*'?|[^\s\"',;&]+)",
    re.IGNORECASE,
)
_IN_ADDRESS = re.compile(r"(://)[^/\s@]*@")
_WHOLE = re.compile(rf"\beyJ[A-Za-z0-9_-]{{4,}}(?:\.[A-Za-z0-9_-]*)*|\b(?:{_KEYS})")
_RANDOM = re.compile(  # long, of letters and digits: keys, hashes, what `openssl rand` prints
    r"(?<![A-Za-z0-9+/_-])(?=[A-Za-z+/_-]*[0-9])(?=[0-9+/_-]*[A-Za-z])[A-Za-z0-9+/_-]{24,}={0,2}"
)


def redacted(text: str) -> str:
    """A text with MASK instead of tokens, keys, passwords, and PEM blocks, as far as they can be told."""
    text = _PEM.sub(MASK, text)
    text = _HEADER.sub(rf"\1{MASK}", text)
    text = _SCHEME.sub(rf"\1\2{MASK}", text)
    text = _IN_ADDRESS.sub(rf"\1{MASK}@", text)
    text = _NAMED.sub(rf"\1{MASK}", text)
    text = _WHOLE.sub(MASK, text)
    return _RANDOM.sub(MASK, text)
