"The command line from end to end, on files that a user would have."
import json, re, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from conftest import ROOT
from deepfake_nb.media import read_audio, read_frames, write_audio, write_image, write_video

KEYS = {"path", "likelihood", "interval", "verdict", "tracks", "timeline", "error"}


@pytest.fixture(scope="module")
def bad(tmp_path_factory, actors):
    "Files that each fail in their own way, and how."
    d = tmp_path_factory.mktemp("bad")
    good = next((actors / "real").glob("*.mp4")).read_bytes()
    (d / "notes.mp4").write_text("this is no film")
    (d / "empty.mp4").write_bytes(b"")
    (d / "cut.mp4").write_bytes(good[: len(good) // 2])
    write_video(d / "wall.mp4", [np.full((96, 96, 3), 120, np.uint8)] * 10, 25)
    return {d / "notes.mp4": "media", d / "empty.mp4": "empty", d / "cut.mp4": "", d / "wall.mp4": "no face", d / "gone.mp4": "no such file"}


def lines(done): return [json.loads(line) for line in done.stdout.splitlines()]


def test_actors_writes_both_classes_and_the_truth(actors):
    table = pd.read_csv(actors / "manifest.csv")
    assert table.label.value_counts().to_dict() == {0: 5, 1: 5} and set(table.manipulation) == {"real", "swap", "mouth", "self_blend"}
    assert all((actors / p).stat().st_size > 5000 for p in table.path)
    assert all((actors / "truth" / f"{c}.npz").exists() for c in table.clip_id)


def test_actors_are_the_same_for_the_same_seed(cli, actors, tmp_path):
    again = tmp_path / "again"
    assert cli("actors", again, "--identities", 5, "--clips", 1, "--seconds", 1.2, "--quiet", "--workers", 1).returncode == 0
    for path in pd.read_csv(actors / "manifest.csv").path: # signatures differ, what is seen and heard does not
        assert np.array_equal(read_audio(again / path), read_audio(actors / path)), path
        for (_, a), (_, b) in zip(read_frames(again / path), read_frames(actors / path), strict=True): assert np.array_equal(a, b), path


def test_prepare_then_resume(cli, actors, tmp_path):
    out = tmp_path / "prepared"
    done = cli("prepare", actors, out, "--frames", 4, "--workers", 2)
    assert done.returncode == 0 and done.stdout == "" and "frames with a face" in done.stderr, done.stderr
    table = pd.read_csv(out / "manifest.csv")
    assert (table.status == "ok").all() and (table.coverage >= 0.95).all() and (table.crops == 4).all() and (table.mel_frames > 100).all()
    crops = pd.read_parquet(out / "crops")
    assert crops.crop.notna().sum() == 40 and crops.clip_id.nunique() == 10
    stamp = {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}
    assert cli("prepare", actors, out, "--frames", 4).returncode == 0
    assert stamp == {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}, "nothing is done twice"
    assert cli("prepare", actors, out, "--frames", 3).returncode == 0
    assert (pd.read_csv(out / "manifest.csv").crops == 3).all(), "a changed parameter is noticed"


def test_prepare_goes_on_after_bad_files(cli, bad, actors, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in [*bad, *(actors / "real").glob("*.mp4")]:
        if path.exists(): (folder / path.name).write_bytes(path.read_bytes())
    done = cli("prepare", folder, tmp_path / "out", "--frames", 2)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "manifest.csv")
    assert (table.status == "ok").sum() == 5 and (table.status == "failed").sum() == 4
    assert "Traceback" not in done.stderr


def test_audit_exits_1_on_a_leak_only(cli, actors, tmp_path):
    table = pd.read_csv(actors / "manifest.csv", dtype=str, keep_default_na=False)
    table["path"] = [str(actors / p) for p in table.path]
    person = table.identity.mode()[0]
    for name, split, code in (("clean", "train", 0), ("leaky", ["test" if l == "1" else "train" for l in table.label], 1)):
        table.assign(split=split).to_csv(tmp_path / f"{name}.csv", index=False)
        done = cli("audit", tmp_path / f"{name}.csv", "--json", "--quiet")
        found = json.loads(done.stdout)
        assert (done.returncode, bool(found["leaks"])) == (code, bool(code)), done.stderr
    assert any(person in leak for leak in found["leaks"]) and "LEAK" in cli("audit", tmp_path / "leaky.csv").stdout


def test_fetch_lists_and_explains(cli):
    assert "celeb_df" in cli("fetch").stdout
    shown = cli("fetch", "Celeb_DF")
    assert shown.returncode == 0 and "licence:" in shown.stdout and "github.com" in shown.stdout
    assert cli("fetch", "nothing").returncode == 2


def test_detect_json_lines(cli, actors, bad):
    files = [*sorted((actors / "real").glob("*.mp4")), *sorted((actors / "fake").rglob("*.mp4"))]
    done = cli("detect", "--json", *files, *bad)
    assert done.returncode == 2, "some files failed"
    found = lines(done)
    assert [f["path"] for f in found] == [str(f) for f in [*files, *bad]]
    for f in found[: len(files)]:
        assert KEYS <= set(f) and f["error"] is None and f["verdict"] in ("real", "fake", "uncertain")
        assert 0 <= f["interval"][0] <= f["likelihood"] <= f["interval"][1] <= 1
        assert [t["kind"] for t in f["tracks"]] == ["face", "voice"] and f["timeline"][0]["second"] == 0 and f["tracks"][0]["end"] > 1
    for f, word in zip(found[len(files):], bad.values()):
        assert f["likelihood"] is None and word in f["error"] and "\n" not in f["error"] and f["tracks"] == []
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_detect_tells_self_blended_pictures_of_new_people(cli, tmp_path):
    from deepfake_nb.data.actors import ActorClip
    from deepfake_nb.data.augment import self_blend
    for i in range(40):
        frame = next(iter(ActorClip(5000 + i, 0, 77, 0.04).frames()))
        pair = self_blend(frame.image, frame.landmarks, np.random.default_rng(i))
        write_image(tmp_path / f"real{i}.png", pair.real)
        write_image(tmp_path / f"fake{i}.png", pair.fake)
    score = {Path(f["path"]).stem: f["likelihood"] for f in lines(cli("detect", "--json", *sorted(tmp_path.glob("*.png"))))}
    real, fake = (np.array([score[f"{kind}{i}"] for i in range(40)]) for kind in ("real", "fake"))
    assert (fake[:, None] > real[None]).mean() > 0.8


def test_detect_exit_codes(cli, actors, bad):
    real, fake = ([str(p) for p in sorted((actors / k).rglob("*.mp4"))][:2] for k in ("real", "fake"))
    assert cli("detect", *real).returncode == 0
    words = [f["verdict"] for f in lines(cli("detect", "--json", *fake))]
    assert cli("detect", "--fail-on", "fake", *fake).returncode == int("fake" in words)
    assert cli("detect", "--fail-on", "fake", *fake, next(iter(bad))).returncode == 2


def test_detect_image_and_silent_video(cli, actors, tmp_path):
    from deepfake_nb.media import read_frames
    frames = [f for _, f in read_frames(next((actors / "real").glob("*.mp4")))]
    write_image(tmp_path / "face.png", frames[0])
    write_video(tmp_path / "silent.mp4", frames, 25)
    image, silent = lines(cli("detect", "--json", tmp_path / "face.png", tmp_path / "silent.mp4"))
    assert image["kind"] == "image" and image["error"] is None and len(image["timeline"]) == 1
    assert silent["error"] is None and "no sound track" in silent["notes"]


def test_real_people_are_not_called_fake(cli, media):
    clips = sorted((media / "video" / "LipNet").glob("*.mpg"))[:3]
    for f in lines(cli("detect", "--json", *clips)): assert f["verdict"] != "fake" and [t["kind"] for t in f["tracks"]] == ["face", "voice"]


@pytest.mark.parametrize("module, args", [("gradio", ["serve"]), ("onnx", ["export", "face.onnx"])])
def test_a_missing_extra_is_named(module, args):
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.modules[{module!r}] = None; from deepfake_nb.cli import main; main({args!r})"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr == f'deepfake-nb: error: {module} is not installed; pip install "deepfake_nb[{args[0]}]"\n'


def test_errors_are_one_line_and_exit_2(cli, tmp_path):
    for args in (["prepare", tmp_path / "nowhere", tmp_path / "out"], ["report", "juggling"], ["detect", "--model", tmp_path / "w.safetensors", "x.mp4"],
                 ["report", "--profile", "huge"], ["detcet", "x"], ["actors", tmp_path, "--identities", "1"]):
        done = cli(*args)
        assert done.returncode == 2 and done.stderr.startswith("deepfake-nb: error: ") and done.stderr.count("\n") == 1, (args, done.stderr)
    assert "detect" in cli("detcet", "x").stderr, "did you mean"


def test_help_of_every_command(cli):
    top = cli("--help")
    assert top.returncode == 0
    for command in "actors prepare audit fetch train finetune evaluate calibrate detect verify consent stream export serve swap gan report bench doctor".split():
        assert command in top.stdout
        shown = cli(command, "--help")
        assert shown.returncode == 0 and "Usage" in shown.stdout
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-7]")
    assert coloured.search(cli("--help", FORCE_COLOR="1").stdout) and not coloured.search(cli("--help", FORCE_COLOR="1", NO_COLOR="1").stdout) and "--install-completion" in top.stdout


def test_doctor(cli):
    assert json.loads(cli("doctor", "--json").stdout)["versions"]["torch"]


def test_sample_manifest_is_what_actors_writes(actors):
    assert (ROOT / "data" / "sample_manifest.csv").read_text() == (actors / "manifest.csv").read_text()
