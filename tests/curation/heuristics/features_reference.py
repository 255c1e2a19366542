"""Quality, code and math features in plain Python, one document and one line at a time.

Words are the kernel's (`TextBatch.words`, which has tests of its own); everything else is said here again, slowly.
"""

import functools
import re
import unicodedata

from llama3_jax.curation.heuristics import lists
from llama3_jax.curation.text_batch import TextBatch

BULLETS = "*-•‣●○◦▪■□▶►·–—⁃∙➢➤✓✔"
TERMINALS = ".!?…।॥。！？‽⁇⁈⁉"
QUOTES = '"”»›“«」』'
CODE = "{}[]()<>;=_\\|&^~`@$%/#"
NAMES = {entry.phrase for entry in lists.built_in() if entry.list == lists.TEX}


def words(text: str) -> list[str]:
    batch = TextBatch.of([text])
    data = batch.data.tobytes()
    return [
        data[start:end].decode()
        for start, end in zip(batch.words.start.tolist(), batch.words.end.tolist(), strict=True)
    ]


def lower(text: str) -> str:
    return TextBatch.of([text]).lower_data.tobytes().decode()


def is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def is_digit(character: str) -> bool:
    return unicodedata.category(character)[0] == "N"


def is_math(character: str) -> bool:
    return not character.isascii() and unicodedata.category(character) == "Sm"


def lines_of(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def ink(text: str) -> int:
    return sum(not character.isspace() for character in text)


def count(predicate, text: str) -> int:
    return sum(map(predicate, text))


def share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def phrases(text: str, name: str, language: str) -> list[tuple[int, str]]:
    """(word index, entry) of one list: the longest at each word, none inside another, touching as it touches."""
    found = []
    here = spelled(TextBatch.of([text]))
    for there, phrase, of in spelled_entries(name):
        if of in ("", language):
            for i in range(len(here) - len(there) + 1):
                if here[i][0] == there[0][0] and here[i + 1 : i + len(there)] == there[1:]:
                    found.append((i, -len(there), phrase))
    longest = {}
    for i, size, phrase in sorted(found, key=lambda hit: hit[:2]):
        longest.setdefault(i, (phrase, -size))
    counted, covered = [], 0
    for i, (phrase, size) in sorted(longest.items()):
        if i >= covered:
            counted.append((i, phrase))
        covered = max(covered, i + size)
    return counted


@functools.cache
def spelled_entries(name: str) -> list[tuple[list[tuple[bytes, bool]], str, str]]:
    """(its words, phrase, language) of each entry of a list, accents composed and decomposed."""
    entries = [entry for entry in lists.built_in() if entry.list == name]
    return [
        (spelled(TextBatch.of([unicodedata.normalize(form, entry.phrase)])), entry.phrase, entry.language)
        for entry in entries
        for form in ("NFC", "NFD")
    ]


def spelled(batch: TextBatch) -> list[tuple[bytes, bool]]:
    """(word in lower case, whether it touches the one before) of each word."""
    data = batch.lower_data.tobytes()
    starts, ends = batch.words.start.tolist(), batch.words.end.tolist()
    return [(data[s:e], s == previous) for s, e, previous in zip(starts, ends, [-1, *ends], strict=False)]


def gopher(text: str, language: str) -> dict[str, float]:
    found, shown = words(text), [line.strip() for line in lines_of(text) if line.strip()]
    tokens = text.split()
    return {
        "words": len(found),
        "mean_word_chars": share(sum(map(len, found)), len(found)),
        "hashes_per_word": share(text.count("#"), len(found)),
        "ellipses_per_word": share(len(re.findall(r"\.{3,}|…", text)), len(found)),
        "bullet_lines": share(sum(line[0] in BULLETS for line in shown), len(shown)),
        "ellipsis_lines": share(sum(line.endswith(("...", "…")) for line in shown), len(shown)),
        "alphabetic_tokens": share(sum(any(map(is_letter, token)) for token in tokens), len(tokens)),
        "stop_words": len({phrase for _, phrase in phrases(text, lists.STOP, language)}),
    }


def c4(text: str, language: str, min_words: int = 5) -> tuple[dict[str, float], dict[str, list[tuple[int, int]]]]:
    dropped = {"c4_no_terminal": [], "c4_few_words": [], "c4_javascript": [], "c4_policy": []}
    at, kept, sentences = 0, [], 0
    ends = sentence_ends(text)
    for line in lines_of(text):
        strip, reasons = line.strip(), []
        terminal = strip.endswith(tuple(TERMINALS + QUOTES)) and not strip.endswith(("...", "…"))
        if strip and not terminal and language != "th":
            reasons.append("c4_no_terminal")
        if strip and len(words(line)) < min_words:
            reasons.append("c4_few_words")
        reasons += [f"c4_{name}" for name in ("javascript", "policy") if phrases(line, name, language)]
        for reason in reasons:
            dropped[reason].append((at, at + len(line)))
        if strip and not reasons:
            kept.append(strip)
            sentences += sum(at <= end < at + len(line) for end in ends)
        at += len(line) + 1
    scores = {
        "c4_sentences": sentences,
        "c4_kept_chars": share(sum(map(len, kept)), sum(len(line.strip()) for line in lines_of(text))),
        "lorem_ipsum": len(phrases(text, lists.LOREM_IPSUM, language)),
        "curly_brackets": text.count("{"),
    }
    return scores, dropped


def sentence_ends(text: str) -> list[int]:
    marks = [i for i, character in enumerate(text) if character in TERMINALS]
    after = lambda i: text[i + 1] if i + 1 < len(text) else " "
    return [i for i in marks if after(i) not in TERMINALS and (after(i).isspace() or after(i) in QUOTES)]


def formulas(text: str, language: str) -> dict[str, float]:
    found = words(text)
    inside = sum(len(text[start:end].encode()) for start, end in formula_ranges(text))
    return {
        "tex_per_word": share(len(tex(text)), len(found)),
        "formula_chars": share(inside, len(text.encode())),
        "math_symbols": share(count(is_math, text), ink(text)),
        "digit_chars": share(count(is_digit, text), ink(text)),
        "math_remains": share(len(phrases(text, lists.MARKUP, language)), len(found)),
    }


def tex(text: str) -> list[int]:
    """Where names of commands are, by characters."""
    batch = TextBatch.of([text])
    data, lowered = batch.data.tobytes(), {lower(name) for name in NAMES}
    ranges = zip(batch.words.start.tolist(), batch.words.end.tolist(), strict=True)
    names = [(start, lower(data[start:end].decode())) for start, end in ranges]
    return [len(data[:s].decode()) for s, name in names if name in lowered and s and data[s - 1 : s] == b"\\"]


def formula_ranges(text: str) -> list[tuple[int, int]]:
    """Between delimiters, by characters; not more than 2000 bytes."""
    found = []
    runs = [match for match in re.finditer(r"\$+", text) if text[match.start() - 1 : match.start()] != "\\"]
    display = [run.start() for run in runs if len(run.group()) == 2]
    found += [(a + 2, b) for a, b in zip(display[::2], display[1::2], strict=False)]
    at = 0
    for line in lines_of(text):
        single = [run.start() for run in runs if len(run.group()) == 1 and at <= run.start() < at + len(line)]
        for a, b in zip(single[::2], single[1::2], strict=False):
            after = text[b + 1 : b + 2]
            if not text[a + 1].isspace() and not text[b - 1].isspace() and not (after and is_digit(after)):
                found.append((a + 1, b))
        at += len(line) + 1
    for left, right in (("\\(", "\\)"), ("\\[", "\\]")):
        for start in (match.start() for match in re.finditer(re.escape(left), text)):
            end = text.find(right, start)
            if end >= 0:
                found.append((start + 2, end))
    found = sorted(pair for pair in found if pair[1] > pair[0] and len(text[pair[0] : pair[1]].encode()) <= 2000)
    kept, reached = [], 0
    for start, end in found:
        if start >= reached:
            kept.append((start, end))
        reached = max(reached, end)
    return kept


def joints(text: str) -> list[int]:
    """Where identifiers go on, by characters."""
    alnum = lambda i: 0 <= i < len(text) and (is_letter(text[i]) or is_digit(text[i]))
    snake = [i for i, character in enumerate(text) if character == "_" and alnum(i - 1) and alnum(i + 1)]
    return sorted(snake + [match.start() + 1 for match in re.finditer("[a-z](?=[A-Z])", text)])


def code(text: str, language: str) -> dict[str, float]:
    found, shown = words(text), [line for line in lines_of(text) if line.strip()]
    lengths = [len(line.strip()) for line in shown]
    header = "\n".join(text.split("\n")[:10])
    return {
        "alnum_chars": share(count(is_letter, text) + count(is_digit, text), ink(text)),
        "code_symbols": share(count(lambda character: character in CODE, text), ink(text)),
        "mean_line_chars": share(sum(lengths), len(lengths)),
        "longest_line_chars": max(lengths, default=0),
        "indented_lines": share(sum(is_indented(line) for line in shown), len(shown)),
        "identifiers_per_word": share(len(joints(text)), len(found)),
        "keywords_per_word": share(len(phrases(text, lists.KEYWORD, language)), len(found)),
        "generated_markers": len(phrases(header, lists.GENERATED, language)),
        "blob_chars": share(sum(map(blob, text.split())), len(text.encode())),
        "hex_words": share(sum(len(word.encode()) > 2 and word[:2] in ("0x", "0X") for word in found), len(found)),
    }


def is_indented(line: str) -> bool:
    indent = line[: len(line) - len(line.lstrip())]
    return line[0] == "\t" or len(indent.encode()) >= 2


def blob(token: str) -> int:
    held = re.findall("[A-Za-z0-9+/=_-]", token)
    size = len(token.encode())
    return len(held) if size >= 64 and size - len(held) <= 4 and any(c in "0123456789" for c in held) else 0


def page_kinds(text: str, language: str) -> dict[str, float]:
    chars = {"code": 0, "formula": 0, "prose": 0, "special": 0, "all": 0}
    kinds, at = [], 0
    ranges, commands, names = formula_ranges(text), tex(text), joints(text)
    for number, line in enumerate(lines_of(text)):
        here = lambda positions, at=at, line=line: sum(at <= position < at + len(line) for position in positions)
        size = len(line.strip())
        letters, symbols = count(is_letter, line), count(lambda character: character in CODE, line)
        equation = "=" in line and any(map(is_digit, line)) and 4 * letters <= size and not here(names)
        within = any(text[:start].count("\n") <= number <= text[:end].count("\n") for start, end in ranges)
        formula = within or here(commands) or count(is_math, line) >= 2 or equation
        named = here(names) or phrases(line, lists.KEYWORD, language)
        last = line.strip()[-1:]
        is_code = (
            (symbols >= 3 and 8 * symbols >= size)
            or (symbols >= 2 and 16 * symbols >= size and last in tuple("{};)(,:\\"))
            or (symbols >= 2 and 16 * symbols >= size and named)
        ) and not formula
        is_prose = len(words(line)) >= 5 and 10 * letters >= 6 * size and not is_code
        if line.strip():
            chars["all"] += size
            chars["code"] += size * bool(is_code)
            chars["formula"] += size * bool(formula)
            chars["prose"] += size * bool(is_prose)
            chars["special"] += size * bool(is_code or formula)
            kinds.append(bool(is_code or formula) + 2 * bool(is_prose))
        at += len(line) + 1
    changes = sum(a != b and a > 0 and b > 0 for a, b in zip(kinds, kinds[1:], strict=False)) + kinds.count(3)
    connectives = share(len(phrases(text, lists.CONNECTIVE, language)), len(words(text)))
    both = min(share(chars["prose"], chars["all"]), share(chars["special"], chars["all"])) / 0.25
    return {
        "code_page": share(chars["code"], chars["all"]),
        "math_page": share(chars["formula"], chars["all"]),
        "prose": share(chars["prose"], chars["all"]),
        "connectives_per_word": connectives,
        "switches": share(changes, len(kinds)),
        "reasoning_page": min(both, 1) * min(connectives / 0.02, 1),
    }
