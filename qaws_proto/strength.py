"""Whether an HMAC secret can be guessed. What is looked for can be explained in a line; it is no measure of entropy."""

from __future__ import annotations

import re

HMAC_SECRET_BYTES = 32  # RFC 7518 section 3.2: an HS256 key has at least the size of the hash
VARIETY = 8  # different characters: 32 random hexadecimal digits have fewer once in 28 million times
MAKE_ONE = "make one with: openssl rand -base64 48"

# What the secrets of examples are made of: "your-super-secret-jwt-key-change-in-production", "changeme changeme …".
EXAMPLE_WORDS = frozenset({
    "a", "change", "changeit", "changeme", "changethis", "default", "example", "hmac", "in", "it", "jwt", "key", "me",
    "my", "mysecret", "password", "placeholder", "please", "prod", "production", "replace", "replaceme", "secret",
    "secretkey", "super", "supersecret", "the", "this", "to", "token", "very", "websocket", "your", "yoursecret",
})  # fmt: skip


def weakness(secret: str) -> str | None:
    """Why a secret is weak and what to do; None where nothing speaks against it. Quotes nothing of it.

    Raises UnicodeEncodeError, which holds the secret, where it is not valid Unicode.
    """
    if too_short(secret):
        return f"the secret is shorter than {HMAC_SECRET_BYTES} bytes; {MAKE_ONE}"
    if len(set(secret)) < VARIETY:
        return f"the secret has fewer than {VARIETY} different characters; {MAKE_ONE}"
    words = re.findall(r"[^\W\d_]+", secret.lower())
    if EXAMPLE_WORDS.issuperset(words) and _spelled(secret):
        return f"the secret is made of the words of examples; {MAKE_ONE}"
    return None


def too_short(secret: str) -> bool:
    """Whether a secret has fewer bytes than HS256 asks for. Raises UnicodeEncodeError, as `weakness` does."""
    return len(secret.encode()) < HMAC_SECRET_BYTES


def _spelled(secret: str) -> bool:
    """Whether at least half of it is letters: a long number has no words that could be those of an example."""
    return 2 * sum(map(str.isalpha, secret)) >= len(secret)
