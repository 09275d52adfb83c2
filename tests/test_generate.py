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


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    "Two actors, three clips of 1.6 s each, 64 px."
    from deepfake_nb.core import set_threads
    from deepfake_nb.generate.flow_gan import actor_clips
    set_threads(1)
    return actor_clips(2, 3, 1.6, 64)


def test_a_frame_is_painted_here_and_moved_there():
    import torch
    from deepfake_nb.generate.flow_gan import composed, warp
    rng = torch.Generator().manual_seed(0)
    raw, before = (torch.rand(1, 3, 64, 64, generator=rng) for _ in range(2))
    flow, one = torch.zeros(1, 2, 64, 64), torch.ones(1, 1, 64, 64)
    assert torch.equal(composed(raw, flow + 3, one, before), raw)
    assert torch.allclose(composed(raw, flow, 0 * one, before), before, atol=1e-4)
    right = flow + torch.tensor([-3.0, 0]).view(2, 1, 1) # it was three pixels further left
    assert torch.allclose(warp(before, right)[..., 3:], before[..., :-3], atol=1e-4)


@pytest.mark.parametrize("size, weights", [(64, 766_761), (128, 808_889)])
def test_shapes_and_weights_of_the_face_generator(size, weights):
    import torch
    from deepfake_nb.generate.flow_gan import CHANCE, HEARD, Generator, Judges
    net = Generator(size)
    drawn = net(torch.rand(2, 3, size, size), torch.randn(2, 5, HEARD), torch.randn(2, 5, CHANCE))
    assert drawn.frames.shape == (2, 5, 3, size, size) and drawn.flow.shape == (2, 4, 2, size, size)
    assert sum(p.numel() for p in net.parameters()) == weights
    assert [len(v) for v in Judges(size)(drawn.frames, torch.randn(2, 5, HEARD), torch.tensor([[1], [4]]))[0]] == [2, 2]


def test_a_face_training_goes_on_where_it_stopped(faces, tmp_path):
    from deepfake_nb.generate.flow_gan import FlowPlan, Learning
    from deepfake_nb.generate.lstm_gan import train
    plan, steps = FlowPlan(first=10, steps=10, batch=3, width=16, every=10, length=4), []
    def stop(t): raise KeyboardInterrupt
    once, twice = Learning(faces, plan), Learning(faces, plan)
    train(once, tmp_path / "once", quiet=True)
    with pytest.raises(KeyboardInterrupt): train(twice, tmp_path / "twice", stop, quiet=True)
    twice = Learning(faces, plan)
    train(twice, tmp_path / "twice", lambda t: steps.append(t.step), quiet=True)
    assert steps == [20] and once.history == twice.history


def test_a_face_that_stands_still_wins_nothing(faces):
    from deepfake_nb.generate.flow_gan import warping
    real = warping(faces.frames[0])
    still = warping(faces.frames[0][:1].repeat(8, 0))
    assert still["warping_error"] < 0.01 < real["warping_error"] and still["motion"] == 0
    assert still["unexplained"] > 0.95 > real["unexplained"] + 0.1
