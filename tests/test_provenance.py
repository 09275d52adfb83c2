"What leaves the package is marked, signed and labelled; nobody writes around the door; and training never sees a mark."
import ast, json
from pathlib import Path
import numpy as np, pytest
from conftest import ROOT
from deepfake_nb.core import ConsentError, imported_modules
from deepfake_nb.media import read_frames, write_video
from deepfake_nb.provenance import ACTORS, Origin, write

PACKAGE = ROOT / "deepfake_nb"
WRITERS = {"write_video", "write_image", "write_audio", "imwrite", "VideoWriter", "savemat", "mimsave", "imsave"}
DOORS = {
    "media.py": "the writers themselves",
    "provenance.py": "the door",
    "data/actors.py": "the built-in data set, signed by its command",
    "benchmarks.py": "clips in a temporary folder, to be timed and thrown away",
    "latency.py": "a clip in a temporary folder, to be timed and thrown away",
}


def writers(path):
    "What a module calls that could put media on the disk."
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom): yield from (a.name for a in node.names if a.name in WRITERS)
        if not isinstance(node, ast.Call): continue
        name, arguments = getattr(node.func, "attr", getattr(node.func, "id", "")), [a.value for a in node.args if isinstance(a, ast.Constant)]
        if name in WRITERS: yield name
        if name == "open" and "w" in arguments and getattr(getattr(node.func, "value", None), "id", "") == "av": yield "av.open"
        if name == "write" and getattr(getattr(node.func, "value", None), "id", "") in ("sf", "soundfile", "wavfile"): yield "soundfile.write"


def test_nobody_writes_media_around_the_door():
    found = {str(p.relative_to(PACKAGE)): sorted(set(writers(p))) for p in PACKAGE.rglob("*.py")}
    found = {p: w for p, w in found.items() if w and p not in DOORS}
    assert not {p: w for p, w in found.items() if not _in_memory(PACKAGE / p)}, found
    assert not [p for p in found if p.startswith("generate/")]


def _in_memory(path):
    "Codecs whose file is a buffer: `av.open(BytesIO(), 'w')` of the pseudo-fakes' treatment."
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "open" and "w" in [a.value for a in n.args if isinstance(a, ast.Constant)]]
    return set(writers(path)) == {"av.open"} and all(not isinstance(c.args[0], ast.Constant) and "BytesIO" in path.read_text() for c in calls)


def test_the_scan_sees_a_writer(tmp_path):
    for line in ("from deepfake_nb.media import write_video", "cv2.imwrite('x.png', i)", "av.open('x.mp4', 'w')", "import deepfake_nb.media as m; m.write_image('x.png', i)", "sf.write('x.wav', s, 16000)"):
        (tmp_path / "x.py").write_text(line)
        assert list(writers(tmp_path / "x.py")), line


def test_nothing_that_trains_knows_of_marks():
    judging = {"detector.py", "realtime.py"} # a verdict says which marks were found; nothing that trains may import it
    for path in [PACKAGE / "train.py", *(PACKAGE / "data").glob("*.py"), *(p for p in (PACKAGE / "detect").glob("*.py") if p.name not in judging)]:
        assert not imported_modules(path) & {"marks", "provenance", "credentials", "detect.detector", "detect.realtime"}, path


def test_marks_and_signature_have_no_switch():
    import inspect
    assert set(inspect.signature(write).parameters) == {"path", "origin", "image", "frames", "fps", "sound", "rate", "label", "tones", "crf"}
    with pytest.raises(ConsentError): Origin("swap", "generate.faceswap", None)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    "Two seconds of something generated, 256 px."
    path = tmp_path_factory.mktemp("generated") / "clip.mp4"
    rng = np.random.default_rng(0)
    frames = [np.clip(120 + 40 * np.sin((np.mgrid[:256, :256] / 23).sum(0) + i / 9)[..., None] + rng.normal(0, 3, (256, 256, 3)), 0, 255).astype(np.uint8) for i in range(50)]
    write(path, Origin("moving waves", "tests", ACTORS), frames=frames, fps=25)
    return path


def test_verify_tells_marked_stripped_tampered_and_plain_apart(cli, generated, tmp_path):
    stripped, tampered, plain, bad = (tmp_path / n for n in ("stripped.mp4", "tampered.mp4", "plain.mp4", "bad.mp4"))
    write_video(stripped, (f for _, f in read_frames(generated)), 25)
    data = bytearray(generated.read_bytes())
    data[-9] ^= 1
    tampered.write_bytes(data)
    write_video(plain, [np.full((256, 256, 3), 90, np.uint8)] * 10, 25)
    bad.write_text("this is no film")
    done = cli("verify", "--json", generated, stripped, tampered, plain, bad)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 2 and "error" in found[-1] and done.stderr == ""
    assert [f["conclusion"].split()[0] for f in found[:-1]] == ["GENERATED,", "CONSISTENT", "CHANGED", "NOTHING"]
    assert [f["has"] for f in found[:-1]] == [dict(credentials=c, mark=m, label=m) for c, m in ((True, True), (False, True), (False, True), (False, False))]
    assert len({f["marks"][0]["run"] for f in found[:3]}) == 1


def test_require_and_trust(cli, generated, tmp_path):
    assert cli("verify", "--require", "credentials", "--require", "mark", "--require", "label", generated).returncode == 0
    write_video(tmp_path / "plain.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 5, 25)
    assert cli("verify", "--require", "mark", tmp_path / "plain.mp4").returncode == 1
    there = cli("verify", generated, DEEPFAKE_NB_HOME=str(tmp_path / "elsewhere"))
    assert there.returncode == 0 and "not known here" in there.stdout and "GENERATED" in there.stdout
    assert cli("verify", generated, "--trust", tmp_path / "gone.pem").returncode == 2


def test_actors_have_credentials_and_no_mark(cli, actors):
    done = cli("verify", "--json", "--require", "credentials", *sorted(actors.rglob("*.mp4")))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(found) == 10, done.stderr
    assert {f["credentials"]["facts"]["people"] for f in found} == {"nobody who exists"} and not any(f["has"]["mark"] or f["has"]["label"] for f in found)


def test_consent_on_the_command_line(cli, actors, tmp_path):
    person = tmp_path / "person.mp4"
    write_video(person, [np.full((64, 64, 3), 90, np.uint8)] * 5, 25)
    new = ["consent", "new", tmp_path / "c.toml", "--donor", f"Ada={person}", "--purpose", "a test"]
    for more, why in (((), "last day"), (("--until", "2036-01-01"), "adult"), (("--until", "soon"), "a date"), (("--until", "2036-01-01", "--adults", "--target", "Ben"), "NAME=FILE")):
        done = cli(*new, *more)
        assert done.returncode == 2 and why in done.stderr and not (tmp_path / "c.toml").exists(), done.stderr
    assert cli(*new, "--until", "2036-01-01", "--adults").returncode == 0
    assert "permitted by consent" in cli("consent", "check", tmp_path / "c.toml", "--donor", person).stdout
    done = cli("consent", "check", tmp_path / "c.toml", "--target", person)
    assert done.returncode == 2 and "not covered as target" in done.stderr and len(done.stderr.splitlines()) == 1
    assert "nobody" in cli("consent", "check", tmp_path / "c.toml", "--donor", actors / "real").stdout
