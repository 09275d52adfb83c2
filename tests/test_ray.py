"The cluster engine: Ray tasks over object stores, machines that die, and plain errors where Ray is missing."
import logging, subprocess, sys, time
import pandas as pd, pytest
from deepfake_nb.data.manifest import scan
from deepfake_nb.data.preprocess import Recipe, load_crops, prepare
from deepfake_nb.data.scale import ray_engine, scan_url

FEW = Recipe(frames=3)


@pytest.fixture(scope="module")
def clips(cli, tmp_path_factory):
    "Eight short clips, and one file that is none."
    out = tmp_path_factory.mktemp("clips")
    assert cli("actors", out, "--identities", 4, "--clips", 1, "--seconds", 1.5, "--quiet").returncode == 0
    for path in [*out.glob("truth/*"), out / "manifest.csv"]: path.unlink()
    (out / "real" / "notes.mp4").write_text("no film")
    return out


@pytest.fixture(scope="module")
def here(clips, tmp_path_factory):
    "The same clips, prepared on this machine."
    out = tmp_path_factory.mktemp("here")
    return prepare(scan(clips), out, FEW, workers=2, quiet=True), out


@pytest.fixture(scope="module")
def bucket(clips):
    "An object store in this process that speaks S3, with the clips in it."
    server = pytest.importorskip("moto.server", reason="no moto here: pip install 'moto[server]'").ThreadedMotoServer(port=0)
    s3fs = pytest.importorskip("s3fs", reason="no s3fs here: pip install 'deepfake_nb[s3]'")
    logging.getLogger("werkzeug").setLevel("ERROR")
    server.start()
    host, port = server.get_host_and_port()
    known = dict(AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_DEFAULT_REGION="us-east-1")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in known.items(): patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        fs = s3fs.S3FileSystem()
        fs.mkdir("lab")
        for path in clips.rglob("*.mp4"): fs.put_file(str(path), f"lab/media/{path.relative_to(clips).as_posix()}")
        yield fs
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def check_same(fs, url, table, here):
    want, out = here
    names = sorted(p.relative_to(out).as_posix() for p in out.glob("*/*.*"))
    root = url.removeprefix("s3://")
    assert sorted(p.removeprefix(f"{root}/") for f in ("crops", "mels", "records") for p in fs.find(f"{root}/{f}")) == names
    for name in names:
        if not name.startswith("records"): assert fs.cat_file(f"{root}/{name}") == (out / name).read_bytes(), name
    columns = [c for c in want if c not in ("path", "error")]
    pd.testing.assert_frame_equal(table[columns].sort_values("clip_id", ignore_index=True), want[columns].sort_values("clip_id", ignore_index=True))
    assert set(table.status) == {"ok", "failed"} and table.error[table.status == "failed"].str.contains("s3://lab/media/real/notes.mp4").all()


def test_without_ray_it_says_what_to_install():
    code = "import sys; sys.modules['ray'] = None\nfrom deepfake_nb.data.scale import ray_engine\nlist(ray_engine()(len, len, [1], 1))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "DataError: Ray is not installed: pip install 'deepfake_nb[ray]'" in done.stderr


def test_from_s3_to_s3(bucket, here):
    table = scan_url("s3://lab/media")
    assert sorted(table.manipulation) == sorted(here[0].manipulation)
    done = prepare(table, "s3://lab/near", FEW, quiet=True)
    check_same(bucket, "s3://lab/near", done, here)
    again = prepare(table, "s3://lab/near", FEW, quiet=True)
    assert again.attrs["seconds"] == {}, "nothing is done twice"
    good = done.clip_id[done.status == "ok"]
    pd.testing.assert_frame_equal(load_crops("s3://lab/near", good), load_crops(here[1], good))
    bucket.pipe_file("lab/media/real/notes.mp4", b"other notes")
    bucket.rm_file(f"lab/near/mels/{good.iloc[0]}.npy")
    assert set(prepare(table, "s3://lab/near", FEW, quiet=True).attrs["seconds"]) == {good.iloc[0], done.clip_id[done.status == "failed"].iloc[0]}
    bucket.pipe_file("lab/media/real/notes.mp4", b"no film")


@pytest.fixture(scope="module")
def cluster(bucket):
    "Two Ray nodes on this machine, one processor each; their processes know the object store."
    ray = pytest.importorskip("ray", reason="no Ray here: pip install 'deepfake_nb[ray]'")
    from ray.cluster_utils import Cluster
    sizes = dict(num_cpus=1, memory=4 * 2**30, object_store_memory=100 * 2**20)
    cluster = Cluster(initialize_head=True, head_node_args=dict(include_dashboard=False, **sizes))
    cluster.second = cluster.add_node(**sizes)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_a_node_dies_and_nothing_is_lost(cluster, bucket, here):
    import ray
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    def alive(): return sum(n["Alive"] for n in ray.nodes())
    assert alive() == 2
    table, had = scan_url("s3://lab/media"), []
    def watched(function, lost, jobs, workers, quiet):
        "The engine, with a machine that dies when the second clip is done: both were at work then."
        for record in ray_engine(cluster.address)(function, lost, jobs, workers, quiet):
            had.append(record["clip_id"])
            if len(had) == 2: cluster.remove_node(cluster.second, allow_graceful=False)
            yield record
    done = prepare(table, "s3://lab/far", FEW, quiet=True, engine=watched)
    assert len(had) == len(set(had)) == len(done) == 9
    check_same(bucket, "s3://lab/far", done, here)
    end = time.time() + 90
    while alive() == 2 and time.time() < end: time.sleep(1)
    assert alive() == 1, "the machine is really gone (the cluster needs some seconds to say so)"
