"""Characters that text keeps, drops or turns into spaces."""

import re

# Markup that survives inside text while a page is taken apart: control characters, which no page may contain (those
# of the input are removed first). They keep ASCII text in one byte per character.
LINK, END_LINK = "\x01", "\x02"
SUPERSCRIPT, SUBSCRIPT, END_SCRIPT = "\x03", "\x04", "\x05"
VERBATIM = "\x06"  # around the number of a verbatim block
HEADING, ITEM = "\x07", "\x08"  # before the first character of such a line
CONTROLS = bytes(set(range(32)) - {9, 10, 12, 13}) + b"\x7f"

_MARKS = "\x01\x02\x03\x04\x05\x06\x07\x08"
_INVISIBLE = (
    "\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\u0080-\u009f\u180e\u034f"
)
_UNSEEN = re.compile(f"[{_INVISIBLE}]")
# A joiner or non-joiner means something after a letter of a script that joins or stacks (Arabic, Syriac, N'Ko, the
# Indic scripts, Sinhala, Khmer, Myanmar, Mongolian) and, for the joiner, between emoji; elsewhere it is debris.
_JOINING = (
    "\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\ua840-\ua87f\ua8e0-\ua8ff\ua980-\uaadf\uabc0-\uabff"
    "\U00010a00-\U00011fff"
)
_EMOJI = "\u2190-\u2bff\u3030\u303d\u3297\u3299\ufe0f\u20e3\U0001f000-\U0001faff\U000e0020-\U000e007f"
_LOOSE_JOINER = re.compile(f"(?<![{_JOINING}{_EMOJI}])\u200d|(?<![{_JOINING}])\u200c")
_SPACE = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_SPACES = re.compile(f"[{_SPACE}]")
_LINE_END = "\u2028\u2029\u0085"
_LINE_ENDS = re.compile(f"[{_LINE_END}]")
_ANY = re.compile(f"[{_INVISIBLE}{_SPACE}{_LINE_END}\u200c\u200d]")


def clean(text: str) -> str:
    """Text without invisible characters, with plain spaces and no marks of ours; line ends are "\\n"."""
    for mark in _MARKS:
        if mark in text:
            text = text.replace(mark, "")
    if text.isascii() or not _ANY.search(text):
        return text
    text = _LINE_ENDS.sub("\n", text)
    text = _SPACES.sub(" ", text)
    text = _UNSEEN.sub("", text)
    if "\u200c" in text or "\u200d" in text:
        text = _LOOSE_JOINER.sub("", text)
    return text
