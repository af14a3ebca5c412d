"""Image files of all kinds through the transforms: decoded with their look, or refused by name."""

import errno
import io
import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal as assert_equal
from PIL import Image

from automix_jax.data.images import decode_image
from automix_jax.data.transforms import TestTransform, TrainTransform
from automix_jax.errors import DataError, ImageError

TRAIN = (
    {"rand_augment": "rand-m9-mstd0.5-inc1"},
    {"color_jitter": 0.4},
    {"resize": 30, "scale": (0.5, 1.0), "interpolation": "bilinear"},
    {"crop": "padded", "padding_mode": "reflect"},
    {"crop": "none"},
)


def random_image(seed, height, width, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photo(mode="RGB", size=(40, 30)):
    pixels = np.linspace(0, 255, size[0] * size[1] * 3).astype(np.uint8)
    return Image.fromarray(pixels.reshape(size[1], size[0], 3)).convert(mode)


def palette_with_transparency():
    image = photo("P")
    return encoded(image, transparency=bytes([0] * 100 + [255] * 156))


def rotated_by_exif():
    exif = Image.Exif()
    exif[0x0112] = 6  # A viewer turns it clockwise.
    return encoded(photo(), "JPEG", exif=exif, quality=95)


def animation(form):
    red = Image.new("RGB", (40, 30), "red")
    return encoded(photo(), form, save_all=True, append_images=[red])


ODD = {
    "gray": encoded(photo("L")),
    "gray jpeg": encoded(photo("L"), "JPEG"),
    "progressive jpeg": encoded(photo(), "JPEG", progressive=True),
    "one bit": encoded(photo("1")),
    "gray and alpha": encoded(photo("LA")),
    "alpha": encoded(photo("RGBA")),
    "palette": encoded(photo("P")),
    "palette and alpha": palette_with_transparency(),
    "colour key": encoded(photo(), transparency=(0, 0, 0)),
    "cmyk": encoded(photo("CMYK"), "JPEG"),
    "16 bits": encoded(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)),
    "rotated": rotated_by_exif(),
    "animation": animation("GIF"),
    "animated png": animation("PNG"),
    "animated webp": animation("WEBP"),
    "pages": animation("TIFF"),
    "webp": encoded(photo(), "WEBP"),
    "tiff": encoded(photo(), "TIFF"),
    "bmp": encoded(photo(), "BMP"),
    "1x1": encoded(photo(size=(1, 1))),
    "30000x1": encoded(photo(size=(30000, 1))),
    "1x30000": encoded(photo(size=(1, 30000))),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_decoded(name, channels, tmp_path):
    file = tmp_path / "a\nname of spaces.jpg"  # The content decides, not the suffix.
    file.write_bytes(ODD[name])
    start = time.monotonic()
    test = TestTransform(16, 18, channels=channels)(file, name)
    assert test.shape == (16, 16, channels)
    for fields in TRAIN:
        transform = TrainTransform(24, channels, **fields)
        assert transform(ODD[name], np.random.default_rng(0), name).shape == (24, 24, channels)
    assert time.monotonic() - start < 5
    whole = decode_image(file, name, channels=channels)
    assert_equal(whole, decode_image(ODD[name], name, channels=channels))


def test_odd_images_keep_their_look():
    expected = np.asarray(photo())
    assert_equal(decode_image(ODD["bmp"], "bmp"), expected)
    assert_equal(decode_image(ODD["tiff"], "tiff"), expected)
    assert_equal(decode_image(ODD["alpha"], "alpha"), expected)
    assert_equal(decode_image(ODD["animated png"], "first frame"), expected)
    assert_equal(decode_image(ODD["pages"], "first page"), expected)
    turned = decode_image(ODD["rotated"], "rotated").astype(int)
    assert np.abs(turned - np.rot90(expected, -1)).mean() < 3  # JPEG's loss
    keyed = decode_image(ODD["colour key"], "key")
    black = (expected == 0).all(-1)
    assert black.any()
    assert (keyed[black] == 255).all()
    assert_equal(keyed[~black], expected[~black])
    sixteen = decode_image(ODD["16 bits"], "16", channels=1)
    assert_equal(sixteen.ravel(), np.arange(1200) * 50 // 256)
    cmyk = decode_image(ODD["cmyk"], "cmyk").astype(int)
    assert np.abs(cmyk - expected).mean() < 5


def test_pixels_are_images_too():
    rgb, gray = random_image(0, 9, 7), random_image(1, 9, 7, 1)
    assert_equal(decode_image(rgb, "rgb"), rgb)
    assert_equal(decode_image(gray, "gray", channels=1), gray)
    assert_equal(decode_image(gray, "gray"), gray.repeat(3, 2))
    luma = Image.fromarray(rgb).convert("L")
    assert_equal(decode_image(rgb, "rgb", channels=1)[..., 0], luma)


def full(form):
    noisy = Image.fromarray(random_image(0, 64, 64))
    return encoded(noisy, form, **({"quality": 90} if form in ("JPEG", "WEBP") else {}))


BROKEN = {
    "zero bytes": b"",
    "text": b"This is no image.\n" * 9,
    "html": b"<!DOCTYPE html><html><body>Not found</body></html>",
    "png signature": b"\x89PNG\r\n\x1a\n",
    **{
        f"{form} cut at {share}": full(form)[: int(share * len(full(form)))]
        for form in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
        for share in (0.02, 0.5, 0.99)
    },
    "jpeg without its end": full("JPEG")[:-2],
    "damaged png": full("PNG")[:200] + bytes(50) + full("PNG")[250:],
    "floats": encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"),
    "flat pixels": np.zeros((4, 4), np.uint8),
    "four channels": np.zeros((4, 4, 4), np.uint8),
    "float pixels": np.zeros((4, 4, 3), np.float32),
    "no pixels": np.zeros((0, 4, 3), np.uint8),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_refused_by_name(name, tmp_path):
    start = time.monotonic()
    for transform in (TrainTransform(16), TrainTransform(16, channels=1)):
        with pytest.raises(
            ImageError, match=r"cannot read the image train/7 \(.*replace or remove"
        ):
            transform(BROKEN[name], np.random.default_rng(0), "train/7")
    with pytest.raises(
        ImageError, match=r"cannot read the image train/7 \(.*replace or remove"
    ) as fault:
        TestTransform(16)(BROKEN[name], "train/7")
    assert " at 0x" not in str(fault.value)  # The same fault reads the same in every run.
    assert time.monotonic() - start < 5


def test_files_that_cannot_be_opened_are_refused_by_name(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "nothing.png")
    for file in (tmp_path / "missing.png", tmp_path / "link.png", tmp_path):
        with pytest.raises(ImageError, match=r"cannot read the image b/1 .*replace or remove"):
            TestTransform(16)(file, "b/1")
    secret = tmp_path / "secret.png"
    secret.write_bytes(ODD["gray"])
    secret.chmod(0)
    if os.access(secret, os.R_OK):  # As root one may read it.
        assert TestTransform(16)(secret, "secret").shape == (16, 16, 3)
    else:
        with pytest.raises(ImageError, match="PermissionError"):
            TestTransform(16)(secret, "secret")


def refuse(monkeypatch, name, error):
    """Opening the file of this name raises the error."""
    real = open

    def fake(file, *arguments, **options):
        if isinstance(file, str | os.PathLike) and os.fspath(file).endswith(name):
            raise error
        return real(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", fake)
    monkeypatch.setattr("io.open", fake)


OF_THE_FILE = ("ENOENT", "EACCES", "EPERM", "EISDIR", "ENOTDIR", "ELOOP", "EINVAL")


@pytest.mark.parametrize("code", [*OF_THE_FILE, "EMFILE", "ENFILE", "EIO", "ESTALE", "ENOMEM"])
def test_a_failing_system_is_not_the_fault_of_the_image(code, tmp_path, monkeypatch):
    (tmp_path / "sound.png").write_bytes(ODD["bmp"])
    number = getattr(errno, code)
    refuse(monkeypatch, "sound.png", OSError(number, os.strerror(number)))
    with pytest.raises(DataError, match=r"cannot read the image a/sound.png") as fault:
        decode_image(tmp_path / "sound.png", "a/sound.png")
    assert os.strerror(number) in str(fault.value)
    assert isinstance(fault.value, ImageError) == (code in OF_THE_FILE)
    remedy = "replace or remove" if code in OF_THE_FILE else "system failed, the image may be sound"
    assert remedy in str(fault.value)


@pytest.mark.parametrize("error", [MemoryError("no"), OSError(errno.EIO, "Input/output error")])
def test_a_system_that_fails_in_the_middle_of_an_image(error, monkeypatch):
    def refuse(image):
        raise error

    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", refuse)
    with pytest.raises((MemoryError, DataError), match=r"no|Input/output.*the disk or") as fault:
        decode_image(ODD["bmp"], "a.bmp")
    assert type(fault.value) is (MemoryError if isinstance(error, MemoryError) else DataError)


def png_of(width, height):
    """A PNG of black bits, built without holding them."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    packer = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_decompression_bomb_is_refused():
    with pytest.raises(
        ImageError, match=r"image bomb \(DecompressionBombError: .*200000000 pixels"
    ):
        TestTransform(16)(png_of(20000, 10000), "bomb")


def test_a_large_image_is_decoded_in_silence(tmp_path):
    (tmp_path / "large.png").write_bytes(png_of(10000, 9000))
    code = (
        "import sys, pathlib; from automix_jax.data.transforms import TestTransform\n"
        "image = TestTransform(16, channels=1)(pathlib.Path(sys.argv[1]), 'large')\n"
        "assert image.shape == (16, 16, 1) and image.max() == 0"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "large.png")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
