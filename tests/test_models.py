"One contract for every detector; training, resuming and teaching more from the command line."
import hashlib, json, pickle
import numpy as np, pandas as pd, pytest, torch
from deepfake_nb.cli import WORKERS
from deepfake_nb.core import DataError, WeightsError, file_sha256, set_threads, write_json
from deepfake_nb.detect import baseline, models
from deepfake_nb.detect.cnn import load_detector, save_detector
from deepfake_nb.detect.fusion import KINDS, fit_fusion

NETWORKS = ["small_cnn", "meso4", "frequency:small_cnn", "two_branch:small_cnn", "mobilenetv3_small_050", "lstm", *(f"voice:{v}" for v in models.VIEWS), "fusion"]


@pytest.fixture(scope="module", autouse=True)
def alone(): set_threads(1)


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return request.param, models.make_model(request.param)


def test_every_name_is_tested(): assert set(models.MODELS) == {*NETWORKS, "residual", "spectrum", "tree"}


def test_contract(network, tmp_path):
    name, model = network
    x = models.example(model, 4)
    model.train()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x), torch.tensor([0.0, 1, 0, 1]))
    loss.backward()
    trained = [n for n, p in model.named_parameters() if p.requires_grad and not n.startswith("mask")]
    missing = [n for n in trained if (g := model.get_parameter(n).grad) is None or not torch.isfinite(g).all()]
    assert trained and not missing, "a gradient for every parameter that learns"
    model.eval()
    with torch.inference_mode():
        logits, features, signature = model(x), model.features(x), model.signature(x)
        assert torch.equal(model(x), logits), "the same answer twice"
        assert torch.allclose(model(x[1:2]), logits[1:2], atol=1e-4), "nobody else in the batch matters"
    assert logits.shape == (4,) and len(features) == len(signature) == 4 and features.dim() == signature.dim() == 2
    path = tmp_path / "w.safetensors"
    save_detector(path, model, {}, {"name": name})
    again, _, card = load_detector(type(model), path)
    assert (card["kind"], card["arch"]) == (model.kind, model.arch)
    with torch.inference_mode(): assert torch.equal(again(x), logits)
    refuses_what_is_not_its_own(lambda: load_detector(type(model), path), path)


def refuses_what_is_not_its_own(load, path):
    "Another kind; another architecture; no safetensors; a pickle."
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | {"kind": "juggler"}))
    with pytest.raises(WeightsError, match="juggler"): load()
    for bad in (b"", b"no weights", pickle.dumps(Bomb()), path.read_bytes()[:-3]):
        path.write_bytes(bad)
        path.with_suffix(".json").write_text(json.dumps(card | {"sha256": file_sha256(path)}))
        with pytest.raises(WeightsError): load()
    assert not Bomb.exploded


class Bomb:
    exploded = False

    def __reduce__(self): return (explode, ())


def explode(): Bomb.exploded = True


@pytest.mark.parametrize("name", ["small_cnn", "voice:mel", "lstm"])
def test_weights_of_another_architecture(name, tmp_path):
    model, other = models.make_model(name), {"small_cnn": "frequency:small_cnn", "voice:mel": "spectrum", "lstm": "frequency:small_cnn"}[name]
    save_detector(tmp_path / "w.safetensors", model, {}, {})
    card = json.loads((tmp_path / "w.json").read_text())
    (tmp_path / "w.json").write_text(json.dumps(card | {"arch": other}))
    with pytest.raises(WeightsError, match="do not fit"): load_detector(type(model), tmp_path / "w.safetensors")


def test_residual_model_is_saved_to_the_bit(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "r.safetensors"
    model = baseline.ResidualModel(rng.normal(size=baseline.FEATURES).astype(np.float32), 0.5)
    baseline.save_residual(path, model, {})
    again, x = baseline.load_residual(path)[0], rng.normal(size=(3, baseline.FEATURES)).astype(np.float32)
    assert np.array_equal(again.logits(x), model.logits(x))
    refuses_what_is_not_its_own(lambda: baseline.load_residual(path), path)


def test_spectrum_model_is_saved_to_the_bit(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "s.safetensors"
    x = rng.normal(size=(40, 128))
    model = baseline.fit_spectrum(x, np.tile([0, 1], 20))
    baseline.save_spectrum(path, model, {})
    assert np.array_equal(baseline.load_spectrum(path)[0].logits(x), model.logits(x))
    refuses_what_is_not_its_own(lambda: baseline.load_spectrum(path), path)


def test_tree_is_saved_to_the_bit(tmp_path):
    rng, y = np.random.default_rng(0), np.tile([0, 1], 30)
    x = pd.DataFrame({"a": y + rng.normal(0, 0.5, 60), "b": rng.normal(size=60)})
    tree, _ = baseline.fit_tree(x, y, x, y, trees=5)
    baseline.save_tree(tmp_path / "t.json", tree, {})
    assert np.array_equal(baseline.tree_likelihood(baseline.load_tree(tmp_path / "t.json")[0], x), baseline.tree_likelihood(tree, x))
    for bad in ("", "{}", '{"kind": "tree", "trees": "tree", "sha256": ""}'):
        (tmp_path / "t.json").write_text(bad)
        with pytest.raises(WeightsError): baseline.load_tree(tmp_path / "t.json")
    write_json(tmp_path / "t.json", dict(kind="tree", trees="oak", sha256=hashlib.sha256(b"oak").hexdigest()))
    with pytest.raises(WeightsError, match="cannot read"): baseline.load_tree(tmp_path / "t.json")  # LightGBM says so on the terminal, too
    with pytest.raises(DataError, match="both classes"): baseline.fit_tree(x, 0 * y, x, y)


def test_fusion_wants_both_classes():
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(8, 5)), columns=models.EXPERTS)
    for kinds, words in ((["real"] * 8, "real clips and fake"), (["fake_face"] * 8, "real clips and fake"), (["juggled"] * 8, "no such kind")):
        with pytest.raises(DataError, match=words): fit_fusion(table.assign(kind=kinds))
    assert torch.isfinite(fit_fusion(table.assign(kind=list(KINDS) * 2))(torch.tensor(table.to_numpy()).float())).all()


def test_a_broken_loss_stops_the_training(tmp_path, crops, monkeypatch):
    monkeypatch.setattr(models.FaceCNN, "forward", lambda self, x: x.mean((1, 2, 3)) * torch.nan * self.head[1].bias)
    monkeypatch.delattr(models.FaceCNN, "with_mask")
    with pytest.raises(DataError, match="not a number"): models.train_model("small_cnn", crops, tmp_path / "run", 1, 4, say=None)


def test_names_that_mean_nothing():
    for typed, meant in (("smallcnn", "small_cnn"), ("voice:mell", "voice:mel"), ("fussion", "fusion"), ("resnet81", "resnet")):
        with pytest.raises(DataError, match=f"did you mean.*{meant}"): models.make_model(typed)
    with pytest.raises(DataError, match="one go"): models.make_model("tree")


@pytest.fixture(scope="session")
def crops(cli, actors, tmp_path_factory):
    "The actors, prepared."
    out = tmp_path_factory.mktemp("crops")
    assert cli("prepare", actors, out, "--frames", 2, "--workers", 1, "--quiet").returncode == 0
    return out


@pytest.mark.parametrize("change, words", [(dict(label=1, manipulation="swap"), "only fakes"), (dict(label="", manipulation=""), "no clip"), (dict(label="maybe"), "maybe"), (None, "no column label"), ("empty", "no clips")])
def test_bad_tables(crops, tmp_path, change, words):
    table = pd.read_csv(crops / "manifest.csv")
    table = table[:0] if change == "empty" else table.drop(columns="label") if change is None else table.assign(**change)
    table.to_csv(tmp_path / "manifest.csv", index=False)
    for name in ("small_cnn", "tree"):
        with pytest.raises(DataError, match=words): models.train_model(name, tmp_path, tmp_path / "run", say=None)


def test_train_resume_finetune(cli, crops, tmp_path):
    run, args = tmp_path / "run", ("--epochs", 2, "--batch-size", 4)
    done = cli("train", "small_cnn", "--data", crops, "--out", run, *args)
    assert done.returncode == 0 and done.stdout == "" and "auc" in done.stderr and "epoch   1" in done.stderr, done.stderr
    card, weights = json.loads((run / "small_cnn.json").read_text()), (run / "small_cnn.safetensors").read_bytes()
    assert {"data", "data_hash", "licence", "metrics", "platt", "conformal", "threshold", "spread", "version", "lineage", "command", "seed", "limits"} <= set(card)
    assert len(pd.read_csv(run / "history.csv")) == 2 and len([*(run / "figures").glob("*.png")]) == 6
    for name in ("last1.safetensors", "last1.json", "small_cnn.safetensors", "metrics.json"): (run / name).unlink()
    set_threads(max(1, WORKERS // 2)) # as the command does
    models.train_model("small_cnn", crops, run, 2, 4, say=None)
    assert (run / "small_cnn.safetensors").read_bytes() == weights, "stopped after the first epoch, it ends at the same weights"
    done = cli("finetune", run / "small_cnn.safetensors", "--data", crops, "--replay", crops, "--out", tmp_path / "more", "--epochs", 1, "--batch-size", 4)
    assert done.returncode == 0 and "before" in done.stderr and "old" in done.stderr, done.stderr
    child = json.loads((tmp_path / "more" / "small_cnn.json").read_text())
    assert child["version"] == 2 and child["lineage"][0]["sha256"] == card["sha256"]


def test_errors_are_one_line(cli, tmp_path):
    for args in (["train", "smallcnn", "--data", tmp_path, "--out", tmp_path / "run"], ["finetune", tmp_path / "no.safetensors", "--data", tmp_path, "--out", tmp_path / "run"]):
        done = cli(*args)
        assert done.returncode == 2 and done.stderr.startswith("deepfake-nb: error: ") and done.stderr.count("\n") == 1, done.stderr


def test_a_card_without_architecture(cli, tmp_path):
    weights, card = tmp_path / "w.safetensors", tmp_path / "w.json"
    save_detector(weights, models.make_model("small_cnn"), {}, {"size": 128})
    write_json(card, {k: v for k, v in json.loads(card.read_text()).items() if k != "arch"})
    for args in (["detect", "--model", weights, "clip.mp4"], ["finetune", weights, "--data", tmp_path, "--out", tmp_path / "run"]):
        done = cli(*args)
        assert done.returncode == 2 and f"{card}: says nothing of arch" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_evaluate(cli, crops, tmp_path):
    table = pd.read_csv(crops / "manifest.csv")
    table[["clip_id"]].assign(score=table.label + np.random.default_rng(0).normal(0, 0.1, len(table)), detector="oracle").to_csv(tmp_path / "them.csv", index=False)
    done = cli("evaluate", "pretrained", "--data", crops, "--out", tmp_path / "exam", "--scores", tmp_path / "them.csv", "--protocol", "within", "--protocol", "quality")
    assert done.returncode == 0 and done.stdout == "" and "oracle" in done.stderr, done.stderr
    found = json.loads((tmp_path / "exam" / "metrics.json").read_text())
    face = found["metrics"]["face detector of the package, " + crops.name]
    assert face["within"]["clips"] == face["side_by_side"]["clips"] == len(table) and face["side_by_side"]["auc"]["oracle"]["value"] == 1
    assert set(found["figures"]) == {p.name for p in (tmp_path / "exam" / "figures").glob("*.png")}
    for args, words in ((["nobody"], "nobody"), (["pretrained", "--protocol", "within", "--protocol", "hope"], "no such protocol"), (["pretrained", "--data", crops, "--scores", tmp_path / "them.csv"], "one prepared folder")):
        done = cli("evaluate", *args, "--data", crops, "--out", tmp_path / "more")
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
