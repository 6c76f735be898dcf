"""Which files are images, what their headers say, and how pixels of every type become RGB."""

import io
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image, read_header, survey
from detheads.foundation.pixels import to_rgb


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _jpeg_with_orientation(value: bytes, kind: int) -> bytes:
    """A JPEG of 8x4 pixels whose EXIF block has an orientation of any type and value, as Pillow does not write it."""
    size = {3: 2, 4: 4}[kind]
    entry = struct.pack("<HHI", 0x0112, kind, len(value) // size) + value.ljust(4, b"\0")
    return _jpeg_with_exif(struct.pack("<H", 1) + entry + b"\0\0\0\0")


def _jpeg_with_exif(directory: bytes) -> bytes:
    block = b"Exif\0\0II*\0\x08\0\0\0" + directory
    plain = _encoded(Image.new("RGB", (8, 4)), "JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]


@pytest.mark.parametrize(
    ("value", "kind", "turned"),
    [
        (struct.pack("<H", 6), 3, True),
        (struct.pack("<I", 6), 4, True),
        (struct.pack("<H", 0), 3, False),
        (struct.pack("<H", 9), 3, False),
        (struct.pack("<I", 65537), 4, False),
    ],
)
def test_only_orientations_that_exist_turn_an_image(tmp_path: Path, value: bytes, kind: int, turned: bool) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_jpeg_with_orientation(value, kind))
    header = read_header(path)
    size = (4, 8) if turned else (8, 4)
    assert (header.rotated, (header.width, header.height), load_image(path).size) == (turned, size, size)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_header_and_pixels_agree_on_the_displayed_size(tmp_path: Path, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a"
    path.write_bytes(_encoded(Image.new("RGB", (8, 4)), form, exif=exif))
    assert (read_header(path).width, read_header(path).height) == load_image(path).size == (4, 8)


def test_a_damaged_exif_block_is_ignored_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_jpeg_with_exif(struct.pack("<H", 9) + b"\x12\x01"))
    code = f"from detheads.foundation.images import load_image, read_header; print(load_image({str(path)!r}).size)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("(8, 4)\n", "")


def _grey(low: int, high: int) -> np.ndarray:
    return np.linspace(low, high, 64).round().astype(np.uint16).reshape(8, 8)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize(("low", "high"), [(0, 65535), (0, 30000), (0, 200)])
def test_16_bit_greys_are_divided_by_257_whatever_the_brightest_is(form: str, low: int, high: int) -> None:
    loaded = np.asarray(load_image(_encoded(Image.fromarray(_grey(low, high)), form)))[:, :, 0]
    np.testing.assert_allclose(loaded, _grey(low, high) / 257, atol=0.51)


def test_16_bit_greys_stored_big_endian_are_the_same() -> None:
    values = _grey(0, 65535)
    image = Image.frombytes("I;16B", (8, 8), values.astype(">u2").tobytes())
    np.testing.assert_array_equal(
        np.asarray(load_image(_encoded(image, "TIFF"))),
        np.asarray(load_image(_encoded(Image.fromarray(values), "PNG"))),
    )


@pytest.mark.parametrize(
    ("low", "high", "remarked"), [(800, 3900, True), (0, 65535, False), (7, 7, False), (100, 9000, False)]
)
def test_a_16_bit_image_of_almost_one_grey_is_remarked_on(low: int, high: int, remarked: bool) -> None:
    remarks: list[str] = []
    load_image(_encoded(Image.fromarray(_grey(low, high)), "PNG"), remarks.append)
    assert [f"from {low} to {high}" in remark for remark in remarks] == [True] * remarked


@pytest.mark.parametrize(
    ("pixels", "sentence"), [(np.float32, "decimal numbers.*255"), (np.int32, "whole numbers of 32 bits")]
)
def test_pixels_of_unknown_range_are_refused_with_the_way_to_convert(pixels: type, sentence: str) -> None:
    content = _encoded(Image.fromarray(np.ones((4, 4), pixels)), "TIFF")
    with pytest.raises(UserError, match=f"the image cannot be used: .*{sentence}"):
        load_image(content)


def test_lab_becomes_the_colour_that_it_stands_for() -> None:
    red = Image.new("LAB", (2, 2), (138, 209, 198))  # L* 54, a* 81, b* 70: sRGB red from a D50 white
    np.testing.assert_allclose(np.asarray(to_rgb(red))[0, 0], (255, 0, 0), atol=6)


def test_of_several_frames_the_first_is_read_and_the_others_remarked_on(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (4, 4), color) for color in ("red", "blue", "blue")]
    path = tmp_path / "pages.tif"
    path.write_bytes(_encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    remarks: list[str] = []
    assert load_image(path, remarks.append).getpixel((0, 0)) == (255, 0, 0)
    assert remarks == [f"{path} has 3 pages or frames; the first one is read."]
    assert read_header(path).frames == 3


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a pointer of Git LFS"),
        (b"Not Found", "text ('Not Found')"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "a PostScript program"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC picture"),
        (b"\xff\xd8\xff\xe0", "a damaged JPEG"),
        (_encoded(Image.new("RGB", (4, 4)), "PPM"), "of a format that is read here"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_called_a_picture_and_is_none_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (load_image, read_header):
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path} is not an image ") and kind in str(caught.value)


def test_postscript_called_a_jpeg_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_encoded(Image.new("RGB", (8, 8)), "EPS"))
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(UserError, match="PostScript"):
        load_image(path)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    for read in (load_image, read_header):
        with pytest.raises(UserError, match="is a pipe"):
            read(tmp_path / "a.jpg")


def test_a_folder_is_surveyed_with_what_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.JPG", "sub/a.png", "._b.jpg", "c.avif", "sub/d.HEIC", "e.avif", "notes.txt"):
        (folder / name).touch()
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (folder / "loop").symlink_to(folder)
    found = survey(folder)
    assert found.names == ("b.JPG", "sub/a.png")
    assert found.remarks() == [
        "pictures with other endings are left out (2 .avif, 1 .heic); convert them to PNG or JPEG",
        "gone.jpg cannot be read and is left out",
    ]


def test_a_folder_that_may_not_be_entered_is_remarked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    listed = os.scandir

    def scandir(place: str) -> object:
        if str(place).endswith("closed"):  # a test may run as root, whom permissions do not stop
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    assert survey(tmp_path).unreadable == ("closed",)


def test_linked_folders_are_entered(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").touch()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "more").symlink_to(tmp_path / "elsewhere")
    assert survey(tmp_path / "pictures").names == ("more/a.png",)


def test_a_link_to_a_folder_above_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "above.png").touch()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "up").symlink_to(tmp_path)
    assert survey(tmp_path / "pictures").names == ()


def test_reading_images_leaves_the_warnings_of_others_alone() -> None:
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)
