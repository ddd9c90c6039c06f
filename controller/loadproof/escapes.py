"""How text of strangers stands in what others read: the one place that escapes it, a function for each format.

A server names itself and its errors as it likes, and so does who made a plan or a directory that is compared. HTML is
escaped by jinja2, once `visible` has made characters of control visible.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# What would act instead of being seen: characters of control, surrogates (which no file takes), those that turn the
# direction of writing (Unicode's category Cf has both those and harmless ones), and what XML 1.0 does not allow.
_KEPT: Final = "\t\n"
_HIDDEN: Final = {code for code in range(0x2028, 0x2070) if unicodedata.category(chr(code)) in ("Cf", "Zl", "Zp")}
_TABLE: Final = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in _KEPT},
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000), *_HIDDEN, 0x61C, 0xFEFF, 0xFFFE, 0xFFFF), 0xFFFD),
}

# CommonMark's and GitHub's: emphasis within a word needs no escape by `_`, which our own keys are full of.
_INLINE: Final = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_BLOCK: Final = re.compile(r"^([-+=](?=[-+=\s]|$)|#|\d+(?=[.)](?:\s|$)))")
_MENTION: Final = re.compile(r"(?<![A-Za-z0-9])@(?=[A-Za-z0-9])")
_ENTITIES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def visible(text: str) -> str:
    """The text with as many characters, of which none controls what shows it; tabs and ends of lines stay."""
    return text.translate(_TABLE)


def terminal(text: str) -> str:
    """For rich.text.Text, which knows no markup, and for a terminal, which obeys escape sequences."""
    return visible(text)


def markdown(text: str) -> str:
    """As text of a paragraph, list or table cell, on one line: no HTML, image, link, code or mention of it is left."""
    line = " ".join(visible(text).split())
    line = _INLINE.sub(lambda found: f"\\{found[0]}", line).translate(_ENTITIES)
    line = _MENTION.sub("@\u200b", line)  # a space without width: GitHub notifies past a backslash
    return _BLOCK.sub(_literal, line)


def markdown_code(text: str) -> str:
    """As code within a line, backticks included; a table cell takes it too."""
    return f"`{' '.join(visible(text).split()).replace('`', chr(0x2BC)).replace('|', chr(0xA6))}`"


def xml(text: str) -> str:
    """As an XML library takes it; the library escapes what has a meaning in XML."""
    return visible(text)


def _literal(begin: re.Match[str]) -> str:
    sign = begin[1]
    return f"{sign}\\" if sign.isdigit() else f"\\{sign}"
