"Noise against its formula, diffusers, the published constants, and itself in other batches and processes"
import subprocess, sys
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from povid_nb import noise, noise_pixels

# sqrt(abar), sqrt(1 - abar), as published for POVID's schedule
CONSTANTS = {100: (.9983, .0584), 200: (.9939, .1105), 300: (.9810, .1941), 400: (.9449, .3275), 500: (.8630, .5052),
             600: (.7342, .6789), 700: (.5927, .8054), 800: (.4670, .8843), 900: (.3649, .9311), 999: (.2850, .9585)}
# likeness of a smooth image after 2x2 pooling: no overflow rule, clamp, wrap
LIKENESS = {300: (.856, .857, .666), 400: (.687, .680, .178), 500: (.492, .471, .009)}

def picture(size=(40, 30), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))
def smooth():
    ramp = np.add.outer(np.linspace(.1, .9, 224), np.linspace(.1, .9, 224)) / 2
    return Image.fromarray(np.uint8(np.rint(255 * np.stack([ramp] * 3, -1))))

def test_constants():
    kept, added = noise.shares()
    for k, values in CONSTANTS.items(): assert (round(kept[k], 4), round(added[k], 4)) == values, k

def test_schedule_is_diffusers():
    from diffusers import DDPMScheduler
    theirs = DDPMScheduler(1000, trained_betas=noise.sigmoid_betas()).alphas_cumprod.double().numpy()
    by_hand = 1.
    for k, beta in enumerate(noise.sigmoid_betas()):
        by_hand *= 1 - beta
        assert abs(by_hand - theirs[k]) < 1e-6
    assert np.allclose(noise.shares()[0]**2, theirs, atol=1e-12)

@pytest.mark.parametrize("name", ["sigmoid", "linear", "cosine"])
def test_ratio_falls(name):
    ratios = noise.snr(name)
    assert len(ratios) == 1000 and (np.diff(ratios) < 0).all()

@pytest.mark.parametrize("k", LIKENESS)
def test_published_likeness(k):
    image = smooth()
    here = [noise_pixels.likeness(image, noise.add_noise(image, k, "smooth", overflow=o))
            for o in ("none", "clamp", "wrap")]
    assert np.allclose(here, LIKENESS[k], atol=.02), here

@pytest.mark.parametrize("value", [.1, .25, .45, .75, .9])
def test_wrap_at_500_forgets_the_grey(value):
    card = Image.new("RGB", (256, 256), (round(255 * value),) * 3)
    x = np.asarray(noise.add_noise(card, 500, value, overflow="wrap")) / 255
    assert .494 < x.mean() < .506 and abs(x.std() - .29) < .005

def test_wrap_is_what_torch_does_on_x86():
    x = torch.linspace(-3, 4, 7001)
    assert noise_pixels._eight_bits(np.float32([-.1, 1.1]), "wrap").tolist() == [231, 24]
    ours = noise_pixels._eight_bits(x.numpy(), "wrap")
    assert (ours == x.mul(255).to(torch.int64).remainder(256).to(torch.uint8).numpy()).all()

def test_eight_bits_survive():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for overflow in ("wrap", "clamp"):
        assert (noise_pixels._eight_bits(levels / np.float32(255), overflow) == levels).all()

@settings(max_examples=40, deadline=None)
@given(k=st.integers(0, 999), seed=st.integers(0, 2**40), name=st.text(max_size=8), h=st.integers(1, 9),
       w=st.integers(1, 9))
def test_formula(k, seed, name, h, w):
    x = torch.rand(3, h, w)
    kept = np.cumprod(1 - noise.sigmoid_betas())[k]
    expected = kept**.5 * x + (1 - kept)**.5 * noise.draw(x.shape, name, k, seed)
    assert torch.allclose(noise.add_noise(x, k, name, seed), expected.float(), atol=2e-5)

@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(5)), cut=st.integers(1, 4))
def test_batches_do_not_matter(order, cut):
    x, ids, steps = torch.arange(5.)[:, None, None, None].expand(5, 3, 6, 7), [f"im{i}" for i in range(5)], [0, 10,
        500, 500, 999]
    whole = noise.add_noise(x, steps, ids, seed=3)
    for part in (order[:cut], order[cut:]):
        some = noise.add_noise(x[list(part)], [steps[i] for i in part], [ids[i] for i in part], seed=3)
        assert torch.equal(some, whole[list(part)])

def test_processes_do_not_matter():
    code = "from povid_nb import noise; print(noise.draw((4,), 'a', 500, 7).tolist(), noise.noise_seed('a', 500, 7))"
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env={"PYTHONHASHSEED": h, "PYTHONPATH": ":".join(sys.path)}).stdout for h in ("1", "2")}
    assert runs == {f"{noise.draw((4,), 'a', 500, 7).tolist()} {noise.noise_seed('a', 500, 7)}\n"}

def test_seed_depends_on_all_three():
    seeds = {noise.noise_seed(i, k, s) for i in ("a", "a1", "1") for k in (1, 11, 500) for s in (0, 1, 11)}
    assert len(seeds) == 27

def test_noise_is_standard_normal():
    eps = noise.draw((200_000,), "many", 5)
    assert abs(eps.mean()) < .01 and abs(eps.std() - 1) < .01 and abs((eps**4).mean() - 3) < .06

@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_any_picture(mode):
    image = picture().convert(mode)
    for overflow in ("clamp", "wrap"):
        out = noise.add_noise(image, 300, "x", overflow=overflow)
        assert out.size == image.size and out.mode == "RGB"
    assert noise.add_noise(image, 300, "x", overflow="none").shape == (40, 30, 3)

def test_pil_and_tensor_agree():
    image = picture((8, 8))
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    floats = noise.add_noise(image, 500, "x", overflow="none")
    assert np.allclose(floats, noise.add_noise(x, 500, "x").permute(1, 2, 0), atol=1e-6)

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_stays(dtype):
    x = torch.rand(2, 3, 8, 8).to(dtype)
    out = noise.add_noise(x, 500, ["a", "b"])
    exact = noise.add_noise(x.float(), 500, ["a", "b"])
    assert out.dtype == dtype and torch.allclose(out.float(), exact, atol=.02)

def test_input_is_left_alone():
    x, image = torch.rand(1, 3, 4, 4), picture()
    before = x.clone(), image.tobytes()
    noise.add_noise(x, 500, ["a"]); noise.add_noise(image, 500, "a")
    assert torch.equal(x, before[0]) and image.tobytes() == before[1]

def test_same_snr_by_hand():
    kept, added = noise.shares()
    for std in (.27, (.26862954, .26130258, .27577711), .5):
        s = np.sqrt(np.mean(np.square(std)))
        k = noise.same_snr(500, std)
        wanted = kept[500] / added[500] * s
        assert abs(kept[k] / added[k] - wanted) == min(abs(kept / added - wanted))
        assert abs(noise.same_snr(k, std, to="pixels") - 500) <= 1
    assert noise.same_snr(500, 1.) == 500
    assert abs(noise.same_snr(500, .27) - 844) <= 1 and abs(noise.same_snr(500, .27, to="pixels") - 261) <= 1

def test_same_snr_by_measurement():
    "Noise in either space leaves the same share of the picture behind a processor, whatever its mean"
    std, mean = .27, .45
    x = torch.rand(1, 3, 300, 300)
    in_pixels = (noise.add_noise(x, 500, ["a"]) - mean) / std
    behind = noise.add_noise((x - mean) / std, noise.same_snr(500, std), ["a"])
    r = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for y in (in_pixels, behind)]
    assert abs(r[0] - r[1]) < .01

@pytest.mark.parametrize("low, high", [(0, 1), (-2.5, 3.2)])
@pytest.mark.parametrize("tiles", [1, 3])
def test_through_a_linear_processor(low, high, tiles):
    rng = np.random.default_rng(1)
    floats = [rng.uniform(low * r, 1 + (high - 1) * r, (20, 24, 3)).astype(np.float32) for r in (1, .5)]
    # shrink by averaging, pad with a colour of its own, normalise; some processors make several rows of a picture
    def process(images):
        small = torch.stack([torch.from_numpy(np.asarray(i.reduce(2), dtype=np.float32) / 255) for i in images])
        return (torch.nn.functional.pad(small, (0, 0, 3, 3), value=.3).repeat_interleave(tiles, 0) - .45) / .27
    out = noise_pixels._through(process, floats)
    assert len(out) == 2 * tiles
    for x, rows in zip(floats, out.unflatten(0, (2, tiles))):
        small = np.pad(x.reshape(10, 2, 12, 2, 3).mean((1, 3)), ((0, 0), (3, 3), (0, 0)), constant_values=.3)
        for row in rows:
            assert (np.abs(row.numpy() - (small - .45) / .27).max() < 1.2 * (x.max() - min(0, x.min())) / 255 / .27
                    + 1e-3)

@pytest.mark.parametrize("bad", [-1, 1000, 3.5, "500", None, float("nan")])
def test_bad_step(bad):
    with pytest.raises(ValueError, match=r"noise_step is .* from 0 .* to 999"): noise.check_step(bad)

def test_numpy_and_torch_steps():
    assert noise.check_step(np.int64(5)) == noise.check_step(torch.tensor(5)) == noise.check_step(5.) == 5

@pytest.mark.parametrize("call, message", [
    (lambda: noise.add_noise([picture()] * 2, 5), "image_ids is None, but there are 2 images"),
    (lambda: noise.add_noise(torch.rand(2, 3, 4, 4), 5, ["a"]), "there are 2 images"),
    (lambda: noise.add_noise(torch.rand(2, 3, 4, 4), [5], ["a", "b"]), "noise_step is .* 2 images"),
    (lambda: noise.add_noise(picture(), 5, overflow="cut"), "Unknown overflow 'cut'"),
    (lambda: noise.snr("sigmiod"), "Unknown noise schedule 'sigmiod'"),
    (lambda: noise.same_snr(500, .27, to="latent"), "Unknown space 'latent'"),
    (lambda: noise.same_snr(800, .27), "k = 800 in pixels has no equal in processed")])
def test_messages(call, message):
    with pytest.raises(ValueError, match=message): call()

@pytest.mark.cuda
def test_gpu_draws_the_same():
    x = torch.rand(2, 3, 16, 16)
    assert torch.allclose(noise.add_noise(x.cuda(), 500, ["a", "b"]).cpu(), noise.add_noise(x, 500, ["a", "b"]),
                          atol=1e-6)

@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_use_on_another_device_changes_nothing(schedule):
    "diffusers moves a scheduler's table to the device of the pictures; ours must stay where numpy can read it"
    before, x = noise.snr(schedule), torch.rand(2, 3, 8, 8)
    there = noise.noisy_rows(torch.empty(2, 3, 8, 8, device="meta"), [5, 500], ["a", "b"], schedule=schedule)
    assert there.device.type == "meta"
    assert (noise.snr(schedule) == before).all() and noise.same_snr(500, .27, schedule=schedule) > 500
    assert noise.noisy_rows(x, [5, 500], ["a", "b"], schedule=schedule).device.type == "cpu"

@pytest.mark.cuda
def test_use_on_a_gpu_changes_nothing():
    noise.noisy_rows(torch.rand(1, 3, 8, 8).cuda(), [500], ["a"])
    assert noise.snr()[500] > 2.8 and noise.same_snr(500, .27) in (843, 844, 845)
