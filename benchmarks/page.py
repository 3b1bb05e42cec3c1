"""A page of the documentation that has a place for figures."""

from __future__ import annotations

from pathlib import Path

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


class PageError(ValueError):
    """The page cannot be written; the text says why."""


class Place:
    """What lies between the two marks of a page."""

    def __init__(self, path: Path) -> None:
        """Raises PageError where the page has no such place."""
        self._path = path
        try:
            text = path.read_text("utf-8")
        except OSError as error:
            raise PageError(f"{path}: {error.strerror}") from None
        self._before, begin, rest = text.partition(BEGIN)
        _, end, self._after = rest.partition(END)
        if not begin or not end:
            raise PageError(f"{path}: no place for figures, between {BEGIN} and {END}")

    def fill(self, figures: str) -> None:
        """Write the page anew, with these figures."""
        whole = f"{self._before}{BEGIN}\n\n{figures.strip()}\n\n{END}{self._after}"
        self._path.write_text(whole, "utf-8")
