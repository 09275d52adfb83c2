"From two clips to a swapped, signed film, and everything that can go wrong on the way."
import json, os, resource, shutil, signal, subprocess, time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from types import SimpleNamespace
import av, numpy as np, pytest, torch
from conftest import COMMAND
from deepfake_nb.cli import main
from deepfake_nb.detect.cnn import FaceCNN
from deepfake_nb.detect.models import Faces
from deepfake_nb.generate.faceswap import PRESETS, Lesson, gather
from deepfake_nb.loop import Corner, SwapAttack, single_numbers
from deepfake_nb.media import probe, read_frames, write_video
from deepfake_nb.provenance import sign_actor, verify

FAST = ["--preset", "tiny", "--epochs", 1, "--batch-size", 1]


@pytest.fixture(scope="module")
def call():
    "The command line in this process: a dozen starts of Python take longer than the work."
    def run(*args):
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try: main([*map(str, args)])
            except SystemExit as e: return SimpleNamespace(returncode=e.code, stdout=out.getvalue(), stderr=err.getvalue())
    return run


@pytest.fixture(scope="module")
def cast(actors):
    "Clips of three actors who look least alike."
    clips = sorted((actors / "real").glob("*.mp4"))
    return [clips[k] for k in (0, 1, 3)]


@pytest.fixture(scope="module")
def trained(call, cast, tmp_path_factory):
    "A hundred steps of two actors; the folder and what was said."
    out = tmp_path_factory.mktemp("swap") / "run"
    done = call("swap", "train", "--a", cast[0], "--b", cast[1], "--out", out, *FAST)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


def packets(path):
    with av.open(str(path)) as c: return [bytes(p) for p in c.demux(c.streams.audio[0]) if p.size]


def left(folder): return sorted(p.name for p in folder.rglob("*") if p.is_file())


def failed(done, *words):
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and all(w in done.stderr for w in words), done.stderr


def test_training_shows_keeps_and_signs(trained):
    out, said = trained
    assert "epoch   1 of 1" in said and "min to go" in said and "steps/s" in said
    assert {"run.json", "preview.png", "loss.png", "timelapse.mp4", "00001.png", "00000100.safetensors", "00000100.json"} <= set(left(out))
    for shown in ("preview.png", "timelapse.mp4"): assert verify(out / shown).has == dict(credentials=True, mark=True, label=True), shown
    assert not list(out.rglob(".*.tmp*"))


def test_the_same_command_goes_on(call, cast, trained):
    out, _ = trained
    before = (out / "states" / "00000100.safetensors").read_bytes()
    assert call("swap", "train", "--a", cast[0], "--b", cast[1], "--out", out, *FAST).returncode == 0
    assert (out / "states" / "00000100.safetensors").read_bytes() == before, "nothing is left to do"
    failed(call("swap", "train", "--a", cast[0], "--b", cast[1], "--out", out, *FAST, "--lr", 1e-3), "another lr")


def test_film_is_swapped_marked_and_keeps_its_sound(call, cast, trained, tmp_path):
    done = call("swap", "apply", trained[0], cast[0], tmp_path / "out.mp4", "--json", "--mask", "hull")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict(frames=30, swapped=30, absent=0, turned=0, path=str(tmp_path / "out.mp4"))
    was, now = probe(cast[0]), probe(tmp_path / "out.mp4")
    assert (was.fps, was.frames, was.width, was.height) == (now.fps, now.frames, now.width, now.height)
    assert packets(cast[0]) == packets(tmp_path / "out.mp4")
    assert call("verify", "--require", "credentials", "--require", "mark", "--require", "label", tmp_path / "out.mp4").returncode == 0
    facts = verify(tmp_path / "out.mp4").credentials.facts
    assert facts["sound"].startswith("copied unaltered") and facts["swap"] == "a to b"
    pairs = [(a, b) for (_, a), (_, b) in zip(read_frames(cast[0]), read_frames(tmp_path / "out.mp4"))]
    face, corner = (np.mean([np.abs(a[s].astype(float) - b[s]).mean() for a, b in pairs]) for s in ((slice(90, 170), slice(90, 170)), (slice(0, 40), slice(0, 40))))
    assert face > 3 * corner, "the face changed, the background did not"


def test_only_the_person_is_swapped(call, cast, trained, tmp_path):
    rows = zip(*(read_frames(p) for p in (cast[2], cast[0])))
    write_video(tmp_path / "two.mp4", [np.hstack([a[1], b[1]]) for a, b in list(rows)[:12]], 25, crf=12)
    sign_actor(tmp_path / "two.mp4", "two built-in actors")
    assert call("swap", "apply", trained[0], tmp_path / "two.mp4", tmp_path / "out.mp4", "--mask", "hull", "--quiet").returncode == 0
    change = np.mean([np.abs(a.astype(float) - b) for (_, a), (_, b) in zip(read_frames(tmp_path / "two.mp4"), read_frames(tmp_path / "out.mp4"))], axis=(0, 3))
    assert change[90:170, 256 + 90:256 + 170].mean() > 2 * change[90:170, 90:170].mean()
    assert not probe(tmp_path / "out.mp4").has_audio


def test_preview_is_a_marked_picture(call, cast, trained, tmp_path):
    assert call("swap", "apply", trained[0], cast[0], tmp_path / "look.png", "--preview", 3, "--quiet").returncode == 0
    assert probe(tmp_path / "look.png").width == 3 * 256 and verify(tmp_path / "look.png").has["mark"]
    failed(call("swap", "apply", trained[0], cast[0], tmp_path / "look.mp4", "--preview", 3), ".png")


def test_nobody_is_imitated_without_consent(call, cast, trained, tmp_path):
    stranger = tmp_path / "stranger.mp4"
    write_video(stranger, [f for _, f in read_frames(cast[0])][:5], 25)
    failed(call("swap", "train", "--a", stranger, "--b", cast[1], "--out", tmp_path / "run", *FAST), "consent")
    failed(call("swap", "apply", trained[0], stranger, tmp_path / "out.mp4"), "consent")
    failed(call("swap", "apply", trained[0], stranger, tmp_path / "out.mp4", "--consent", "grid"), "not covered as target")
    assert left(tmp_path) == ["stranger.mp4"]


def test_consent_for_one_direction_is_not_one_for_the_other(call, cast, tmp_path):
    a, b = tmp_path / "ben.mp4", tmp_path / "ada.mp4"
    for p, source in ((a, cast[0]), (b, cast[1])): write_video(p, [f for _, f in read_frames(source)], 25)
    assert call("consent", "new", tmp_path / "c.toml", "--donor", f"Ada={b}", "--target", f"Ben={a}", "--purpose", "a test", "--until", "2036-01-01", "--adults").returncode == 0
    assert call("swap", "train", "--a", a, "--b", b, "--out", tmp_path / "run", *FAST, "--consent", tmp_path / "c.toml", "--quiet").returncode == 0
    apply = ["swap", "apply", tmp_path / "run"]
    assert call(*apply, a, tmp_path / "out.mp4", "--consent", tmp_path / "c.toml", "--quiet").returncode == 0
    assert verify(tmp_path / "out.mp4").credentials.facts["basis"] == "consent"
    failed(call(*apply, b, tmp_path / "back.mp4", "--from", "b", "--to", "a", "--consent", tmp_path / "c.toml"), "does not cover")
    failed(call(*apply, cast[0], tmp_path / "again.mp4"), "consent")
    assert not (tmp_path / "back.mp4").exists() and not (tmp_path / "again.mp4").exists()


def test_bad_input(call, cast, trained, tmp_path):
    wall, few = tmp_path / "wall.mp4", tmp_path / "few.mp4"
    write_video(wall, [np.full((96, 96, 3), 120, np.uint8)] * 10, 25)
    write_video(few, [f for _, f in read_frames(cast[0])][:3], 25)
    for p in (wall, few): sign_actor(p, "built-in actor")
    train = ["swap", "train", "--out", tmp_path / "run", *FAST]
    failed(call(*train, "--a", wall, "--b", cast[1]), "no face found")
    failed(call(*train, "--a", cast[0], "--b", few), "only 3 faces")
    failed(call(*train, "--a", tmp_path / "gone", "--b", few), "no such file")
    assert not (tmp_path / "run" / "states").exists()
    failed(call("swap", "apply", trained[0], cast[2], tmp_path / "out.mp4"), "in none of its 30 frames")
    failed(call("swap", "apply", trained[0], cast[0], tmp_path / "out.avi"), ".mp4 only")
    failed(call("swap", "apply", tmp_path, cast[0], tmp_path / "out.mp4"), "no trained swap")
    assert not (tmp_path / "out.mp4").exists() and not list(tmp_path.glob(".*tmp*"))


def test_what_is_told(call, cast, tmp_path):
    both = tmp_path / "both"
    both.mkdir()
    for p in cast[:2]: shutil.copy(p, both)
    done = call("swap", "train", "--a", both, "--b", cast[0], "--out", tmp_path / "run", *FAST)
    assert "A: 2 people; the one with 30 of 60 faces is kept" in done.stderr and "A and B look like the same person" in done.stderr, done.stderr


def test_no_room(cast, trained, tmp_path):
    "A limit on the size of files stands for a full disk."
    def limited(most, *args): return subprocess.run([COMMAND, *map(str, args)], capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    out = tmp_path / "run"
    shutil.copytree(trained[0], out)
    for p in (out / "states").iterdir(): p.unlink()
    failed(limited(200_000, "swap", "train", "--a", cast[0], "--b", cast[1], "--out", out, *FAST, "--quiet"), "cannot be written")
    assert not list((out / "states").glob("*"))
    failed(limited(20_000, "swap", "apply", trained[0], cast[0], tmp_path / "out.mp4", "--quiet"), "cannot be written")
    assert left(tmp_path / "run") and not list(tmp_path.glob("*.mp4")) and not list(tmp_path.glob(".*tmp*"))


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_output_that_may_not_be_written(call, cast, trained, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    failed(call("swap", "apply", trained[0], cast[0], tmp_path / "locked" / "out.mp4"), "cannot be written")


def test_a_file_where_a_folder_should_be(call, cast, trained, tmp_path):
    (tmp_path / "file").write_text("")
    failed(call("swap", "apply", trained[0], cast[0], tmp_path / "file" / "out.mp4"), "cannot be written")


def test_trained_on_against_a_detector(trained, cast, tmp_path):
    "The attack of the closed loop: reals stay, swaps change, the detector under attack does not."
    faces = {s: gather(c, tmp_path / s, PRESETS["tiny"]["size"], quiet=True) for s, c in zip("ab", cast)}
    first, last = ({s: f.take(np.arange(len(f)) < 3) for s, f in faces.items()}, {s: f.take(np.arange(len(f)) >= len(f) - 3) for s, f in faces.items()})
    lesson = Lesson({s: [c] for s, c in zip("ab", cast)}, first, last, None, trained[0], [])
    torch.manual_seed(0)
    network = FaceCNN("small_cnn").eval()
    network.size, before = 64, {k: v.clone() for k, v in network.state_dict().items()}
    attack = SwapAttack({s: lesson for s in ("train", "val", "test")}, answer=2, size=64)
    plain, answered = attack(1, network), attack(2, network)
    assert all(t.foe for t in attack.trainings.values()), "trained on against the detector, not only on"
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    for rows in (plain, answered):
        assert rows.groupby(["split", "label"]).size().to_dict() == {(s, y): 6 for s in ("train", "val", "test") for y in (0, 1)}
        assert rows[rows.label == 1].source.str.rsplit("-", n=1).str[0].isin(rows[rows.label == 0].identity).all()
    (real, fake), (same, other) = ([list(r[r.label == y].crop) for y in (0, 1)] for r in (plain, answered))
    assert real == same and all(a != b for a, b in zip(fake, other)) and all(a != b for a, b in zip(real, fake))
    assert len(attack.kept) == 2 and all(10 < dB < 60 for dB in attack.kept)
    alone = single_numbers(Corner(Faces, network, attack, {}, {}), plain)
    assert {"sharpness", "jpeg_size"} <= {*alone} and all(0 <= v <= 1 for v in alone.values())


@pytest.mark.slow
def test_kill_costs_no_more_than_an_epoch(call, cast, tmp_path):
    args = ["swap", "train", "--a", cast[0], "--b", cast[1], "--out", tmp_path / "run", "--preset", "tiny", "--epochs", 3, "--batch-size", 1, "--quiet"]
    process = subprocess.Popen([COMMAND, *map(str, args)], stderr=subprocess.DEVNULL)
    state = tmp_path / "run" / "states" / "00000100.json"
    while not state.exists() and process.poll() is None: time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = state.read_bytes()
    assert call(*args).returncode == 0 and state.read_bytes() == kept
    whole = [*map(str, args)]
    whole[whole.index(str(tmp_path / "run"))] = str(tmp_path / "whole")
    assert call(*whole).returncode == 0
    assert (tmp_path / "whole" / "states" / "00000300.safetensors").read_bytes() == (tmp_path / "run" / "states" / "00000300.safetensors").read_bytes()
