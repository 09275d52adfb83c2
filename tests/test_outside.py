"A detector that was made elsewhere, from its file to a verdict, by the command line."
import json
import pytest

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    "An ONNX file that calls bright faces fake."
    from onnx import TensorProto, helper
    nodes = [helper.make_node("ReduceMean", ["faces", "axes"], ["score"], keepdims=0)]
    graph = helper.make_graph(nodes, "guest", [helper.make_tensor_value_info("faces", TensorProto.FLOAT, [None, 3, 64, 64])], [helper.make_tensor_value_info("score", TensorProto.FLOAT, None)], [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])])
    path = tmp_path_factory.mktemp("guest") / "guest.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString())
    return path


@pytest.fixture(scope="module")
def prepared(cli, actors, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    assert cli("prepare", actors, out, "--frames", 2, "--quiet").returncode == 0
    return out


def test_a_stranger_is_asked_calibrated_and_measured(cli, guest, prepared, actors, tmp_path):
    clip = next((actors / "fake").rglob("*.mp4"))
    raw = json.loads(cli("detect", "--json", "--model", f"onnx:{guest}", clip).stdout)
    assert raw["verdict"] == "uncertain" and raw["tracks"][0]["interval"] == [0, 1] and any("not calibrated" in n for n in raw["notes"])
    done = cli("calibrate", f"onnx:{guest}", "--data", prepared, "--out", tmp_path / "guest.json")
    assert done.returncode == 0 and done.stdout == "" and "calibrated" in done.stderr, done.stderr
    known = json.loads(cli("detect", "--json", "--model", tmp_path / "guest.json", clip).stdout)
    assert known["error"] is None and known["tracks"][0]["interval"] != [0, 1] and not any("not calibrated" in n for n in known["notes"]) and known["model"].startswith("guest;")
    done = cli("evaluate", tmp_path / "guest.json", "--data", prepared, "--out", tmp_path / "exam", "--json")
    assert done.returncode == 0 and json.loads(done.stdout) == json.loads((tmp_path / "exam" / "metrics.json").read_text())["metrics"], done.stderr


def test_strangers_that_cannot_be_asked(cli, guest, prepared, tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    for args, word in ((["detect", "--model", f"onnx:{tmp_path / 'text.onnx'}", "x.mp4"], "not an ONNX file"), (["detect", "--model", "nobody", "x.mp4"], "no such detector"),
                       (["detect", "--model", "hf:somebody/something", "x.mp4"], "name the commit"), (["calibrate", f"onnx:{guest}", "pretrained:voice", "--data", prepared, "--out", tmp_path / "x.json"], "calibrate them apart"),
                       (["calibrate", f"onnx:{guest}", "--data", prepared, "--out", tmp_path / "x.csv"], "written as .json")):
        done = cli(*args)
        assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1, (args, done.stderr)
    assert not (tmp_path / "x.json").exists()
