"Every adapter on a tiny tree in the official layout; the download against a small server; every set has its card."
import hashlib, io, json, re, tarfile, threading, warnings, zipfile
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import pytest
from conftest import ROOT
from deepfake_nb.core import DataError
from deepfake_nb.data import layouts
from deepfake_nb.data.layouts import LAYOUTS, Download, Layout, fetch, terms
from deepfake_nb.data.manifest import check_splits, load_manifest, save_manifest, scan, split_identities

SETS = [n for n, a in LAYOUTS.items() if a.title]


@dataclass
class Tree:
    files: list # names of empty files
    lists: dict # {name: text}
    clips: str # file | label manipulation identity donor split [source's file]; - for empty
    shared: str = "" # what check_splits finds on two sides of the official split
    extra: tuple = () # (file, column, value)
    nested: str = "" # recognised one folder further up, too


def ff(*parts): return [f"{top}/{c}/videos/{n}.mp4" for top, c, n in parts]


YOUTUBE, DF, F2F, ACTORS, DFD = "original_sequences/youtube", "manipulated_sequences/Deepfakes", "manipulated_sequences/Face2Face", "original_sequences/actors", "manipulated_sequences/DeepFakeDetection"
FAKEAV = [("id00076", "-", "-", "real", "A", "RealVideo-RealAudio", "African", "men", "00109.mp4"), ("id00076", "-", "-", "rtvc", "B", "RealVideo-FakeAudio", "African", "men", "00109_fake.mp4"),
          ("id00076", "id00166", "-", "fsgan", "C", "FakeVideo-RealAudio", "African", "men", "00109_1_id00166_fsgan.mp4"),
          ("id00220", "id00476", "10", "wav2lip", "D", "FakeVideo-FakeAudio", "Asian (South)", "women", "00027_10_id00476_wavtolip.mp4")]
FAKEAV = [(*c, f"FakeAVCeleb/{c[5]}/{c[6]}/{c[7]}/{c[0]}") for c in FAKEAV]

TREES = {
    "faceforensics": Tree(
        ff((YOUTUBE, "c23", "000"), (YOUTUBE, "c23", "003"), (YOUTUBE, "c40", "000"), (YOUTUBE, "c40", "003"), (YOUTUBE, "c23", "720"), (YOUTUBE, "c23", "672"), (YOUTUBE, "c40", "720"), (YOUTUBE, "c40", "672"),
           (DF, "c23", "000_003"), (DF, "c23", "003_000"), (DF, "c23", "720_672"), (F2F, "c40", "000_003"), (F2F, "c40", "003_000"), (F2F, "c40", "720_672"), (F2F, "c40", "672_720"),
           (ACTORS, "raw", "01__kitchen_pan"), (DFD, "c23", "01_02__kitchen_pan__YVGY8LOK"))
        + ["manipulated_sequences/FaceShifter/c23/images/000_003/0000.png", f"{DF}/masks/videos/000_003.mp4", f"{DF}/models/000_003.txt", "downloaded_videos/a.mp4"],
        {"splits/train.json": '[["000", "003"]]', "splits/val.json": '[["720", "672"]]', "splits/test.json": "[]"},
        f"""{YOUTUBE}/c23/videos/000.mp4 | 0 real ff-000 - train
            {YOUTUBE}/c40/videos/672.mp4 | 0 real ff-672 - val
            {DF}/c23/videos/000_003.mp4 | 1 Deepfakes ff-000 ff-003 train {YOUTUBE}/c23/videos/000.mp4
            {DF}/c23/videos/672_720.mp4 | 1 Deepfakes ff-672 ff-720 val {YOUTUBE}/c23/videos/672.mp4
            {F2F}/c40/videos/003_000.mp4 | 1 Face2Face ff-003 ff-000 train {YOUTUBE}/c40/videos/003.mp4
            manipulated_sequences/FaceShifter/c23/images/000_003/0000.png | 1 FaceShifter ff-000 ff-003 train
            {ACTORS}/raw/videos/01__kitchen_pan.mp4 | 0 real dfd-01 - -
            {DFD}/c23/videos/01_02__kitchen_pan__YVGY8LOK.mp4 | 1 DeepFakeDetection dfd-01 dfd-02 - {ACTORS}/raw/videos/01__kitchen_pan.mp4""",
        extra=((f"{F2F}/c40/videos/003_000.mp4", "compression", "c40"), (f"{DF}/c23/videos/672_720.mp4", "status", "failed"))),
    "mini_faceforensics": Tree(
        ["real/000.mp4", "real/01__kitchen_pan.mp4", "fake/000_003.mp4", "fake/01_02__kitchen_pan__YVGY8LOK.mp4", "fake/NeuralTextures/003_000.mp4"], {},
        """real/000.mp4 | 0 real ff-000 - -
           fake/000_003.mp4 | 1 fake ff-000 ff-003 - real/000.mp4
           fake/NeuralTextures/003_000.mp4 | 1 NeuralTextures ff-003 ff-000 - real/003.mp4
           fake/01_02__kitchen_pan__YVGY8LOK.mp4 | 1 DeepFakeDetection dfd-01 dfd-02 - real/01__kitchen_pan.mp4""", nested="FF++"),
    "dfd": Tree(
        ["DFD_original sequences/01__kitchen_pan.mp4", "DFD_original sequences/02__exit_phone_room.mp4", "DFD_manipulated_sequences/01_02__kitchen_pan__YVGY8LOK.mp4"], {},
        """DFD_original sequences/02__exit_phone_room.mp4 | 0 real dfd-02 - -
           DFD_manipulated_sequences/01_02__kitchen_pan__YVGY8LOK.mp4 | 1 DeepFakeDetection dfd-01 dfd-02 - DFD_original sequences/01__kitchen_pan.mp4""",
        extra=(("DFD_manipulated_sequences/01_02__kitchen_pan__YVGY8LOK.mp4", "scene", "kitchen_pan"),)),
    "deeperforensics": Tree(
        [f"manipulated_videos/{v}/{n}.mp4" for v in ("end_to_end", "end_to_end_level_3", "reenact_postprocess") for n in ("000_M101", "001_W003", "002_M004")]
        + ["source_videos/M101/BlendShape/camera_front/M101_BlendShape_camera_front.mp4", *ff((YOUTUBE, "c23", "000"))],
        {"lists/splits/train.txt": "000_M101.mp4\n", "lists/splits/val.txt": "001_W003.mp4\n", "lists/splits/test.txt": "002_M004.mp4\n"},
        f"""manipulated_videos/end_to_end/000_M101.mp4 | 1 end_to_end ff-000 deeperforensics-M101 train {YOUTUBE}/c23/videos/000.mp4
            manipulated_videos/end_to_end_level_3/001_W003.mp4 | 1 end_to_end ff-001 deeperforensics-W003 val {YOUTUBE}/c23/videos/001.mp4
            manipulated_videos/reenact_postprocess/002_M004.mp4 | 1 reenact_postprocess ff-002 deeperforensics-M004 test {YOUTUBE}/c23/videos/002.mp4
            {YOUTUBE}/c23/videos/000.mp4 | 0 real ff-000 - train""",
        extra=(("manipulated_videos/end_to_end_level_3/001_W003.mp4", "variant", "end_to_end_level_3"),)),
    "celeb_df": Tree(
        ["Celeb-real/id0_0003.mp4", "Celeb-real/id16_0000.mp4", "YouTube-real/00170.mp4", "Celeb-synthesis/id0_id16_0003.mp4", "Celeb-synthesis/id16_id0_0000.mp4"],
        {"List_of_testing_videos.txt": "1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id16_0003.mp4\n1 Celeb-real/id0_0003.mp4\n"},
        """Celeb-real/id0_0003.mp4 | 0 real celebdf-id0 - test
           Celeb-real/id16_0000.mp4 | 0 real celebdf-id16 - train
           YouTube-real/00170.mp4 | 0 real celebdf-youtube00170 - test
           Celeb-synthesis/id0_id16_0003.mp4 | 1 Celeb-synthesis celebdf-id0 celebdf-id16 test Celeb-real/id0_0003.mp4""",
        shared="person celebdf-id", nested="Celeb-DF-v2"),
    "dfdc": Tree(
        ["dfdc_train_part_0/aa.mp4", "dfdc_train_part_0/bb.mp4", "validation/4000.mp4", "test/cc.mp4"],
        {"dfdc_train_part_0/metadata.json": json.dumps({"aa.mp4": {"label": "FAKE", "split": "train", "original": "bb.mp4"}, "bb.mp4": {"label": "REAL", "split": "train"}}),
         "dfdc_train_part_1/metadata.json": json.dumps({"zz.mp4": {"label": "REAL", "split": "train"}}),
         "validation/labels.csv": "filename,label\n4000.mp4,1\n", "test/metadata.json": json.dumps({"cc.mp4": {"is_fake": 0, "augmentations": {}}})},
        """dfdc_train_part_0/aa.mp4 | 1 dfdc - - train dfdc_train_part_0/bb.mp4
           dfdc_train_part_0/bb.mp4 | 0 real - - train
           validation/4000.mp4 | 1 dfdc - - val
           test/cc.mp4 | 0 real - - test""", extra=(("validation/4000.mp4", "part", "validation"),)),
    "dfdc_preview": Tree(
        ["original_videos/643049/643049_A_000.mp4", "original_videos/77/77_B_001.mp4", "method_A/643049/643049_A/1224068_643049_A_000.mp4"],
        {"dataset.json": json.dumps({
            "original_videos/643049/643049_A_000.mp4": {"label": "real", "set": "train", "target_id": 643049, "swapped_id": None, "augmentations": []},
            "original_videos/77/77_B_001.mp4": {"label": "real", "set": "test"},
            "method_A/643049/643049_A/1224068_643049_A_000.mp4": {"label": "fake", "set": "train", "augmentations": ["x"]}})},
        """original_videos/643049/643049_A_000.mp4 | 0 real dfdc_preview-643049 - train
           original_videos/77/77_B_001.mp4 | 0 real dfdc_preview-77 - test
           method_A/643049/643049_A/1224068_643049_A_000.mp4 | 1 method_A dfdc_preview-643049 dfdc_preview-1224068 train original_videos/643049/643049_A_000.mp4"""),
    "fakeavceleb": Tree(
        [f"{c[9].partition('/')[2]}/{c[8]}" for c in FAKEAV],
        {"meta_data.csv": "source,target1,target2,method,category,type,race,gender,path,\n" + "".join(",".join(c) + "\n" for c in FAKEAV)},
        """RealVideo-RealAudio/African/men/id00076/00109.mp4 | 0 real voxceleb-id00076 - -
           RealVideo-FakeAudio/African/men/id00076/00109_fake.mp4 | 1 rtvc voxceleb-id00076 - - RealVideo-RealAudio/African/men/id00076/00109.mp4
           FakeVideo-RealAudio/African/men/id00076/00109_1_id00166_fsgan.mp4 | 1 fsgan voxceleb-id00076 voxceleb-id00166 - RealVideo-RealAudio/African/men/id00076/00109.mp4
           FakeVideo-FakeAudio/Asian (South)/women/id00220/00027_10_id00476_wavtolip.mp4 | 1 wav2lip voxceleb-id00220 voxceleb-id00476 - RealVideo-RealAudio/Asian (South)/women/id00220/00027.mp4""",
        extra=tuple((f"{c[9].partition('/')[2]}/{c[8]}", column, value) for c, voice, face in zip(FAKEAV, (0, 1, 0, 1), (0, 0, 1, 1)) for column, value in (("voice_label", voice), ("face_label", face), ("race", c[6]), ("gender", c[7]))),
        nested="FakeAVCeleb_v1.2"),
    "wilddeepfake": Tree(
        ["fake_train/1/fake/0/0.png", "fake_train/1/fake/0/1.png", "real_train/1/real/0/0.png", "fake_test/1/fake/0/0.png", "real_test/3/real/12/7.png"], {},
        """fake_train/1/fake/0/1.png | 1 wild wilddeepfake-fake_train/1/fake/0 - train
           real_train/1/real/0/0.png | 0 real wilddeepfake-real_train/1/real/0 - train
           fake_test/1/fake/0/0.png | 1 wild wilddeepfake-fake_test/1/fake/0 - test
           real_test/3/real/12/7.png | 0 real wilddeepfake-real_test/3/real/12 - test""", nested="deepfake_in_the_wild"),
    "asvspoof2019": Tree(
        [f"ASVspoof2019_LA_{part}/flac/LA_{part[0].upper()}_{i}.flac" for part in ("train", "dev", "eval") for i in (1, 2, 3)],
        {f"ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{part}.{kind}.txt": f"LA_00{n} LA_{part[0].upper()}_1 - - bonafide\nLA_00{n} LA_{part[0].upper()}_2 - A{n} spoof\n" for part, kind, n in (("train", "trn", "01"), ("dev", "trl", "02"), ("eval", "trl", "17"))},
        """ASVspoof2019_LA_train/flac/LA_T_1.flac | 0 real asvspoof-LA_0001 - train
           ASVspoof2019_LA_dev/flac/LA_D_2.flac | 1 A02 asvspoof-LA_0002 - val
           ASVspoof2019_LA_eval/flac/LA_E_1.flac | 0 real asvspoof-LA_0017 - test
           ASVspoof2019_LA_eval/flac/LA_E_2.flac | 1 A17 asvspoof-LA_0017 - test""", nested="LA"),
    "asvspoof2021": Tree(
        [f"ASVspoof2021_LA_eval/flac/LA_E_{i}.flac" for i in (1, 2, 3)],
        {"keys/LA/CM/trial_metadata.txt": "LA_0009 LA_E_1 alaw ita_tx A07 spoof notrim eval\nLA_0009 LA_E_2 none none bonafide bonafide notrim eval\nLA_0020 LA_E_3 g722 loc_tx A08 spoof notrim progress\n",
         "keys/DF/CM/trial_metadata.txt": "LA_0009 DF_E_1 nocodec asvspoof A07 spoof notrim eval neural - - - -\n", "ASVspoof2021_LA_eval/ASVspoof2021.LA.cm.eval.trl.txt": "LA_E_1\n"},
        """ASVspoof2021_LA_eval/flac/LA_E_1.flac | 1 A07 asvspoof-LA_0009 - test
           ASVspoof2021_LA_eval/flac/LA_E_2.flac | 0 real asvspoof-LA_0009 - test
           ASVspoof2021_LA_eval/flac/LA_E_3.flac | 1 A08 asvspoof-LA_0020 - -""",
        extra=(("ASVspoof2021_LA_eval/flac/LA_E_1.flac", "transmission_codec", "alaw"), ("ASVspoof2021_LA_eval/flac/LA_E_3.flac", "phase", "progress"))),
    "wavefake": Tree(
        ["LJSpeech-1.1/wavs/LJ001-0001.wav", "jsut_ver1.1/basic5000/wav/BASIC5000_0001.wav", "generated_audio/ljspeech_melgan/LJ001-0001_gen.wav", "generated_audio/ljspeech_hifiGAN/LJ001-0001_generated.wav",
         "generated_audio/ljspeech_waveglow/LJ001-0001.wav", "generated_audio/jsut_multi_band_melgan/BASIC5000_0001_gen.wav", "generated_audio/common_voices_prompts_from_conformer_fastspeech2_pwg_ljspeech/generated/gen_0.wav"], {},
        """LJSpeech-1.1/wavs/LJ001-0001.wav | 0 real wavefake-ljspeech - -
           jsut_ver1.1/basic5000/wav/BASIC5000_0001.wav | 0 real wavefake-jsut - -
           generated_audio/ljspeech_hifiGAN/LJ001-0001_generated.wav | 1 hifiGAN wavefake-ljspeech - - LJSpeech-1.1/wavs/LJ001-0001.wav
           generated_audio/ljspeech_waveglow/LJ001-0001.wav | 1 waveglow wavefake-ljspeech - - LJSpeech-1.1/wavs/LJ001-0001.wav
           generated_audio/jsut_multi_band_melgan/BASIC5000_0001_gen.wav | 1 multi_band_melgan wavefake-jsut - - jsut_ver1.1/basic5000/wav/BASIC5000_0001.wav
           generated_audio/common_voices_prompts_from_conformer_fastspeech2_pwg_ljspeech/generated/gen_0.wav | 1 conformer_fastspeech2_pwg wavefake-ljspeech - -"""),
    "in_the_wild": Tree(
        ["0.wav", "1.wav", "2.wav"], {"meta.csv": "file,speaker,label\n0.wav,Guinness,spoof\n1.wav,Guinness,bona-fide\n2.wav,Obama,bona-fide\n"},
        """0.wav | 1 spoof Guinness - -
           1.wav | 0 real Guinness - -""", nested="release_in_the_wild"),
    "grid": Tree(["s1/bbaf2n.mpg", "s22/video/lrae3s.mpg", "s1/bbaf2n.align"], {}, "s1/bbaf2n.mpg | 0 real grid-s1 - -\n s22/video/lrae3s.mpg | 0 real grid-s22 - -"),
    "librispeech": Tree(["train-clean-100/19/198/19-198-0000.flac", "dev-clean/84/121123/84-121123-0000.flac", "test-clean/61/70968/61-70968-0000.flac", "SPEAKERS.TXT"], {},
        """train-clean-100/19/198/19-198-0000.flac | 0 real librispeech-19 - train
           dev-clean/84/121123/84-121123-0000.flac | 0 real librispeech-84 - val
           test-clean/61/70968/61-70968-0000.flac | 0 real librispeech-61 - test""", nested="LibriSpeech"),
    "fsdd": Tree(["recordings/7_jackson_32.wav", "recordings/0_george_0.wav", "acquire_data/say_numbers.wav"], {}, "recordings/7_jackson_32.wav | 0 real fsdd-jackson - -", nested="free-spoken-digit-dataset-1.0.10"),
}
COUNTS = dict(faceforensics=19, mini_faceforensics=5, dfd=3, deeperforensics=10, celeb_df=5, dfdc=4, dfdc_preview=3, fakeavceleb=4, wilddeepfake=5, asvspoof2019=6, asvspoof2021=3, wavefake=7, in_the_wild=3, grid=2, librispeech=3, fsdd=2)


def grow(tree, folder):
    for name, text in {**dict.fromkeys(tree.files, ""), **tree.lists}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_every_published_layout_is_tested(): assert set(TREES) == set(SETS) == set(COUNTS)


@pytest.mark.parametrize("name", TREES)
def test_layout(name, tmp_path, monkeypatch):
    tree = TREES[name]
    root = grow(tree, tmp_path / "set" / tree.nested)
    monkeypatch.setattr(layouts, "sniff", lambda path: pytest.fail(f"{path} was opened"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        df = scan(tmp_path / "set")
    assert len(df) == COUNTS[name] and df.clip_id.is_unique
    assert next(n for n, a in LAYOUTS.items() if a.clips(tmp_path / "set")) == name
    assert scan(tmp_path / "set", name).equals(df) and scan(root).clip_id.tolist() == df.clip_id.tolist()
    df.index = [str(p)[len(str(root)) + 1:] for p in df.path]
    for line in tree.clips.strip().splitlines():
        file, _, words = line.strip().partition(" | ")
        label, manipulation, identity, donor, split, *source = words.split(maxsplit=5)
        row = df.loc[file]
        found = str(row.label), row.manipulation, row.identity, row.donor, row.split
        assert found == tuple(w.replace("-", "", 1) if w == "-" else w for w in (label, manipulation, identity, donor, split)), file
        if source and source[0] in df.index: assert row.source == df.clip_id[source[0]], file
        assert bool(row.source) == bool(source), file
    for file, column, value in tree.extra: assert str(df[column][file]) == str(value), (file, column)
    assert set(df.generator_ok) <= {"yes", "no"} and set(df.licence) == {LAYOUTS[name].licence}
    if tree.shared:
        with pytest.raises(DataError, match=tree.shared): check_splits(df)
    else: check_splits(df)
    assert load_manifest(save_manifest(df, tmp_path / "set" / "table.csv")).clip_id.tolist() == df.clip_id.tolist()


def test_compressions_stay_on_one_side(tmp_path):
    people = [f"{i:03}" for i in range(12)]
    pairs = [(a, b) for a, b in zip(people[::2], people[1::2])]
    grow(Tree(ff(*((YOUTUBE, c, p) for c in ("raw", "c23", "c40") for p in people), *((DF, c, f"{a}_{b}") for c in ("c23", "c40") for a, b in pairs)), {}, ""), tmp_path)
    df = split_identities(scan(tmp_path))
    assert len(df) == 48 and df.groupby("identity").split.nunique().max() == 1 and df.groupby("identity").compression.nunique().min() >= 3


def test_partial_release(tmp_path):
    grow(Tree(ff((F2F, "raw", "000_003")), {}, ""), tmp_path)
    assert scan(tmp_path).manipulation.tolist() == ["Face2Face"]


def test_several_sets_in_one_folder_are_no_set(tmp_path):
    for name in ("celeb_df", "dfdc", "in_the_wild"): grow(TREES[name], tmp_path / name)
    assert [n for n, a in LAYOUTS.items() if a.recognise(tmp_path)] == ["plain"]


def test_listed_but_missing(tmp_path):
    tree = TREES["in_the_wild"]
    grow(tree, tmp_path)
    (tmp_path / "1.wav").unlink()
    df = scan(tmp_path)
    assert df.status.tolist() == ["", "failed", ""] and "meta.csv names it" in df.error[1]
    (tmp_path / "2.wav").unlink()
    with pytest.warns(UserWarning, match="chosen sample"): assert len(scan(tmp_path)) == 1


@pytest.mark.parametrize("name, list_, wrong, message", [
    ("celeb_df", "List_of_testing_videos.txt", "0 YouTube-real/00170.mp4\n", "1 means real"),
    ("celeb_df", "List_of_testing_videos.txt", "YouTube-real/00170.mp4\n", "1 words"),
    ("asvspoof2019", "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.dev.trl.txt", "LA_0002 LA_D_1 - - genuine\n", "bonafide or spoof"),
    ("in_the_wild", "meta.csv", "file,speaker,label\n0.wav,Guinness,bonafide\n", "bona-fide or spoof"),
    ("fakeavceleb", "meta_data.csv", "a,b\n1,2\n", "ten cells"),
    ("faceforensics", "splits/train.json", '[["000"]]', "pairs"),
    ("dfdc_preview", "dataset.json", "[]", "no dict"),
])
def test_broken_list_is_named(name, list_, wrong, message, tmp_path):
    grow(TREES[name], tmp_path)
    (tmp_path / list_).write_text(wrong)
    with pytest.raises(DataError, match=message): scan(tmp_path, name)


def test_missing_keys_and_packed_archives(tmp_path):
    grow(Tree(["asv/ASVspoof2021_LA_eval/flac/LA_E_1.flac", "wild/fake_train/1.tar.gz", "fakeav/RealVideo-RealAudio/a.mp4"], {}, ""), tmp_path)
    for name, layout, message in (("asv", "asvspoof2021", "LA-keys-full"), ("wild", "wilddeepfake", "still packed"), ("fakeav", "fakeavceleb", "meta_data.csv")):
        with pytest.raises(DataError, match=message): scan(tmp_path / name, layout)


def test_nothing_recognised_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError) as e: scan(tmp_path)
    assert all(a.looked_for in str(e.value) for a in LAYOUTS.values())


# Cards

CARDS = {p.stem.lower(): p for p in (ROOT / "data/cards").glob("*.md")}


@pytest.mark.parametrize("name", SETS)
def test_card(name):
    text = CARDS[name].read_text()
    assert text.startswith("# ") and re.search(r"\n\| from \| .*\]\(http", text)
    for row in ("people", "licence", "what", "`generator_ok`"): assert f"\n| {row} |" in text, row
    for section in ("Layout.", "Official split.", "Known confounds and limits.", "Sources."): assert f"\n**{section}" in text, section
    assert f"| {LAYOUTS[name].generator_ok}" in text and LAYOUTS[name].url in text


def test_no_card_without_a_set(): assert set(CARDS) == set(SETS) | {"actors"}


# fetch

class Server:
    "Serves one body under every name; breaks off in the middle of the first answers."
    def __init__(self, body, breaks=0, ranges=True):
        self.asked, outer = [], self
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.headers.get("Range", ""))
                start = int(outer.asked[-1][6:-1]) if ranges and outer.asked[-1] else 0
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                self.wfile.write(body[start:] if len(outer.asked) > breaks else body[start:len(body) // 2])
            def do_HEAD(self):
                self.send_response(200)
                self.send_header("Content-Length", "3300000000")
                self.end_headers()
            def log_message(self, *_): pass
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(.01,), daemon=True).start()
        return self
    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def zipped(name="a/1.wav", content=b"x" * 1000):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z: z.writestr(name, content)
    return out.getvalue()


def tarred(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as t:
        for m in members: t.addfile(m, io.BytesIO(b"x" * m.size))
    return out.getvalue()


@pytest.fixture
def publish(monkeypatch):
    def publish(server, file, body, checksum=None):
        md5 = f"md5:{hashlib.md5(body).hexdigest()}"
        monkeypatch.setitem(LAYOUTS, "toy", Layout("", None, None, "Toy", server.url, "CC0", downloads=(Download(server.url + file, len(body), md5 if checksum is None else checksum),)))
    return publish


def test_fetch_says_first_and_asks(tmp_path, publish):
    said, body = [], zipped()
    with Server(body) as server:
        publish(server, "set.zip", body)
        assert fetch("TOY", tmp_path / "out", said.append, lambda: bool(said) and False) is None
        assert server.asked == [] and not (tmp_path / "out").exists()
        assert all(word in said[0] for word in ("Toy", "CC0", server.url, "GB"))
        assert fetch("toy", tmp_path / "out", said.append, quiet=True) == tmp_path / "out"
        fetch("toy", tmp_path / "out", said.append, quiet=True)
    assert server.asked == [""], "what is there is not fetched again"
    assert [p.name for p in (tmp_path / "out").rglob("*.wav")] == ["1.wav"] and not (tmp_path / "out/set.zip").exists()


def test_size_comes_from_the_server_where_it_is_not_known(tmp_path, publish):
    said = []
    with Server(b"") as server:
        publish(server, "set.zip", b"")
        fetch("toy", tmp_path, said.append, lambda: False)
    assert said[1:] == ["size:    3.3 GB"] and server.asked == []


@pytest.mark.parametrize("ranges", [True, False])
def test_fetch_goes_on_after_an_abort(tmp_path, publish, ranges):
    body = zipped(content=bytes(range(256)) * 4000)
    with Server(body, breaks=1, ranges=ranges) as server:
        publish(server, "set.zip", body)
        with pytest.raises(DataError, match="broke off"): fetch("toy", tmp_path, print, quiet=True)
        assert not (tmp_path / "a").exists() and (tmp_path / "set.zip.part").stat().st_size > 100_000
        fetch("toy", tmp_path, print, quiet=True)
    assert re.fullmatch(r"bytes=\d+-", server.asked[1]) and (tmp_path / "a/1.wav").stat().st_size == 1_024_000


def test_fetch_refuses_a_wrong_checksum(tmp_path, publish):
    body = zipped()
    with Server(body) as server:
        publish(server, "set.zip", body, "md5:" + "0" * 32)
        with pytest.raises(DataError, match="checksum"): fetch("toy", tmp_path, print, quiet=True)
    assert list(tmp_path.iterdir()) == []


LINK = tarfile.TarInfo("link")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "/etc"


@pytest.mark.filterwarnings("ignore:Python 3.14")
@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("file, body", [("set.zip", zipped("../evil.wav")), ("set.zip", zipped("/tmp/evil.wav")), ("set.tar.gz", tarred(tarfile.TarInfo("../evil.wav"))), ("set.tar.gz", tarred(LINK)), ("set.zip", b"no archive")])
def test_fetch_refuses_a_bad_archive(file, body, filtered, tmp_path, publish, monkeypatch):
    if not filtered: monkeypatch.delattr(tarfile, "data_filter", raising=False)  # as before Python 3.11.4
    with Server(body) as server:
        publish(server, file, body)
        with pytest.raises(DataError, match="outside|unpacked"): fetch("toy", tmp_path / "in", print, quiet=True)
    assert not list(tmp_path.rglob("evil*")) and not (tmp_path / "in/link").exists()


def test_fetch_without_a_server_or_room(tmp_path, publish, monkeypatch):
    with Server(b"") as server: publish(server, "set.zip", b"", "")
    with pytest.raises(DataError, match="broke off"): fetch("toy", tmp_path, print, quiet=True)
    monkeypatch.setattr(layouts.shutil, "disk_usage", lambda _: layouts.shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(DataError, match="GB free"): fetch("librispeech", tmp_path / "full", print)


def test_zenodo_tells_the_checksum(tmp_path, publish, monkeypatch):
    import pooch
    body, asked = zipped(), []
    def answer(registry):
        asked.append(registry.base_url)
        registry.registry["set.zip"] = f"md5:{hashlib.md5(body).hexdigest()}"
    monkeypatch.setattr(pooch.Pooch, "load_registry_from_doi", answer)
    with Server(body) as server:
        publish(server, "set.zip", body, "doi:10.5281/zenodo.3625687")
        fetch("toy", tmp_path, print, quiet=True)
    assert asked == ["doi:10.5281/zenodo.3625687/"]


@pytest.mark.parametrize("name", SETS)
def test_terms(name):
    layout, text = LAYOUTS[name], terms(name)
    assert layout.title in text and layout.licence in text and layout.url in text
    assert bool(layout.downloads) != bool(layout.steps), "either everybody may download it, or it says what to do"
    assert all(d.url.startswith("https://") for d in layout.downloads)
