"""Preparation under stress: killed at any moment, run twice at once, fed an hour of film; and read by others.

As a program, `python tests/test_preprocess.py 30` kills that many runs and prints what it found.
"""
import json, os, random, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path
import av, numpy as np, pandas as pd, pytest
from conftest import COMMAND
from deepfake_nb.data.manifest import scan
from deepfake_nb.data.preprocess import Recipe, prepare


def content(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file() and not p.name.startswith(".")}


def start(src, out, frames=4):
    "A run in a process group of its own, so that it can be killed with its workers."
    command = [COMMAND, "prepare", src, out, "--frames", frames, "--workers", 2, "--quiet"]
    return subprocess.Popen([*map(str, command)], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(src, out, frames=4):
    run = start(src, out, frames)
    _, said = run.communicate()
    assert run.returncode == 0, said


def check_records(out):
    "Whatever the moment: a record is whole, and so are the files that it lists."
    for path in (out / "records").glob("[!.]*"):
        for name, size in json.loads(path.read_text())["files"].items(): assert (out / name).stat().st_size == size, name
    for path in (out / "crops").glob("[!.]*"): pd.read_parquet(path)
    for path in (out / "mels").glob("[!.]*"): assert np.load(path).shape[0] == 80


def wait_for_kill(run, out, duration, events, rng):
    """Returns at a random moment: of the whole run, start included, or (three times out of four) around one of its writes.

    A write is a file that was begun, finished or removed; runs spend most of their time on other things.
    """
    if rng.random() < 0.25: return time.sleep(rng.random() * duration)
    before, left = {*map(str, out.rglob("*"))}, rng.randrange(1, max(2, events))
    while run.poll() is None:
        now = {*map(str, out.rglob("*"))}
        if (left := left - len(now ^ before)) <= 0: return time.sleep(rng.random() * 0.02)
        before = now
        time.sleep(0.001)


def kill_and_resume(src, folder, kills, seed=0):
    "Kill runs until `kills` of them died, three in each folder, and finish that. Returns what was there when they died."
    rng, whole, finished, died = random.Random(seed), folder / "whole", 0, []
    began = time.time()
    finish(src, whole)
    duration, want = time.time() - began, content(whole)
    while len(died) < kills:
        out = folder / f"out{finished}"
        for _ in range(min(3, kills - len(died))):
            run = start(src, out)
            wait_for_kill(run, out, duration, 2 * len(want), rng)
            if run.poll() is not None: break
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
            check_records(out)
            died.append(dict(records=len([*(out / "records").glob("[!.]*")]), half_written=len([*out.rglob(".*.tmp*")])))
        run.communicate()
        finish(src, out)
        have = content(out)
        assert list(have) == list(want), set(have) ^ set(want)
        assert have == want, [n for n in want if have[n] != want[n]]
        assert not [p for p in out.rglob(".*") if p.name != ".lock"], "nothing is left lying about"
        finished += 1
    return dict(kills=len(died), folders=finished, files_each=len(want), clips=len([n for n in want if n.startswith("records")]), when_killed=died)


@pytest.fixture(scope="module")
def clips(cli, tmp_path_factory):
    "Four short clips with sound, and one file that is none."
    out = tmp_path_factory.mktemp("clips")
    assert cli("actors", out, "--identities", 2, "--clips", 1, "--seconds", 0.4, "--quiet").returncode == 0
    shutil.rmtree(out / "truth")
    (out / "manifest.csv").unlink()
    (out / "real" / "notes.mp4").write_text("no film")
    return out


def test_killed_runs_lose_nothing(clips, tmp_path): print(kill_and_resume(clips, tmp_path, 3, seed=2))


@pytest.mark.slow
def test_thirty_killed_runs_lose_nothing(clips, tmp_path): print(kill_and_resume(clips, tmp_path, 30))


def wait_until(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it did not happen"
        time.sleep(0.01)


def test_a_second_run_is_refused(clips, tmp_path):
    first = start(clips, tmp_path / "out")
    wait_until((tmp_path / "out" / ".run").exists)
    second = start(clips, tmp_path / "out")
    _, said = second.communicate()
    assert second.returncode == 2 and "another run is preparing into this folder" in said and "Traceback" not in said
    _, said = first.communicate()
    assert first.returncode == 0, said
    check_records(tmp_path / "out")


def test_workers_that_outlive_their_run_spoil_nothing(clips, tmp_path):
    prepare(scan(clips), tmp_path / "want", Recipe(frames=3), quiet=True)
    orphaned = start(clips, tmp_path / "out", frames=5)
    wait_until(lambda: any((tmp_path / "out").rglob(".*.tmp*")))
    os.kill(orphaned.pid, signal.SIGKILL)  # only the parent
    finish(clips, tmp_path / "out", frames=3)
    os.killpg(orphaned.pid, signal.SIGKILL)
    orphaned.communicate()
    assert content(tmp_path / "out") == content(tmp_path / "want")  # made by one process here, by two there


def test_clips_no_longer_listed_stay_out_of_the_table(clips, tmp_path):
    table = scan(clips)
    prepare(table, tmp_path / "out", Recipe(frames=1), quiet=True)
    prepare(table[table.label == 1], tmp_path / "out", Recipe(frames=1), quiet=True)
    assert set(pd.read_csv(tmp_path / "out" / "manifest.csv").label) == {1}
    assert len(list((tmp_path / "out" / "records").glob("*.json"))) == 5, "but they are kept"


def test_others_can_read_the_crops(clips, tmp_path):
    prepare(scan(clips), tmp_path / "out", Recipe(frames=4), quiet=True)
    crops = pd.read_parquet(tmp_path / "out" / "crops")
    assert {*crops} == {"track", "frame", "time", "box", "landmarks", "score", "crop", "crop_landmarks", "clip_id"}
    assert crops.crop.notna().sum() == 16 and np.stack(crops.landmarks).shape == (40, 136) and np.stack(crops.box).shape == (40, 4)
    query = f"select count(*), count(crop), min(len(landmarks)), max(len(box)) from '{tmp_path}/out/crops/*.parquet'"
    try: import duckdb
    except ImportError: print("no DuckDB here")
    else: assert duckdb.sql(query).fetchone() == (40, 16, 136, 4)
    try: import datasets
    except ImportError: print("no Hugging Face datasets here")
    else: assert len(datasets.Dataset.from_parquet(str(tmp_path / "out/crops/*.parquet"), cache_dir=str(tmp_path))[0]["landmarks"]) == 136


def looped(clip, path, seconds):
    "Copy a clip's packets again and again: a long film within a second."
    with av.open(str(clip)) as source, av.open(str(path), "w") as film:
        streams = {s.index: film.add_stream_from_template(s) for s in source.streams}
        packets = [p for p in source.demux() if p.dts is not None]
        period = {i: [p for p in packets if p.stream.index == i] for i in streams}
        period = {i: max(p.dts + p.duration for p in ps) - min(p.dts for p in ps) for i, ps in period.items()}
        kept = [(streams[p.stream.index], bytes(p), p.pts, p.dts, p.duration, p.is_keyframe, p.time_base, period[p.stream.index]) for p in packets]
        video = source.streams.video[0]
        for k in range(round(seconds / (period[video.index] * video.time_base))):
            for stream, data, pts, dts, duration, key, base, ticks in kept:
                p = av.Packet(data)
                p.stream, p.time_base, p.pts, p.dts, p.duration, p.is_keyframe = stream, base, pts + k * ticks, dts + k * ticks, duration, key
                film.mux(p)


@pytest.mark.slow
def test_memory_does_not_grow_with_length(clips, tmp_path):
    code = ("import resource, sys; from deepfake_nb.data.manifest import scan; from deepfake_nb.data.preprocess import prepare\n"
            "row = prepare(scan(sys.argv[1]), sys.argv[2], quiet=True).iloc[0]\n"
            "assert row.status == 'ok', row.error\n"
            "print(row.frames_seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)")
    peaks = []
    for seconds in (20, 200):
        looped(next((clips / "real").glob("[!n]*.mp4")), tmp_path / f"{seconds}.mp4", seconds)
        done = subprocess.run([sys.executable, "-c", code, tmp_path / f"{seconds}.mp4", tmp_path / f"out{seconds}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        frames, peak = map(int, done.stdout.split())
        assert frames == 25 * seconds
        peaks.append(peak)
    print("MB at 20 s and 200 s:", peaks)
    assert peaks[1] < 1500 and peaks[1] - peaks[0] < 120


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        subprocess.run([COMMAND, "actors", d / "clips", "--identities", "3", "--clips", "1", "--seconds", "0.6", "--quiet"], check=True)
        print(json.dumps(kill_and_resume(d / "clips", d, int(sys.argv[1]) if len(sys.argv) > 1 else 30)))
