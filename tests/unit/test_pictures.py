"Pictures as they are meant to be seen; broken, oversized and missing ones refused in one line"
import io, os, struct, subprocess, sys, warnings, zlib
import numpy as np
import pytest
from PIL import Image
from povid_nb import world
from povid_nb.pictures import check_image, open_image, picture_key

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
TURNS = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
         4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_270}


@pytest.mark.parametrize("number,turn", TURNS.items())
def test_a_photograph_is_turned_as_its_exif_data_say(number, turn, tmp_path):
    "The stored pixels are turned the other way, so that every viewer shows PHOTO"
    exif = Image.Exif()
    exif[0x0112] = number
    stored = PHOTO if turn is None else PHOTO.transpose(turn)
    stored.save(tmp_path/"photo.png", exif=exif)
    shown = open_image(tmp_path/"photo.png")
    assert shown.size == PHOTO.size and shown.tobytes() == PHOTO.tobytes()
    with Image.open(tmp_path/"photo.png") as lazy: assert open_image(lazy).tobytes() == PHOTO.tobytes()


def test_unreadable_exif_data_leave_the_picture_as_it_is(tmp_path):
    PHOTO.save(tmp_path/"photo.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert open_image(tmp_path/"photo.jpg").size == PHOTO.size


@pytest.mark.parametrize("values,form,scale", [
    (np.arange(0, 65536, 257, dtype="<u2"), "ramp.png", 257), (np.arange(0, 65536, 257, dtype="<u2"), "ramp.tif", 257),
    (np.arange(0, 65536, 257, dtype="<i4"), "ramp.tif", 257), (np.arange(256, dtype="<i4"), "ramp.tif", 1),
    (np.linspace(0, 1, 256, dtype="<f4"), "ramp.tif", 1 / 255), (np.arange(256, dtype="<f4"), "ramp.tif", 1)])
def test_deep_greys_are_scaled_and_not_clipped(values, form, scale, tmp_path):
    Image.fromarray(values.reshape(16, 16)).save(tmp_path/form)
    shown = np.asarray(open_image(tmp_path/form))
    assert shown.shape == (16, 16, 3)
    assert (shown[..., 0].ravel() == np.round(values / scale)).all() and (shown[..., 0] == shown[..., 2]).all()


def test_big_endian_greys(tmp_path):
    ramp = Image.frombytes("I;16B", (16, 16), np.arange(0, 65536, 257, dtype=">u2").tobytes())
    assert open_image(ramp).getchannel("R").tobytes() == bytes(range(256))


@pytest.mark.parametrize("values",
                         [np.array([[-5., 3.]], "<f4"), np.array([[0., 1000.]], "<f4"), np.array([[0, 70000]], "<i4")])
def test_greys_of_no_known_scale_are_refused(values):
    with pytest.raises(ValueError, match="the picture has values from .* expected grey from 0 to"):
        open_image(Image.fromarray(values))


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    "A folder of files that are no pictures, or too large ones"
    folder = tmp_path_factory.mktemp("spoilt")
    PHOTO.save(folder/"photo.png"); whole = (folder/"photo.png").read_bytes()
    (folder/"text.png").write_text("not a picture")
    (folder/"empty.png").write_bytes(b"")
    (folder/"cut.png").write_bytes(whole[:len(whole) // 2])
    (folder/"flipped.png").write_bytes(whole[:60] + bytes(b ^ 255 for b in whole[60:90]) + whole[90:])
    Image.new("1", (100_000, 1)).save(folder/"line.png")
    Image.new("1", (13_300, 13_300)).save(folder/"huge.png")
    head = b"IHDR" + struct.pack(">2I5B", 30_000, 30_000, 1, 0, 0, 0, 0)
    (folder/"bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head
                                    + struct.pack(">I", zlib.crc32(head)) + struct.pack(">I", 0) + b"IDAT")
    PHOTO.save(folder/"program.eps")
    (folder/"folder.png").mkdir()
    os.mkfifo(folder/"pipe.png")
    return folder


REFUSED = {"text.png": "is not an image that Pillow can read", "empty.png": "is not an image that Pillow can read",
           "cut.png": "or it is cut short", "flipped.png": "is not an image that Pillow can read",
           "line.png": "100000 x 1 pixels: one side is more than 100 times",
           "huge.png": "13300 x 13300 pixels, more than 64,000,000", "bomb.png": "more than 64,000,000 pixels",
           "program.eps": "is EPS; expected one of JPEG",
           "folder.png": "no image file at .*: it is a folder",
           "pipe.png": "no image file at .*: it is not a regular file", "none.png": "no image file at"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_in_one_line_that_names_it(name, spoilt):
    with pytest.raises((ValueError, FileNotFoundError), match=REFUSED[name]) as error: open_image(spoilt/name)
    assert name in str(error.value) and "\n" not in str(error.value)
    if name in ("cut.png", "flipped.png"): check_image(spoilt/name)           # their headers are fine
    else:
        with pytest.raises(type(error.value), match=REFUSED[name]): check_image(spoilt/name)


def test_oversized_pictures_cost_no_memory(spoilt):
    "Under a limit of the address space that their pixels would not fit in"
    code = f"""
import resource
from povid_nb.pictures import open_image
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
for name in ("line.png", "huge.png", "bomb.png"):
    try: open_image({str(spoilt)!r} + "/" + name)
    except ValueError as error: assert "pixels" in str(error), error
    else: raise SystemExit(name)
import sys; assert not {{"torch", "numpy", "transformers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_oversized_picture_that_is_open_already_is_refused_too(spoilt):
    with warnings.catch_warnings(action="ignore"): lazy = Image.open(spoilt/"huge.png")
    with lazy, pytest.raises(ValueError, match="huge.png has 13300 x 13300"): open_image(lazy)


def test_a_photograph_of_a_large_camera_is_allowed(tmp_path):
    Image.new("1", (9_000, 7_000)).save(tmp_path/"large.png")
    assert check_image(tmp_path/"large.png") is None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_comes_out_as_rgb(mode): assert open_image(Image.new(mode, (4, 4))).mode == "RGB"


def test_scenes_draw_themselves_and_the_given_picture_stays_as_it_was():
    scene = world.scenes("typical", "pairs", 1)[0]
    assert open_image(scene).tobytes() == scene.image().tobytes()
    before = PHOTO.tobytes()
    open_image(PHOTO).putpixel((0, 0), (1, 2, 3))
    assert PHOTO.tobytes() == before
    assert check_image(scene) is None and check_image(PHOTO) is None


def test_bytes_of_a_file(spoilt):
    data = io.BytesIO()
    PHOTO.save(data, "PNG")
    assert open_image(data.getvalue()).tobytes() == PHOTO.tobytes() and check_image(data.getvalue()) is None
    for name in ("text.png", "empty.png", "cut.png", "line.png", "bomb.png"):
        with pytest.raises(ValueError, match="^the picture "): open_image((spoilt/name).read_bytes())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_picture_has_one_key_however_it_is_stored(kind, tmp_path):
    PHOTO.save(tmp_path/"photo", kind)
    assert picture_key(PHOTO) == picture_key(tmp_path/"photo") == picture_key((tmp_path/"photo").read_bytes())
    assert picture_key(
        PHOTO) != picture_key(PHOTO.transpose(Image.Transpose.ROTATE_90)) != picture_key(PHOTO.resize((20, 30)))


def test_what_is_neither_says_what_was_expected():
    for thing in (None, 3, ["x.png"]):
        with pytest.raises(TypeError, match="expected a picture .a Pillow image, a path, or a scene., got"):
            open_image(thing)
