"""Names in any script: every character has a glyph, runs in its direction, and stays inside the picture."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from detheads.foundation import lettering as module
from detheads.foundation.drawing import draw_boxes, palette_color
from detheads.foundation.errors import UserError
from detheads.foundation.lettering import PLACEHOLDER, Lettering, Line

NAMES = {
    "Latin": "größte Eule, naïve café, cafe\u0301, Łódź, mèo rừng",
    "Greek": "γάτα",
    "Cyrillic": "кошка",
    "Hebrew": "חתול",
    "Arabic": "قطة",
    "Chinese": "交通信号灯",
    "Japanese": "ネコ 猫",
    "Korean": "고양이",
    "Korean, decomposed": unicodedata.normalize("NFD", "고양이"),
    "Devanagari": "बिल्ली",
    "Tamil": "பூனை",
    "Thai": "แมว",
    "Georgian": "კატა",
    "Armenian": "կատու",
    "Amharic": "ድመት",
    "Khmer": "ឆ្មា",
    "symbols": "½ µm² → ☎\ufe0f ✓",
    "emoji": "😀 🚗 👩\u200d🚒 👍🏽 🇩🇪",
}
LINES = {"with Raqm": True, "without": False}


@pytest.fixture(params=LINES, ids=LINES)
def lettering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Lettering:
    if LINES[request.param] and not module._raqm():
        pytest.skip("needs a Pillow with Raqm")
    monkeypatch.setattr(module, "_raqm", lambda: LINES[request.param])
    return Lettering()


def glyphs(line: Line) -> dict[str, bytes]:
    """The pixels of each character of a line in the font that it is drawn with, and of no character in that font."""
    drawn = {}
    for piece in line.pieces:
        font = ImageFont.truetype(piece.font.path, 24, layout_engine=ImageFont.Layout.BASIC)
        for char in piece.text:
            for name, shown in ((char, char), (f"none of {char}", "\uffff")):
                canvas = Image.new("1", (80, 60))
                ImageDraw.Draw(canvas).text((20, 10), shown, fill=1, font=font)
                drawn[name] = canvas.tobytes()
    return drawn


def ink(line: Line) -> np.ndarray:
    canvas = Image.new("L", (line.size[0] + 40, line.size[1] + 40))
    draw = ImageDraw.Draw(canvas)
    for piece in line.pieces:
        piece.draw(draw, (20 - line.box[0], 20 - line.box[1]), 255)
    return np.asarray(canvas)


@pytest.mark.parametrize("script", NAMES)
def test_every_character_has_a_glyph(script: str, lettering: Lettering) -> None:
    assert lettering.missing([NAMES[script]]) == ""
    line = lettering.line(NAMES[script], " 85%", 24)
    drawn = glyphs(line)
    unseen = {char for char in drawn if len(char) == 1 and (char.isspace() or module._unseen(char))}
    for char in {name for name in drawn if len(name) == 1} - unseen:
        assert drawn[char] != drawn[f"none of {char}"], unicodedata.name(char)
    assert PLACEHOLDER not in drawn


@pytest.mark.parametrize("script", NAMES)
def test_the_ink_lies_inside_the_box_of_the_line(script: str, lettering: Lettering) -> None:
    pixels = ink(lettering.line(NAMES[script], " 85%", 24))
    assert pixels[20:-20, 20:-20].max() == 255
    outside = pixels.copy()
    outside[19:-19, 19:-19] = 0  # half a pixel of smoothing
    assert outside.max() == 0


def shown(line: Line) -> str:
    """The letters of a line from left to right, as far as pieces tell."""
    return "".join(piece.text[::-1] if piece.direction == "rtl" else piece.text for piece in line.pieces)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("abc", "abc"),
        ("אבג", "גבא"),
        ("אב 12 גד", "דג 12 בא"),
        ("cat אב", "cat בא"),
        ("אב cat גד", "דג cat בא"),
        ("(אב)", ")בא("),
        ("a猫אב", "a猫בא"),
        ("أب 猫 ت", "ت 猫 بأ"),
        ("10-אב", "בא-10"),
        ("", ""),
    ],
)
def test_text_from_right_to_left_stands_so(name: str, expected: str, lettering: Lettering) -> None:
    mirrored = str.maketrans("()", ")(")  # Raqm mirrors brackets itself
    raqm = module._raqm()
    line = lettering.line(name, " 9%", 20)
    expected = unicodedata.normalize("NFC", expected) + " 9%"
    assert shown(line) == (expected if raqm or "(" not in expected else expected.translate(mirrored))
    assert all((piece.direction is not None) == raqm for piece in line.pieces)


def test_marks_stay_with_their_letters_without_raqm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_raqm", lambda: False)
    assert shown(Lettering().line("שָׁ ב", "", 20)).replace(" ", "") == "ב" + unicodedata.normalize("NFC", "שָׁ")


def test_characters_that_act_are_shown_as_escapes_and_those_without_a_glyph_by_one_sign(lettering: Lettering) -> None:
    assert shown(lettering.line("a\x1b[0m\u202eb\udcff\n", "", 20)) == r"a\x1b[0m\u202eb\udcff\n"
    assert shown(lettering.line("x\ue000y", "", 20)) == f"x{PLACEHOLDER}y"
    sentence = lettering.missing(["x\ue000y", "fine", "\ue001\ue000"])
    assert "has the characters U+E000 U+E001 of the names" in sentence
    assert "--font" in sentence


@pytest.mark.parametrize("width", [1, 6, 9, 20, 45, 80, 300])
def test_a_name_fits_the_width_it_is_given(width: int, lettering: Lettering) -> None:
    for name in (*NAMES.values(), "person", "a very long name of a class " * 4):
        line = lettering.fitted(name, " 85%", 20, width)
        if line is not None:
            assert line.size[0] <= width
        elif width >= 20:
            pytest.fail(f"nothing of {name} was shown in {width} pixels")
    wide = lettering.fitted("person", " 85%", 20, 300)
    assert wide is not None
    assert shown(wide) == "person 85%"
    cut = lettering.fitted("a very long name of a class " * 4, " 85%", 20, 80)
    assert cut is not None
    assert shown(cut).endswith("… 85%")


@pytest.mark.parametrize("size", [(30, 30), (60, 24), (200, 40), (64, 500)])
def test_a_name_at_the_edge_of_a_picture_is_not_clipped(size: tuple[int, int]) -> None:
    boxes = np.array([[size[0] - 9, size[1] - 6, size[0], size[1]]], float)
    drawn = np.asarray(draw_boxes(Image.new("RGB", size, "white"), boxes, ["交通信号灯 ähnlich"], [0], [0.5]))
    ground = (drawn == palette_color(0)).all(axis=2)
    assert ground.sum() > 40
    rows = np.flatnonzero(ground.any(axis=1))
    text = drawn[rows[0] : rows[0] + 8]  # the upper part of the name, above its box
    assert (text[:, -1] == palette_color(0)).all()  # the margin right of the last letter
    assert (text[:, -20:, 1] > palette_color(0)[1] + 60).any()  # the letter itself


def test_a_font_of_one_s_own_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "own.woff"
    own.write_bytes((Path(module.__file__).parent / "fonts" / "UnifontUpper.woff").read_bytes())
    (piece,) = Lettering(own).line("🚗", "", 20).pieces
    assert piece.font.path == str(own)
    (piece,) = Lettering(own).line("ä", "", 20).pieces  # which that font has not
    assert "DejaVu" in piece.font.path


def test_what_is_no_font_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.ttf does not exist"):
        Lettering(tmp_path / "none.ttf").missing(["a"])
    (tmp_path / "text.ttf").write_text("no font")
    with pytest.raises(UserError, match=r"text\.ttf is not a font that can be drawn with"):
        Lettering(tmp_path / "text.ttf").missing(["a"])


def test_the_fonts_travel_with_their_licences() -> None:
    folder = Path(module.__file__).parent / "fonts"
    assert {path.suffix for path in folder.iterdir()} == {".woff", ".txt"}
    assert "Bitstream Vera" in (folder / "LICENSE.DejaVu.txt").read_text(encoding="utf-8")
    assert "SIL OPEN FONT LICENSE" in (folder / "LICENSE.Unifont.txt").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
