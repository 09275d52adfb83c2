"Generators from the command line: what is trained, drawn and rendered, who may do it, and that all of it is marked."
import json, re, shutil
import numpy as np, pytest
from deepfake_nb.core import PACKAGE
from deepfake_nb.media import read_audio, write_audio

PLAN = ["--voices", 2, "--first", 20, "--steps", 20, "--batch", 8, "--width", 16, "--every", 20]
SHIPPED = PACKAGE / "weights" / "lstm_gan_fsdd.safetensors"


@pytest.fixture(scope="module")
def trained(cli, tmp_path_factory):
    "A generator of actors' words, hardly trained."
    out = tmp_path_factory.mktemp("gan")
    done = cli("gan", "train", "actors", "--out", out, *PLAN)
    assert done.returncode == 0, done.stderr
    return out


def ok(done):
    assert done.returncode == 0, done.stderr
    return done


def refused(done, why):
    assert done.returncode == 2 and done.stderr.startswith("deepfake-nb: error: ") and done.stderr.count("\n") == 1 and why in done.stderr, done.stderr


def test_training_leaves_previews_checkpoints_and_weights(cli, trained):
    names = {p.name for p in trained.iterdir()}
    assert {"preview00020.png", "preview00040.wav", "last0.safetensors", "last1.safetensors", "lstm_gan.safetensors", "lstm_gan.json"} <= names
    card = json.loads((trained / "lstm_gan.json").read_text())
    assert card["basis"] == "nobody" and card["voices"] == ["actor0", "actor1"]
    stamp = (trained / "last1.safetensors").read_bytes()
    ok(cli("gan", "train", "actors", "--out", trained, *PLAN, "--quiet"))
    assert stamp == (trained / "last1.safetensors").read_bytes(), "what is finished is not done again"
    refused(cli("gan", "train", "actors", "--out", trained, *PLAN, "--seed", 1), "another folder")


def test_whatever_is_written_is_verified(cli, trained, actors, tmp_path):
    weights = ["--weights", trained / "lstm_gan.safetensors"]
    ok(cli("gan", "sample", tmp_path / "drawn.wav", *weights, "--word", "word1", "--word", "word0", "--voice", "actor1"))
    ok(cli("gan", "render", next((actors / "real").glob("*.mp4")), tmp_path / "turned.wav", "--voice", "actor1", *weights, "--inverter", "griffin_lim"))
    files = [tmp_path / "drawn.wav", tmp_path / "turned.wav", *sorted(trained.glob("preview*"))]
    found = [json.loads(line) for line in ok(cli("verify", "--json", "--require", "credentials", *files)).stdout.splitlines()]
    assert len(found) == 6 and all(f["conclusion"].startswith("GENERATED") for f in found), [f["conclusion"] for f in found]
    assert all(np.abs(read_audio(f)).max() > 0.01 for f in files[:2])


def test_same_seed_same_sound(cli, trained, tmp_path):
    weights = ["--weights", trained / "lstm_gan.safetensors"]
    for name, seed in (("a", 3), ("b", 3), ("c", 4)): ok(cli("gan", "sample", tmp_path / f"{name}.wav", *weights, "--word", "word1", "--seed", seed))
    a, b, c = (read_audio(tmp_path / f"{n}.wav") for n in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a[:4000], c[:4000])


def test_what_it_does_not_know(cli, trained, tmp_path):
    weights = ["--weights", trained / "lstm_gan.safetensors"]
    refused(cli("gan", "sample", tmp_path / "x.wav", *weights, "--word", "nine"), "no such word; there are word0")
    refused(cli("gan", "sample", tmp_path / "x.wav", *weights, "--voice", "fsdd_theo"), "no such voice; there are actor0")
    refused(cli("gan", "train", tmp_path, "--out", tmp_path / "run"), "no recordings with names like")
    refused(cli("gan", "train", "actors", "--out", tmp_path / "run", "--every", 15), "a multiple of 10")
    assert not (tmp_path / "x.wav").exists()


def test_strangers_are_not_rendered(cli, trained, tmp_path):
    weights = ["--weights", trained / "lstm_gan.safetensors", "--voice", "actor1"]
    write_audio(tmp_path / "somebody.wav", 0.1 * np.random.default_rng(0).normal(size=16000).clip(-1, 1), 16000)
    refused(cli("gan", "render", tmp_path / "somebody.wav", tmp_path / "x.wav", *weights), "needs a consent record")
    refused(cli("gan", "render", tmp_path / "somebody.wav", tmp_path / "x.wav", *weights, "--consent", "fsdd"), "not covered as target")
    (tmp_path / "talks").mkdir()
    shutil.copy(tmp_path / "somebody.wav", tmp_path / "talks" / "7_nobody_0.wav")
    refused(cli("gan", "train", tmp_path / "talks", "--out", tmp_path / "run", "--consent", "fsdd"), "not covered as donor")
    assert not (tmp_path / "x.wav").exists() and not (tmp_path / "run").exists()


def test_recordings_that_are_no_speech(cli, trained, tmp_path):
    rng, weights = np.random.default_rng(0), ["--weights", trained / "lstm_gan.safetensors", "--voice", "actor1", "--consent", tmp_path / "c.toml"]
    sounds = {"silent": (np.zeros(16000), "silent"), "short": (0.1 * rng.normal(size=80), "5 ms"), "clipped": (np.sign(rng.normal(size=16000)), ""), "fast": (0.1 * rng.normal(size=192000), "")}
    for name, (x, _) in sounds.items(): write_audio(tmp_path / f"{name}.wav", x, 192000 if name == "fast" else 16000)
    for name, x in (("stereo", 0.1 * rng.normal(size=(16000, 2))), ("broken", np.full(16000, np.nan))): _float_wav(tmp_path / f"{name}.wav", x)
    sounds |= dict(stereo=(0, ""), broken=(0, "no numbers"))
    ok(cli("consent", "new", tmp_path / "c.toml", *[a for n in sounds for a in ("--target", f"Ada={tmp_path / n}.wav")], "--purpose", "a test", "--until", "2036-01-01", "--adults"))
    for name, (_, why) in sounds.items():
        done = cli("gan", "render", tmp_path / f"{name}.wav", tmp_path / f"{name}-as-actor.wav", *weights)
        if why: refused(done, why)
        else: ok(done)


def _float_wav(path, x):
    import soundfile
    soundfile.write(path, x, 16000, subtype="FLOAT")


def test_shipped_digits(cli, tmp_path):
    if not SHIPPED.exists(): pytest.skip("no generator of digits comes with this checkout")
    refused(cli("gan", "sample", tmp_path / "x.wav", "--word", "7"), "--consent")
    refused(cli("gan", "sample", tmp_path / "x.wav", "--word", "7", "--consent", "librispeech"), "not the record")
    ok(cli("gan", "sample", tmp_path / "digits.wav", *[a for d in "3141592" for a in ("--word", d)], "--voice", "fsdd_theo", "--consent", "fsdd"))
    found = ok(cli("verify", "--require", "credentials", "--require", "mark", tmp_path / "digits.wav")).stdout
    assert "GENERATED" in found and re.search(r"basis|licence", found)


def test_a_digit_in_another_voice(cli, media, tmp_path):
    if not SHIPPED.exists(): pytest.skip("no generator of digits comes with this checkout")
    file = next(media.rglob("7_george_0.wav"))
    ok(cli("gan", "render", file, tmp_path / "theo.wav", "--voice", "fsdd_theo", "--source", "fsdd_george", "--consent", "fsdd"))
    assert "7_george_0" in ok(cli("verify", tmp_path / "theo.wav")).stdout
