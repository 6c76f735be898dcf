"""Valid files made invalid: by other values in the places of JSON, by other words in text, by other bytes."""

import copy
import json
import math
import re
from typing import Any

from hypothesis import strategies as st

BIG = 2**40
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308, -1e308, math.inf, -math.inf, math.nan),
    *(2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64, 10**25, 10**400, BIG, 65_537),
    *("", "0", "1", "-1", "1.5", "NaN", "1e400", "٣", "²", "None", "a" * 300, "x" * 5000, " ", "a b.jpg", "狗", "é"),
    *(
        "..",
        "../../etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        "a\0b",
        "\ud800",
        "\udcff.jpg",
        "[/x]",
        "[bold]",
        "{0}",
        "%s",
    ),
    *("\x1b[2J", "\u202e", "a\nb", "C:\\a.jpg", "http://a.b/c", "~/a", "$HOME", "train", "val", "cat"),
    *(
        [],
        {},
        [None],
        [[]],
        [0],
        [1, 2],
        [0, 0, 0, 0],
        [1e308] * 4,
        ["a"] * 4,
        [[1, 2, 3, 4, 5, 6]],
        {"a": []},
        {"0": "a"},
    ),
]
WORDS = [
    *(
        "0",
        "1",
        "-1",
        "7",
        "0.5",
        "1.5",
        "-0.2",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "1e-400",
        "1_0",
        "0x10",
        "٣",
        "½",
        "",
        "\0",
    ),
    *(
        "9" * 30,
        "9" * 5000,
        "0." + "3" * 400,
        "a",
        "狗",
        "\ufeff",
        "\u2028",
        "\x1b[2J",
        "\udcff",
        "#",
        "&a",
        "*a",
        "!!int",
        "|",
    ),
    *(
        "[",
        "]",
        "{",
        "}",
        ":",
        "-",
        "\t",
        "\r",
        "\n",
        "\n\n",
        "---",
        "...",
        "<<: *a",
        "? [a]",
        "%YAML 9.9",
        "'",
        '"',
        "../..",
        "/",
    ),
    *("names:", "nc: 1", "path: ..", "train: .", "val: [a, b]", "kpt_shape: [2, 3]", "names: {0: a, 0: b}", "nc: 1e3"),
]

_STEPS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7), st.integers(0, 10**6)), min_size=1, max_size=4)


def json_documents(document: Any) -> st.SearchStrategy[Any]:
    """The document with one to four places changed."""
    return _STEPS.map(lambda steps: _changed(document, steps))


def json_bytes(document: Any) -> st.SearchStrategy[bytes]:
    """The same as a file, and seldom one whose bytes are changed."""
    whole = json_documents(document).map(lambda changed: json.dumps(changed).encode())
    return st.one_of(whole, whole, whole, file_bytes(json.dumps(document).encode()))


def texts(text: str) -> st.SearchStrategy[bytes]:
    """The text with one to four words replaced, inserted, doubled or taken out."""
    return _STEPS.map(lambda steps: _reworded(text, steps).encode("utf-8", "surrogateescape"))


def file_bytes(data: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with one to four changes: values, cuts, copies, insertions."""
    return _STEPS.map(lambda steps: _altered(data, steps))


def _changed(document: Any, steps: list[tuple[int, int, int]]) -> Any:
    box = [copy.deepcopy(document)]
    for where, kind, value in steps:
        holder, key = (places := list(_places(box)))[where % len(places)]
        if isinstance(holder, tuple):
            continue
        if kind == 0 and holder is not box:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(VALUES[value % len(VALUES)])[:400]] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list) and holder is not box:
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 3:
            other_holder, other_key = places[value % len(places)]
            holder[key] = copy.deepcopy(other_holder[other_key])
        elif kind == 4:
            for _ in range((3, 70, 200)[value % 3]):
                holder[key] = [holder[key]]
        else:
            holder[key] = copy.deepcopy(VALUES[value % len(VALUES)])
    return box[0]


def _places(value: Any) -> Any:
    """Every place in a document, as a container and a key."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            yield holder, key
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])


def _reworded(text: str, steps: list[tuple[int, int, int]]) -> str:
    pieces = [piece for line in text.splitlines(keepends=True) for piece in _split(line)]
    for where, kind, value in steps:
        word, place = WORDS[value % len(WORDS)], where % (len(pieces) or 1)
        if kind < 4:
            pieces[place : place + 1] = [word]
        elif kind == 4:
            pieces.insert(place, word)
        elif kind == 5:
            pieces[place : place + 1] = []
        elif kind == 6:
            pieces[place:place] = pieces[max(0, place - 6) : place]
        else:
            pieces[place : place + 1] = [word * (3, 100, 2000)[value % 3]]
    return "".join(pieces)


def _split(line: str) -> list[str]:
    """A line's words, and what stands between them."""
    return re.findall(r"[\w.+-]+|[^\w.+-]+", line)


def _altered(data: bytes, steps: list[tuple[int, int, int]]) -> bytes:
    changed = bytearray(data)
    for where, kind, value in steps:
        place = where % (len(changed) or 1)
        match kind:
            case 0:
                del changed[place:]
            case 1:
                del changed[place : place + 1 + value % 64]
            case 2:
                changed[place:place] = changed[place : place + 1 + value % 64]
            case 3:
                changed[place:place] = value.to_bytes(4, "little")
            case 4:
                changed[place : place + 4] = (0xFFFFFFFF, 0, 0x7FFFFFFF, value)[value % 4].to_bytes(4, "big")
            case 5:
                changed[place : place + 8] = (2**64 - 1, 2**62, 0, value)[value % 4].to_bytes(8, "little")
            case _:
                if changed:
                    changed[place] = value % 256
    return bytes(changed)
