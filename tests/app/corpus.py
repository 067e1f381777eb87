"""A corpus of hostile and unusual images: name to bytes, always the same.

Knows file formats, and nothing of the server. `python -m tests.app.corpus FOLDER` writes the files,
as seeds for a fuzzer or to send to another server.
"""

import io
import lzma
import pickle
import random
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, features

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MODES = (
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV",
    "I", "I;16", "I;16L", "I;16B", "F",
)  # fmt: skip

Entry = tuple[str, bytes]


def corpus() -> dict[str, bytes]:
    """Every file by its name, `family/description.suffix`."""
    files: dict[str, bytes] = {}
    for family in FAMILIES:
        for name, data in family():
            name = f"{family.__name__}/{name}"
            assert name not in files, name
            files[name] = data
    return files


def picture(height: int = 60, width: int = 80) -> Image.Image:
    """A picture of shapes and noise, which no codec compresses too well."""
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 32, (height, width))
    colours = (rows * 3 + noise, columns * 3, (rows * columns // 8) ^ noise)
    return Image.fromarray((np.stack(colours, axis=2) % 256).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def ordinary() -> Iterator[Entry]:
    """A valid file of each format, from which others are made."""
    for kind in FORMATS:
        yield kind.lower(), saved(picture(), kind)
    yield "progressive.jpeg", saved(picture(), "JPEG", progressive=True)
    yield "lossless.webp", saved(picture(), "WEBP", lossless=True)
    yield "palette.png", saved(picture().convert("P"), "PNG")
    yield "deflate.tiff", saved(picture(), "TIFF", compression="tiff_adobe_deflate")


def modes() -> Iterator[Entry]:
    """All modes that Pillow can write, and further depths of PNG and BMP."""
    for mode in MODES:
        image = in_mode(mode)
        for kind in FORMATS:
            try:
                yield f"{mode.replace(';', '-')}.{kind.lower()}", saved(image, kind)
            except (OSError, KeyError, ValueError):
                continue  # a mode that the format does not have
    for depth, colour in PNG_KINDS:
        for interlaced in (False, True):
            name = f"{depth}-bit-colour-{colour}{'-interlaced' if interlaced else ''}.png"
            yield name, png(33, 17, depth=depth, colour=colour, interlaced=interlaced)
    for bits in (1, 4, 8, 16, 24, 32):
        yield f"{bits}-bit.bmp", bmp(37, 11, bits=bits)
        yield f"{bits}-bit-top-down.bmp", bmp(37, -11, bits=bits)
    for bits, masks in ((16, (0xF800, 0x7E0, 0x1F)), (32, (0xFF0000, 0xFF00, 0xFF))):
        yield f"{bits}-bit-fields.bmp", bmp(37, 11, bits=bits, compression=3, masks=masks)


def in_mode(mode: str) -> Image.Image:
    grey = np.asarray(picture().convert("L"))
    if mode.startswith("I;16"):
        order = ">u2" if mode.endswith("B") else "<u2"
        return Image.frombytes(mode, picture().size, (grey.astype(order) * 257).tobytes())
    if mode in ("La", "RGBa"):
        return picture().convert(mode[:-1] + "A").convert(mode)
    if mode == "PA":
        return picture().convert("P").convert("PA")
    if mode == "LAB":
        return Image.frombytes("LAB", picture().size, picture().tobytes())
    return picture().convert(mode)


def orientations() -> Iterator[Entry]:
    exif = Image.Exif()
    for orientation in (*range(10), 65535):
        exif[0x0112] = orientation
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            yield f"{orientation}.{kind.lower()}", saved(picture(), kind, exif=exif.tobytes())


def animated() -> Iterator[Entry]:
    frames = [picture().rotate(20 * turn) for turn in range(6)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        yield kind.lower(), saved(frames[0], kind, save_all=True, append_images=frames[1:])
    grown = [picture(20, 30), picture(60, 80)]
    yield "grown.tiff", saved(grown[0], "TIFF", save_all=True, append_images=grown[1:])
    for disposal in range(4):
        data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=disposal)
        yield f"disposal-{disposal}.gif", data
    yield (
        "default-image.png",
        saved(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True),
    )
    yield "multi-picture.jpeg", saved(frames[0], "MPO", save_all=True, append_images=frames[1:])


def truncated() -> Iterator[Entry]:
    for name, data in ordinary():
        for kept in (1, 2, 4, 10, 20, 40):
            yield f"{kept}-bytes-of-{name}", data[:kept]
        for tenths in (1, 3, 5, 7, 9):
            yield f"{tenths}-tenths-of-{name}", data[: len(data) * tenths // 10]
        for lost in (1, 2, 13):
            yield f"{lost}-lost-of-{name}", data[:-lost]


def damaged() -> Iterator[Entry]:
    """Random bytes changed in the header, anywhere or in runs; pieces lost or repeated."""
    rng = random.Random(4)
    for name, data in ordinary():
        for turn in range(3):
            header, anywhere, runs = bytearray(data), bytearray(data), bytearray(data)
            for _ in range(3):
                header[rng.randrange(8, min(200, len(data)))] = rng.randrange(256)
            for _ in range(1 + len(data) // 500):
                anywhere[rng.randrange(len(data))] = rng.randrange(256)
            start = rng.randrange(len(data))
            runs[start : start + 40] = rng.choice((b"\0", b"\xff")) * 40
            lost = rng.randrange(len(data))
            yield f"header-{turn}-of-{name}", bytes(header)
            yield f"anywhere-{turn}-of-{name}", bytes(anywhere)
            yield f"run-{turn}-of-{name}", bytes(runs)
            yield f"lost-{turn}-of-{name}", data[:lost] + data[lost + 30 :]
            yield f"repeated-{turn}-of-{name}", data[:lost] + data[lost // 2 :]
    good = saved(picture(), "PNG")
    for chunk in (b"IHDR", b"IDAT", b"IEND"):
        broken = bytearray(good)
        at = good.index(chunk)
        end = at + 4 + int.from_bytes(good[at - 4 : at], "big")
        broken[end] ^= 1
        yield f"wrong-crc-of-{chunk.decode()}.png", bytes(broken)


def polyglots() -> Iterator[Entry]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("evil.txt"), b"\0" * 1_000_000)
    page = b"<html><script>alert(document.domain)</script></html>"
    jpeg, gif = saved(picture(), "JPEG"), saved(picture(), "GIF")
    yield "jpeg-and-zip.jpeg", jpeg + file.getvalue()
    yield "zip-and-jpeg.zip", file.getvalue() + jpeg
    yield "jpeg-and-page.jpeg", jpeg[:2] + jpeg_segment(0xFE, page) + jpeg[2:]
    yield "png-and-page.png", png(20, 20, before=[(b"tEXt", b"Comment\0" + page)]) + page
    yield "gif-and-script.gif", gif[:6] + b"/*" + gif[8:] + b"*/=1;alert(1)"
    yield "gif-and-page.gif", gif + page
    yield "bmp-and-script.bmp", b"BM/*" + bmp(20, 20)[4:] + b"*/=1;alert(1)"
    yield "png-in-jpeg.jpeg", jpeg[:-2] + saved(picture(), "PNG") + jpeg[-2:]
    yield "page-before-png.html", page + saved(picture(), "PNG")


def foreign() -> Iterator[Entry]:
    """Formats that the service does not accept, complete or only by their first bytes."""
    for kind in ("ICO", "PPM", "TGA", "PCX", "SGI", "DIB", "XBM", "EPS", "DDS", "QOI"):
        image = picture().convert("1") if kind == "XBM" else picture()
        yield kind.lower(), saved(image, kind)
    for kind, feature in (("JPEG2000", "jpg_2000"), ("AVIF", "avif")):
        if features.check(feature):
            yield kind.lower(), saved(picture(), kind)
    entity = '<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    yield "entity.svg", f'<?xml version="1.0"?>{entity}<svg><text>&x;</text></svg>'.encode()
    laughs = "".join(
        f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' if i else '<!ENTITY l0 "lol">' for i in range(10)
    )
    yield "laughs.svg", f"<!DOCTYPE svg [{laughs}]><svg>&l9;</svg>".encode()
    yield "script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n"
    yield "magick.mvg", b"push graphic-context\nfill 'url(https://127.0.0.1/|id)'\n"
    yield "pdf", b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n"
    yield "heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 200
    yield "psd", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(300)
    yield "pickle", pickle.dumps({"image": [1, 2, 3]})
    yield "npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n"
    yield "gzip", zlib.compress(b"\0" * 1_000_000, wbits=31)
    yield "elf", b"\x7fELF\x02\x01\x01" + bytes(100)
    yield "text", b"not an image at all\n"
    yield "zeros", bytes(1000)
    yield "noise", random.Random(5).randbytes(5000)


def sizes() -> Iterator[Entry]:
    """Headers with very large, small or zero sizes."""
    yield "361-megapixels.png", flat_png(19_000, 19_000, depth=1)
    for width, height in (
        (0, 0),
        (0, 9),
        (9, 0),
        (2**31, 1),
        (2**32 - 1, 2**32 - 1),
        (65_500, 65_500),
    ):
        yield f"{width}x{height}.png", png(width, height, pixels=bytes(99))
        yield (
            f"{width}x{height}-interlaced.png",
            png(width, height, pixels=bytes(99), interlaced=True),
        )
        yield f"{width}x{height}.bmp", bmp(width, height, pixels=bytes(99))
        yield f"{width}x{height}.tiff", tiff({256: width, 257: height}, pixels=bytes(99))
        yield f"{width}x{height}.big.tiff", tiff({256: width, 257: height}, big=True)
    yield "overlong.png", png(20, 20, pixels=bytes(20 << 20))
    yield "overlong-interlaced.png", png(20, 20, pixels=bytes(20 << 20), interlaced=True)
    yield "negative.bmp", bmp(-(2**31), -(2**31), pixels=bytes(99))
    yield "rle.bmp", bmp(1_000_000, 1, bits=8, compression=1, pixels=b"\1\0\0\0\0\1")
    yield "rle4.bmp", bmp(1000, 1000, bits=8, compression=2, pixels=b"\xff\1\0\0" * 2000 + b"\0\1")
    yield "rle-steps.bmp", bmp(1000, 1000, bits=8, compression=1, pixels=b"\0\2\xff\xff" * 500)
    for width, height in ((0, 0), (1, 1), (65_535, 65_535)):
        jpeg = bytearray(saved(picture(), "JPEG"))
        at = jpeg.index(b"\xff\xc0") + 5
        jpeg[at : at + 4] = struct.pack(">HH", height, width)
        yield f"{width}x{height}.jpeg", bytes(jpeg)
        for screen in ((width, height), (10, 10)):
            for disposal in (0, 2, 3):
                name = f"{width}x{height}-on-{screen[0]}x{screen[1]}-{disposal}.gif"
                yield name, gif(screen, (width, height), disposal=disposal)
        yield f"10x10-on-{width}x{height}.gif", gif((width, height), (10, 10), disposal=2)
    yield "offset.gif", gif((10, 10), (10, 10), position=(65_000, 65_000))
    for side in (1, 16_383):
        yield f"{side}-lossy.webp", webp_of_size(side, side, lossless=False)
        yield f"{side}-lossless.webp", webp_of_size(side, side, lossless=True)
    for width, height in ((2**24, 2**8), (2**24, 2**24), (40_000, 40_000), (1, 1)):
        yield f"{width}x{height}-canvas.webp", webp_canvas(width, height)


def metadata() -> Iterator[Entry]:
    """Large metadata, and small metadata that become large."""
    megabytes = zlib.compress(bytes(64 << 20), 9)
    for count in (1, 70):
        text = [(b"zTXt", b"k%d\0\0" % i + zlib.compress(bytes(1 << 20), 9)) for i in range(count)]
        yield f"ztxt-{count}.png", png(20, 20, before=text)
        yield f"ztxt-{count}-behind.png", png(20, 20, after=text)
    wide = zlib.compress("\U0001f525".encode() + b"a" * ((1 << 20) - 4), 9)
    emoji = [(b"iTXt", b"k%d\0\1\0\0\0" % i + wide) for i in range(63)]
    yield "itxt-wide.png", png(20, 20, before=emoji)
    yield "ztxt-bomb.png", png(20, 20, before=[(b"zTXt", b"k\0\0" + megabytes)])
    yield "itxt-bomb.png", png(20, 20, before=[(b"iTXt", b"k\0\1\0\0\0" + megabytes)])
    yield "iccp-bomb.png", png(20, 20, before=[(b"iCCP", b"k\0\0" + megabytes)])
    yield "text.png", png(20, 20, before=[(b"tEXt", b"k\0" + b"x" * 1_000_000)])
    yield "xmp.png", png(20, 20, before=[(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<" * 10**6)])
    yield "names.png", png(20, 20, before=[(b"tEXt", b"%d\0" % i) for i in range(30_000)])
    yield "private.png", png(20, 20, before=[(b"prVt", b"")] * 100_000)
    yield "private-behind.png", png(20, 20, after=[(b"prVt", b"")] * 100_000)
    yield (
        "frames.png",
        png(
            20,
            20,
            before=[(b"acTL", struct.pack(">II", 2**31 - 1, 0))],
            after=[(b"fdAT", b"")] * 9_999,
        ),
    )
    jpeg = saved(picture(), "JPEG")
    for marker in (0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE):
        yield f"segments-{marker:x}.jpeg", jpeg[:2] + jpeg_segment(marker, b"") * 300_000 + jpeg[2:]
        yield f"long-{marker:x}.jpeg", jpeg[:2] + jpeg_segment(marker, bytes(65_533)) * 9 + jpeg[2:]
    yield "exif-pieces.jpeg", jpeg[:2] + jpeg_segment(0xE1, b"Exif\0\0") * 9_000 + jpeg[2:]
    icc = [
        jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes((i, 255)) + bytes(9_999)) for i in range(255)
    ]
    yield "icc.jpeg", jpeg[:2] + b"".join(icc) + jpeg[2:]
    yield "padding.jpeg", jpeg[:2] + b"\xff" * 1_000_000 + jpeg[2:]
    yield "junk.jpeg", jpeg[:20] + bytes(1_000_000) + jpeg[20:]
    yield (
        "photoshop.jpeg",
        (
            jpeg[:2]
            + jpeg_segment(0xED, b"Photoshop 3.0\0" + (b"8BIM\3\xee\0\0" + bytes(4)) * 5_000)
            + jpeg[2:]
        ),
    )
    for kind, orientation in (("rational", 5), ("long", 4), ("double", 12), ("text", 2)):
        block = tiff({274: [1] * 60_000}, kinds={274: orientation}, only=True)
        yield f"exif-{kind}.png", png(20, 20, before=[(b"eXIf", block)])
        yield f"exif-{kind}.webp", webp_with_exif(block)
    yield "exif-loop.png", png(20, 20, before=[(b"eXIf", looping_tiff())])
    comment = b"!\xfe" + b"\2ab" * 300_000 + b"\0"
    yield "comment.gif", gif((10, 10), (10, 10), before=comment)
    yield "comments.gif", gif((10, 10), (10, 10), before=b"!\xfe\1a\0" * 100_000)
    yield "application.gif", gif((10, 10), (10, 10), before=b"!\xff" + b"\1a" * 500_000 + b"\0")


def tiffs() -> Iterator[Entry]:
    """Unusual and invalid tags of TIFF."""
    for compression in (
        "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd",
    ):  # fmt: skip
        try:
            data = saved(picture(), "TIFF", compression=compression)
        except (OSError, RuntimeError):
            continue  # this libtiff does not support it
        yield f"{compression}.tiff", data
        for tenths in (3, 7):
            at = 8 + (len(data) - 400) * tenths // 10
            yield f"{compression}-damaged-{tenths}.tiff", data[:at] + b"\xa5" * 20 + data[at + 20 :]
    for compression in ("tiff_ccitt", "group3", "group4"):
        yield f"{compression}.tiff", saved(picture().convert("1"), "TIFF", compression=compression)
    yield "loop.tiff", looping_tiff()
    yield "chain.tiff", chained_tiff(5_000)
    for big in (False, True):
        for order in "<>":
            yield (
                f"plain-{order}-{big}.tiff".replace("<", "le").replace(">", "be"),
                tiff({}, order=order, big=big),
            )
        name = "big" if big else "classic"
        yield f"{name}-far-strip.tiff", tiff({273: 2**31}, big=big)
        yield f"{name}-negative-strip.tiff", tiff({273: 2**32 - 8}, big=big)
        yield f"{name}-no-strip.tiff", tiff({273: None}, big=big)
        yield f"{name}-many-tags.tiff", tiff({40_000 + i: 1 for i in range(20_000)}, big=big)
        yield f"{name}-many-strips.tiff", tiff({273: [8] * 200_000, 279: [4] * 200_000}, big=big)
        yield f"{name}-strips-over-strips.tiff", tiff(
            {
                256: 1000, 257: 1000, 258: 1, 262: 1, 277: 1, 278: 999,
                273: [8] * 5_000, 279: [125_000] * 5_000,
            },
            pixels=bytes(125_000), big=big,
        )  # fmt: skip
        for tag in (282, 274, 258, 339, 338, 320, 530):
            for kind in (3, 5, 12):
                values = [1] * 20_000
                yield (
                    f"{name}-tag-{tag}-kind-{kind}.tiff",
                    tiff({tag: values}, kinds={tag: kind}, big=big),
                )
    huge = {256: 16, 257: 16, 322: 30_000, 323: 30_000, 258: 8, 277: 1, 262: 1}
    tile = zlib.compress(bytes(90_000_000), 9)
    yield (
        "huge-tile.tiff",
        tiff(huge | {259: 8, 324: 8, 325: len(tile), 273: None, 279: None}, pixels=tile),
    )
    thin = {256: 20_000, 257: 1, 322: 16, 323: 60_000, 258: 8, 277: 1, 262: 1, 273: None, 279: None}
    tile = zlib.compress(bytes(960_000), 9)
    yield (
        "tall-tiles.tiff",
        tiff(thin | {259: 8, 324: [8] * 1250, 325: [len(tile)] * 1250}, pixels=tile),
    )
    for compression in (
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        32773,
        32946,
        34712,
        34925,
        50000,
        50001,
        34887,
        9,
        0,
    ):
        yield f"compression-{compression}.tiff", tiff({259: compression})
        yield (
            f"compression-{compression}-tiled.tiff",
            tiff({259: compression, 322: 16, 323: 16, 324: 8, 325: 768, 273: None, 279: None}),
        )
    jpeg = saved(picture(16, 16), "JPEG")
    for large in (False, True):
        size = {256: 900, 257: 900} if large else {}
        name = "large" if large else "small"
        yield (
            f"jpeg-{name}.tiff",
            tiff(size | {259: 7, 262: 6, 279: len(jpeg), 278: 900}, pixels=jpeg),
        )
        yield (
            f"old-jpeg-{name}.tiff",
            tiff(size | {259: 6, 262: 6, 513: 8, 514: len(jpeg), 279: len(jpeg)}, pixels=jpeg),
        )
    for progressive in (False, True):
        tall = taller(saved(Image.new("RGB", (5000, 16)), "JPEG", progressive=progressive), 65_000)
        kind = "progressive" if progressive else "baseline"
        tags = {256: 5000, 257: 16, 262: 6, 278: 16, 279: len(tall)}
        yield f"tall-{kind}-jpeg.tiff", tiff(tags | {259: 7}, pixels=tall)
        yield (
            f"tall-{kind}-old-jpeg.tiff",
            tiff(tags | {259: 6, 513: 8, 514: len(tall)}, pixels=tall),
        )
    dictionary = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 30}]
    packed = {
        8: zlib.compress(bytes(20 << 20), 9),
        34925: lzma.compress(bytes(768), filters=dictionary),
        50000: b"\x28\xb5\x2f\xfd\0\xa8" + struct.pack("<I", 768 << 3 | 1)[:3] + bytes(768),
    }
    for compression, pixels in packed.items():
        tags = {259: compression, 279: len(pixels)}
        yield f"greedy-{compression}.tiff", tiff(tags, pixels=pixels)
    for planar, predictor, photometric, bits in (
        (2, 1, 2, 8), (1, 2, 2, 8), (1, 3, 2, 8), (1, 1, 5, 8), (1, 1, 8, 8), (1, 1, 6, 8),
        (1, 1, 3, 8), (1, 2, 1, 16), (1, 1, 1, 32), (1, 1, 1, 12), (2, 3, 1, 64), (9, 9, 9, 9),
    ):  # fmt: skip
        yield (
            f"planar-{planar}-predictor-{predictor}-{photometric}-{bits}.tiff",
            tiff(
                {284: planar, 317: predictor, 262: photometric, 258: bits, 259: 8},
                pixels=zlib.compress(bytes(5000)),
            ),
        )
    yield "samples.tiff", tiff({277: 65_535})
    yield "zero-rows.tiff", tiff({278: 0})


def jpegs() -> Iterator[Entry]:
    data, progressive = saved(picture(), "JPEG"), saved(picture(), "JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda\0")
    scan = progressive[last:-2]
    for count in (10, 80, 5_000):
        yield f"{count}-scans.jpeg", progressive[:-2] + scan * count + progressive[-2:]
    yield "cmyk.jpeg", saved(picture().convert("CMYK"), "JPEG")
    cmyk = saved(picture().convert("CMYK"), "JPEG")
    at = cmyk.index(b"Adobe")
    yield "ycck.jpeg", cmyk[: at + 11] + b"\2" + cmyk[at + 12 :]
    yield "restarts.jpeg", saved(picture(), "JPEG", restart_marker_blocks=1)
    restarts = saved(picture(), "JPEG", restart_marker_blocks=1)
    yield "restarts-out-of-order.jpeg", restarts.replace(b"\xff\xd1", b"\xff\xd5")
    yield "restarts-missing.jpeg", restarts.replace(b"\xff\xd2", b"")
    yield "restarts-only.jpeg", data[: data.index(b"\xff\xda")] + b"\xff\xd0" * 100_000
    yield "restart-interval.jpeg", data[:2] + b"\xff\xdd\0\4\xff\xff" + data[2:]
    frame = data.index(b"\xff\xc0")
    length = 2 + int.from_bytes(data[frame + 2 : frame + 4], "big")
    header = data[frame : frame + length]
    small = bytearray(header)
    small[5:9] = struct.pack(">HH", 1, 1)
    yield "two-frames.jpeg", data[:frame] + header + data[frame:]
    yield "small-frame-first.jpeg", data[:frame] + bytes(small) + data[frame:]
    large = bytearray(header)
    large[5:9] = struct.pack(">HH", 65_500, 65_500)
    yield "large-frame-last.jpeg", data[: frame + length] + bytes(large) + data[frame + length :]
    yield "large-frame-first.jpeg", data[:frame] + bytes(large) + data[frame:]
    yield (
        "large-frame-in-comment.jpeg",
        (data[:2] + jpeg_segment(0xE0, bytes(large)) + jpeg_segment(0xFE, data) + data[2:]),
    )
    yield "two-starts.jpeg", data[:2] + data
    yield "two-images.jpeg", data + data
    yield "image-in-image.jpeg", data[:frame] + data + data[frame:]
    for kind in (*range(0xC1, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)):
        yield f"frame-{kind:x}.jpeg", data[: frame + 1] + bytes((kind,)) + data[frame + 2 :]
    for bits in (0, 1, 12, 16, 255):
        yield f"{bits}-bit.jpeg", data[: frame + 4] + bytes((bits,)) + data[frame + 5 :]
    for sampling in (0x00, 0x11, 0x14, 0x41, 0x44, 0xFF):
        yield (
            f"sampling-{sampling:x}.jpeg",
            data[: frame + 11] + bytes((sampling,)) + data[frame + 12 :],
        )
    for layers in (0, 1, 2, 4, 255):
        yield f"{layers}-layers.jpeg", data[: frame + 9] + bytes((layers,)) + data[frame + 10 :]
    tables = data.index(b"\xff\xc4")
    yield (
        "no-tables.jpeg",
        data[:tables] + data[frame : frame + length] + data[data.index(b"\xff\xda") :],
    )
    yield "wild-table.jpeg", data[: tables + 5] + b"\xff" * 16 + data[tables + 21 :]
    yield "no-lines.jpeg", data[: frame + 5] + b"\0\0" + data[frame + 7 :]


def strips() -> Iterator[Entry]:
    """TIFFs with odd numbers, heights, places and lengths of strips, in all compressions."""
    yield "ccitt-shared.tiff", ccitt_strips()
    yield "jpeg-scans-shared.tiff", jpeg_strips()
    yield "jpeg-scans.tiff", jpeg_strips(strips=100, shared=False)
    for compression in (2, 3, 4, 32771):
        data = ccitt_strips(rows=20_000, strips=100, compression=compression, shared=False)
        yield f"fax-{compression}.tiff", data
    for compression in TIFF_COMPRESSIONS:
        for name, block in (("zeros", bytes(50)), ("noise", random.Random(6).randbytes(50))):
            for count in (1, 500):
                offsets, lengths, pixels = blocks(block, count)
                rows = 500 // count
                tags = GREY_TIFF | {
                    256: 20, 257: 500, 259: compression, 278: rows, 273: offsets, 279: lengths,
                }  # fmt: skip
                yield f"{name}-{compression}-{count}.tiff", tiff(tags, pixels=pixels)
    packed = zlib.compress(bytes(256))
    offsets, lengths, pixels = blocks(packed, 16)
    for name, tags in (
        ("no-lengths", {279: None}),
        ("lengths-of-0", {279: [0] * 16}),
        ("lengths-of-1", {279: [1] * 16}),
        ("endless", {279: [2**31] * 16}),
        ("few-lengths", {279: lengths[:3]}),
        ("few-offsets", {273: offsets[:3]}),
        ("one-offset", {273: [8], 279: [len(packed)], 278: 1}),
        ("backwards", {273: offsets[::-1]}),
        ("shared", {273: [8] * 16}),
        ("overlapping", {279: [len(packed) + 1] * 16}),
        ("rows-0", {278: 0}),
        ("rows-endless", {278: 2**32 - 1}),
        ("strips-and-tiles", {322: 16, 323: 16, 324: offsets, 325: lengths}),
        ("planes", {284: 2, 277: 4, 258: [8] * 4, 262: 5}),
        ("fill-order", {266: 2}),
    ):
        tags = GREY_TIFF | {
            256: 16, 257: 256, 259: 8, 278: 16, 273: offsets, 279: lengths,
        } | tags  # fmt: skip
        yield f"{name}.tiff", tiff(tags, pixels=pixels)
    for side in (1, 15, 16, 4096):
        tags = {322: side, 323: side, 324: offsets, 325: lengths, 273: None, 279: None, 278: None}
        size = {256: 64, 257: 64, 259: 8}
        yield f"tiles-of-{side}.tiff", tiff(GREY_TIFF | size | tags, pixels=pixels)


def chunks() -> Iterator[Entry]:
    """PNGs with odd numbers, orders and lengths of chunks, and odd deflate streams."""
    rows = png_rows(40, 30, 24, interlaced=False)
    packed = zlib.compress(rows)
    for size in (1, 100):
        parts = [(b"IDAT", packed[at : at + size]) for at in range(0, len(packed), size)]
        yield f"idat-of-{size}.png", png_of(40, 30, *parts)
    yield "idats-empty.png", png_of(40, 30, *[(b"IDAT", b"")] * 30_000, (b"IDAT", packed))
    yield (
        "idat-interrupted.png",
        png_of(40, 30, (b"IDAT", packed[:90]), (b"tEXt", b"k\0v"), (b"IDAT", packed[90:])),
    )
    yield "idat-missing.png", png_of(40, 30)
    yield "two-headers.png", png_of(40, 30, (b"IHDR", png_header(9, 9)), (b"IDAT", packed))
    yield "huge-chunk.png", png_of(40, 30)[:-12] + struct.pack(">I4s", 2**31 - 1, b"IDAT") + packed
    for count in (0, 1, 255, 256, 257, 30_000):
        palette = (b"PLTE", bytes(3 * count))
        pixels = (b"IDAT", zlib.compress(bytes(30 * 41)))
        yield f"palette-of-{count}.png", png_of(40, 30, palette, pixels, colour=3)
        if count:
            transparency = (b"tRNS", bytes(count))
            palette = (b"PLTE", bytes(768))
            yield f"trns-{count}.png", png_of(40, 30, palette, transparency, pixels, colour=3)
    for depth in (0, 3, 8, 16, 32):
        for colour in (0, 1, 2, 3, 5, 6, 7):
            data = png_of(40, 30, (b"IDAT", packed), depth=depth, colour=colour)
            yield f"depth-{depth}-colour-{colour}.png", data
    for field in ("compression", "filtering", "interlaced"):
        yield f"{field}-2.png", png_of(40, 30, (b"IDAT", packed), **{field: 2})
    for number in (*range(6), 255):
        filtered = b"".join(
            bytes((number,)) + rows[at + 1 : at + 121] for at in range(0, 3630, 121)
        )
        yield f"filter-{number}.png", png_of(40, 30, (b"IDAT", zlib.compress(filtered)))
    stored, nothing = zlib.compress(rows, 0), b"\0\0\0\xff\xff"
    for name, stream in (
        ("stored", stored),
        ("stored-of-nothing", stored[:2] + nothing * 100_000 + stored[2:]),
        ("dictionary", b"\x78\xbb" + packed[2:]),
        ("large-window", b"\xf8" + packed[1:]),
        ("other-method", b"\x79" + packed[1:]),
        ("wrong-sum", packed[:-1] + bytes((packed[-1] ^ 1,))),
        ("twice", packed + packed),
    ):
        yield f"deflate-{name}.png", png_of(40, 30, (b"IDAT", stream))


def frames() -> Iterator[Entry]:
    """GIFs and WebPs with odd frames and codes."""
    for bits in (0, 1, 2, 8, 11, 12, 255):
        for name, codes in (("noise", random.Random(7).randbytes(600)), ("zeros", bytes(600))):
            yield f"{bits}-bits-{name}.gif", gif_of(bits, codes)
    yield "clear-codes.gif", gif_of(2, b"\x24\x49\x92" * 30_000)
    yield "no-codes.gif", gif_of(2, b"")
    for flags in (0x40, 0x80, 0x87, 0xC7):
        yield f"flags-{flags:x}.gif", gif_of(2, b"\x4c\1", flags=flags)
    usual = saved(picture(), "GIF")
    yield "many.gif", usual[:-1] + usual[usual.index(b",", 781) : -1] * 200 + b";"
    lossy, lossless = (saved(picture(16, 16), "WEBP", lossless=way) for way in (False, True))
    alpha = saved(picture(16, 16).convert("RGBA"), "WEBP", lossless=False, exact=True)
    extended = b"%c\0\0\0\x0f\0\0\x0f\0\0"
    for name, data in (("lossy", lossy), ("lossless", lossless)):
        frame = (data[12:16], data[20:])
        for flags in (0, 2, 8, 16, 62, 255):
            yield f"{name}-flags-{flags}.webp", riff((b"VP8X", extended % flags), frame)
        yield f"{name}-twice.webp", riff(frame, frame)
        yield f"{name}-last.webp", riff((b"VP8X", extended % 0), *[(b"prVt", b"")] * 9_000, frame)
        for at in range(20, 34):
            yield f"{name}-byte-{at}.webp", data[:at] + b"\xff" + data[at + 1 :]
    for method in range(4):
        for filtering in (0, 4, 12, 0x30):
            layer = (b"ALPH", bytes((method | filtering,)) + bytes(256))
            frame = (lossy[12:16], lossy[20:])
            data = riff((b"VP8X", extended % 16), layer, frame)
            yield f"alpha-{method}-{filtering:x}.webp", data
    yield "alpha.webp", alpha
    size, canvas = b"\x0f\0\0\x0f\0\0", extended % 2
    for count in (1, 500):
        part = (b"ANMF", bytes(6) + size + bytes(4) + lossy[12:])
        yield f"{count}-frames.webp", riff((b"VP8X", canvas), (b"ANIM", bytes(6)), *[part] * count)


def palettes() -> Iterator[Entry]:
    """BMPs with odd headers, palettes and run lengths."""
    for size in (0, 12, 16, 40, 52, 56, 64, 108, 124, 125, 2**31):
        yield f"header-of-{size}.bmp", bmp_of(struct.pack("<I", size))
    for colours in (1, 256, 257, 2**20, 2**32 - 1):
        yield f"{colours}-colours.bmp", bmp_of(struct.pack("<I", colours), at=46)
    for compression in (*range(7), 11, 13, 255):
        for bits in (1, 4, 8, 16, 24, 32):
            data = bmp(30, 20, bits=bits, compression=compression, pixels=bytes(2400))
            yield f"compression-{compression}-{bits}.bmp", data
    for bits in (0, 2, 3, 5, 12, 48, 64):
        yield f"{bits}-bits.bmp", bmp_of(struct.pack("<H", bits), at=28)
    for planes in (0, 2, 65535):
        yield f"{planes}-planes.bmp", bmp_of(struct.pack("<H", planes), at=26)
    for offset in (0, 14, 53, 10_000, 2**32 - 1):
        yield f"pixels-at-{offset}.bmp", bmp_of(struct.pack("<I", offset), at=10)
    for masks in ((0, 0, 0), (1, 2, 4), (0xFF, 0xFF, 0xFF), (2**32 - 1,) * 3):
        for bits in (16, 32):
            name = "-".join(f"{mask:x}" for mask in masks)
            data = bmp(30, 20, bits=bits, compression=3, masks=masks, pixels=bytes(2400))
            yield f"masks-{name}-{bits}.bmp", data
    for compression in (1, 2):
        for name, runs in (
            ("one-by-one", b"\1\7" * 5_000),
            ("ends", b"\0\0" * 5_000),
            ("far", b"\0\2\xff\xff" * 5_000),
            ("literal", b"\0\xff" + bytes(20)),
            ("no-end", b"\xff\7" * 100),
            ("nothing", b"\0\7" * 5_000),
        ):
            data = bmp(300, 200, bits=8, compression=compression, pixels=runs)
            yield f"runs-{name}-{compression}.bmp", data


def scans() -> Iterator[Entry]:
    """JPEGs with odd scans and tables."""
    baseline = saved(picture(), "JPEG")
    progressive = saved(picture(), "JPEG", progressive=True)
    for name, data in (("baseline", baseline), ("progressive", progressive)):
        scan = data.index(b"\xff\xda\0")
        spectral = scan + 5 + 2 * data[scan + 4]
        for first, last, bits in (
            (0, 0, 0), (0, 63, 0), (1, 63, 0), (63, 1, 0), (0, 255, 0), (0, 0, 0x21), (0, 0, 0xFF),
            (1, 63, 0xD), (64, 64, 0),
        ):  # fmt: skip
            changed = data[:spectral] + bytes((first, last, bits)) + data[spectral + 3 :]
            yield f"{name}-{first}-{last}-{bits}.jpeg", changed
        for count in (0, 1, 2, 4, 5, 255):
            yield f"{name}-of-{count}.jpeg", data[: scan + 4] + bytes((count,)) + data[scan + 5 :]
        for component in (0, 9):
            changed = data[: scan + 5] + bytes((component,)) + data[scan + 6 :]
            yield f"{name}-component-{component}.jpeg", changed
        tables = data[data.index(b"\xff\xc4") : scan]
        yield f"{name}-many-tables.jpeg", data[:scan] + tables * 100 + data[scan:]
        for quantum in (0, 255):
            at = data.index(b"\xff\xdb") + 5
            changed = data[:at] + bytes((quantum,)) * 64 + data[at + 64 :]
            yield f"{name}-quantum-{quantum}.jpeg", changed
        for interval in (1, 7, 65535):
            every = jpeg_segment(0xDD, struct.pack(">H", interval))
            yield f"{name}-restart-{interval}.jpeg", data[:scan] + every + data[scan:]
        yield f"{name}-scan-missing.jpeg", data[:scan] + data[-2:]
        yield f"{name}-tables-missing.jpeg", data.replace(b"\xff\xc4", b"\xff\xfe")
        yield f"{name}-noise.jpeg", data[: spectral + 3] + random.Random(8).randbytes(3000)
        yield f"{name}-ones.jpeg", data[: spectral + 3] + b"\xff\0" * 3000 + b"\xff\xd9"
        yield f"{name}-flat.jpeg", data[: spectral + 3] + bytes(3000) + b"\xff\xd9"


FAMILIES = (
    ordinary, modes, orientations, animated, truncated, damaged, polyglots, foreign, sizes,
    metadata, tiffs, jpegs, strips, chunks, frames, palettes, scans,
)  # fmt: skip


# How the files are written by hand.

PNG_KINDS = (
    (1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (2, 3), (4, 3), (8, 3),
    (8, 4), (16, 4), (8, 6), (16, 6),
)  # fmt: skip
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)

Chunks = Iterable[tuple[bytes, bytes]]


TIFF_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000, 50001)
GREY_TIFF: dict[int, int | list[int] | None] = {258: 8, 262: 1, 277: 1}


def png_chunk(name: bytes, content: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + crc


def png(
    width: int,
    height: int,
    *,
    depth: int = 8,
    colour: int = 2,
    interlaced: bool = False,
    pixels: bytes | None = None,
    before: Chunks = (),
    after: Chunks = (),
) -> bytes:
    """A PNG of noise unless `pixels` are given, with other chunks `before` and `after` them."""
    if pixels is None:
        pixels = png_rows(width, height, PNG_SAMPLES[colour] * depth, interlaced=interlaced)
    palette = [(b"PLTE", bytes(range(256)) * 3)] if colour == 3 else []
    parts = (*before, *palette, (b"IDAT", zlib.compress(pixels)), *after)
    return png_of(width, height, *parts, depth=depth, colour=colour, interlaced=interlaced)


def png_of(width: int, height: int, *parts: tuple[bytes, bytes], **fields: int) -> bytes:
    """A PNG of these chunks between the header and the end."""
    ends = (b"IHDR", png_header(width, height, **fields)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(name, content) for name, content in (ends[0], *parts, ends[1])
    )


def png_header(
    width: int,
    height: int,
    *,
    depth: int = 8,
    colour: int = 2,
    compression: int = 0,
    filtering: int = 0,
    interlaced: int = 0,
) -> bytes:
    size = struct.pack(">II", width % 2**32, height % 2**32)
    return size + bytes((depth, colour, compression, filtering, interlaced))


def png_rows(width: int, height: int, bits: int, *, interlaced: bool) -> bytes:
    rng = random.Random(bits)
    rows = []
    for left, top, across, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns = -(-(width - left) // across)
        if columns > 0:
            rows += [
                bytes((rng.randrange(5),)) + rng.randbytes((columns * bits + 7) // 8)
                for _ in range(top, height, down)
            ]
    return b"".join(rows)


def tall_png(width: int, height: int) -> bytes:
    """An RGBA PNG of a single colour."""
    row = b"\0" + bytes((200, 100, 50, 128)) * width
    return png(width, height, colour=6, pixels=row * height)


def flat_png(width: int, height: int, *, depth: int) -> bytes:
    return png(
        width, height, depth=depth, colour=0, pixels=bytes(height * (1 + width * depth // 8))
    )


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def taller(jpeg: bytes, height: int) -> bytes:
    """The same file, with that height in its frame header."""
    (frame,) = (at for at in (jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2")) if at > 0)
    return jpeg[: frame + 5] + struct.pack(">H", height) + jpeg[frame + 7 :]


def bmp(
    width: int,
    height: int,
    *,
    bits: int = 24,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    pixels: bytes | None = None,
) -> bytes:
    colours = random.Random(bits).randbytes(4 << bits) if bits <= 8 else b""
    if pixels is None:
        pixels = random.Random(bits).randbytes((width * bits + 31) // 32 * 4 * abs(height))
    header = struct.pack(
        "<IIIHHIIIIII",
        40,
        width % 2**32,
        height % 2**32,
        1,
        bits,
        compression,
        len(pixels),
        0,
        0,
        0,
        0,
    )
    body = header + struct.pack(f"<{len(masks)}I", *masks) + colours
    offset = 14 + len(body)
    return struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset) + body + pixels


def bmp_of(field: bytes, *, at: int = 14) -> bytes:
    """A BMP of 30 x 20 pixels, with other bytes at one place of its header."""
    data = bmp(30, 20)
    return data[:at] + field + data[at + len(field) :]


def gif_of(bits: int, codes: bytes, *, flags: int = 0) -> bytes:
    """A GIF of 30 x 20 pixels, of the minimum code size `bits`, and the codes."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 30, 20, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    blocks = (codes[at : at + 255] for at in range(0, len(codes), 255))
    packed = b"".join(bytes((len(block),)) + block for block in blocks)
    image = b"," + struct.pack("<HHHHB", 0, 0, 30, 20, flags)
    return screen + image + bytes((bits,)) + packed + b"\0;"


def gif(
    screen: tuple[int, int],
    frame: tuple[int, int],
    *,
    position: tuple[int, int] = (0, 0),
    disposal: int = 0,
    before: bytes = b"",
) -> bytes:
    """A GIF with this (width, height) of its screen and of its frame, whose pixels end early."""
    control = b"!\xf9\4" + bytes((disposal << 2, 0, 0, 0)) + b"\0"
    header = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    image = b"," + struct.pack("<HHHHB", *position, *frame, 0)
    return header + before + control + image + b"\2\2\x4c\1\0;"


def tiff(
    tags: dict[int, int | list[int] | None],
    *,
    kinds: dict[int, int] | None = None,
    pixels: bytes = bytes(768),
    order: str = "<",
    big: bool = False,
    only: bool = False,
) -> bytes:
    """A TIFF of 16 x 16 RGB, unless tags override it. A tag of None is left out; `only` these tags.

    The pixels are at 8 (16 in a BigTIFF). Long values follow, and then the directory.
    """
    start = 16 if big else 8
    usual = {
        256: 16, 257: 16, 258: [8, 8, 8], 259: 1, 262: 2, 273: start, 277: 3, 278: 16,
        279: len(pixels),
    }  # fmt: skip
    tags = tags if only else usual | tags
    kinds = kinds or {}
    formats = {2: "B", 3: "H", 4: "I", 5: "II", 12: "d", 16: "Q"}
    place, inline = ("Q", 8) if big else ("I", 4)
    body, entries = pixels, []
    for tag, value in sorted(tags.items()):
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        kind = kinds.get(tag, 16 if big and max(values) >= 2**32 else 4)
        pair = 2 if kind == 5 else 1
        flat = [min(v, 2**32 - 1) if kind == 4 else v for v in values for _ in range(pair)]
        content = struct.pack(f"{order}{len(flat)}{formats[kind][0]}", *flat)
        if len(content) > inline:
            at = start + len(body)
            body += content
            content = struct.pack(order + place, at)
        head = struct.pack(f"{order}HH{place}", tag, kind, len(values))
        entries.append(head + content.ljust(inline, b"\0"))
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    header = magic + (struct.pack(order + "HH", 8, 0) if big else b"")
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    directory = struct.pack(order + place, start + len(body))
    return header + directory + body + count + b"".join(entries) + bytes(inline)


def blocks(data: bytes, count: int, *, shared: bool = False) -> tuple[list[int], list[int], bytes]:
    """Offsets and lengths of `count` strips or tiles of a classic TIFF, and their bytes.

    Each has the same data. With `shared`, all are at the same place.
    """
    offsets = [8 + (0 if shared else number * len(data)) for number in range(count)]
    return offsets, [len(data)] * count, data if shared else data * count


def ccitt_strips(
    *, rows: int = 25_000_000, strips: int = 2**16, compression: int = 2, shared: bool = True
) -> bytes:
    """A TIFF of invalid fax code words: libtiff reports an error for each row."""
    of_strip = -(-rows // strips)
    words = random.Random(1).randbytes(4000 if shared else max(8, of_strip // 4))
    offsets, lengths, pixels = blocks(words, -(-rows // of_strip), shared=shared)
    tags = {
        256: 1, 257: rows, 258: 1, 259: compression, 262: 1, 277: 1, 278: of_strip, 273: offsets,
        279: lengths,
    }  # fmt: skip
    return tiff(tags, pixels=pixels)


def jpeg_strips(
    *, strips: int = 2**16, height: int = 380, scans: int = 90, shared: bool = True
) -> bytes:
    """A TIFF one pixel wide, whose strips are JPEGs of many scans."""
    jpeg = more_scans(saved(Image.new("RGB", (1, height)), "JPEG", progressive=True), scans)
    offsets, lengths, pixels = blocks(jpeg, strips, shared=shared)
    tags = {
        256: 1, 257: height * strips, 259: 7, 262: 6, 278: height, 273: offsets, 279: lengths,
    }  # fmt: skip
    return tiff(tags, pixels=pixels)


def more_scans(jpeg: bytes, count: int) -> bytes:
    """Repeat the last scan of a progressive JPEG until it has `count` scans."""
    last = jpeg.rindex(b"\xff\xda\0")
    return jpeg[:-2] + jpeg[last:-2] * (count - jpeg.count(b"\xff\xda\0")) + jpeg[-2:]


def looping_tiff() -> bytes:
    """A TIFF whose directory names itself as the next one."""
    data = tiff({})
    return data[:-4] + data[4:8]


def chained_tiff(count: int) -> bytes:
    """A TIFF of that many directories, each of one tag."""
    first = tiff({})
    data = first[:-4] + struct.pack("<I", len(first))
    for number in range(1, count + 1):
        following = len(first) + 18 * number if number < count else 0
        data += struct.pack("<HHHII", 1, 256, 4, 1, 9) + struct.pack("<I", following)
    return data


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def webp_of_size(width: int, height: int, *, lossless: bool) -> bytes:
    data = bytearray(saved(picture(16, 16), "WEBP", lossless=lossless))
    if lossless:
        bits = int.from_bytes(data[21:25], "little") >> 28 << 28
        data[21:25] = (bits | (height - 1) << 14 | width - 1).to_bytes(4, "little")
    else:
        data[26:30] = struct.pack("<HH", width, height)
    return bytes(data)


def webp_canvas(width: int, height: int) -> bytes:
    """An animation whose canvas has that size and whose one frame has 16 x 16 pixels."""
    frame = saved(picture(16, 16), "WEBP")[12:]
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    placed = bytes(6) + b"\x0f\0\0\x0f\0\0" + bytes(4)
    return riff((b"VP8X", b"\2\0\0\0" + sizes), (b"ANIM", bytes(6)), (b"ANMF", placed + frame))


def webp_with_exif(block: bytes) -> bytes:
    frame = saved(picture(16, 16), "WEBP")
    size = b"\x0f\0\0\x0f\0\0"
    return riff((b"VP8X", b"\x08\0\0\0" + size), (frame[12:16], frame[20:]), (b"EXIF", block))


def main() -> None:
    folder = Path(sys.argv[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = corpus()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(f"{len(files)} files, {sum(map(len, files.values()))} bytes, in {folder}")


if __name__ == "__main__":
    main()
