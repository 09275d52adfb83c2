"The service from end to end: its refusals, and its page in a real browser."
import re
import numpy as np, pytest
from conftest import COMMAND, running
from deepfake_nb.media import write_audio, write_image, write_video

pytest.importorskip("gradio", reason="the extra `serve` is not installed")
WORDS = {"real", "fake", "uncertain"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    "A running service; its address."
    command = [COMMAND, "serve", "--port", "PORT", "--max-mb", "4", "--max-seconds", "5"]
    with running(command, "/healthz", tmp_path_factory.mktemp("serve") / "log") as url: yield url


@pytest.fixture(scope="module")
def ask(served):
    "Send a file; returns (status, JSON)."
    import httpx
    def send(content, name="clip.mp4", where="detect"):
        answer = httpx.post(f"{served}/v1/{where}", files=dict(file=(name, content)), timeout=300)
        return answer.status_code, answer.json()
    return send


@pytest.fixture(scope="module")
def clip(actors): return next((actors / "real").glob("*.mp4")).read_bytes()


def test_a_verdict_by_http(ask, clip):
    status, found = ask(clip, "../../clip.mp4")
    assert status == 200 and found["verdict"]["path"] == "clip.mp4" and found["verdict"]["verdict"] in WORDS
    status, found = ask(clip, where="verify")
    assert status == 200 and found["verification"]["has"]["credentials"]


def test_a_report_where_it_is_asked_for(ask, served, clip):
    import httpx
    for wanted, status in (("true", 200), ("false", 409)):
        job = httpx.post(f"{served}/v1/detect", files=dict(file=("clip.mp4", clip)), data=dict(report=wanted), timeout=300).json()
        answer = httpx.get(f"{served}/v1/jobs/{job['id']}/report")
        assert answer.status_code == status and ("data:image" in answer.text) == (status == 200), answer.text[:200]


def test_attacks_and_accidents_are_refused_in_words(ask, clip, tmp_path):
    neighbour = tmp_path / "neighbour.ts"
    neighbour.write_bytes(clip)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{neighbour}\n#EXT-X-ENDLIST\n".encode()
    concat = f"ffconcat version 1.0\nfile {neighbour}\n".encode()
    write_video(tmp_path / "long.mp4", [np.zeros((64, 64, 3), np.uint8)] * 150, 25)
    write_image(tmp_path / "huge.png", np.zeros((4000, 4000, 3), np.uint8))
    write_audio(tmp_path / "silent.wav", np.zeros(32000, np.float32), 16000)
    cases = {"playlist": (playlist, 422), "concat": (concat, 422), "text": (b"no film at all " * 50, 422), "empty": (b"", 422), "cut": (clip[: len(clip) // 2], 422), "too large": (bytes(5 << 20), 413),
             "too long": ((tmp_path / "long.mp4").read_bytes(), 413), "too many pixels": ((tmp_path / "huge.png").read_bytes(), 413), "silent": ((tmp_path / "silent.wav").read_bytes(), 422)}
    for name, (content, status) in cases.items():
        got, found = ask(content)
        assert got == status and found["status"] == status and found["title"] and found["detail"] and str(tmp_path) not in found["detail"], (name, got, found)
    assert ask(clip)[0] == 200, "it still works afterwards"


def test_a_hanging_worker_is_replaced(clip):
    from deepfake_nb.serve import Desk, Limits, Worker
    class Sleepy(Worker):
        def start(self):
            super().start()
            if not getattr(self, "woken", False): self.process.kill(); self.woken = True
    desk = Desk(Limits(), Sleepy(Limits()))
    states = []
    for _ in range(2):
        job = desk.new("verify", "clip.mp4")
        job.file.write_bytes(clip)
        assert desk.submit(job).over.wait(240)
        states.append(job.problem.status if job.problem else job.state)
    home = desk.home
    desk.close()
    assert states == [500, "done"] and not home.exists()


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    "What a camera sees: an actor."
    import av
    from deepfake_nb.data.actors import ActorClip
    path = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    with av.open(str(path), "w", format="mjpeg") as film:
        stream = film.add_stream("mjpeg", rate=20)
        stream.width, stream.height, stream.pix_fmt = 320, 320, "yuvj420p"
        for frame in ActorClip(3, 0, 0, 0.8, 320).frames(): film.mux(stream.encode(av.VideoFrame.from_ndarray(frame.image, format="rgb24")))
        film.mux(stream.encode())
    return path


@pytest.mark.browser
def test_camera_and_making_in_a_browser(served, chromium, camera, tmp_path):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        args = ["--no-sandbox", "--disable-gpu", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={camera}"]
        browser = p.chromium.launch(executable_path=chromium, args=args)
        page = browser.new_context(permissions=["camera"]).new_page()
        page.goto(served)
        page.get_by_role("tab", name="Make one").click()
        page.locator("#speak").click()
        page.locator("#sound-about:has-text('GENERATED')").wait_for(timeout=120000)
        page.locator("#swap").click()
        page.locator("#film-about:has-text('swap demo')").wait_for(timeout=120000)
        page.get_by_role("tab", name="Live camera").click()
        page.get_by_text("Click to Access Webcam").click()
        page.locator('#camera button[aria-label="capture photo"]').click()
        page.locator("#live:has-text('likelihood of fake')").wait_for(timeout=120000)
        assert page.locator("#seen img").count() == 1
        page.screenshot(path=tmp_path / "live.png")
        browser.close()


@pytest.mark.browser
def test_page_in_a_browser(served, chromium, actors, tmp_path):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        page = browser.new_page(viewport=dict(width=1240, height=1300))
        asked = []
        page.on("request", lambda r: asked.append(r.url))
        page.goto(served)
        for kind in ("real", "fake"):
            path = sorted((actors / kind).rglob("*.mp4"))[0]
            page.locator("#given input[type=file]").set_input_files(path)
            page.locator(f"#verdict .sheet:has-text('{path.name}')").wait_for(timeout=240000)
            word = page.locator("#verdict .word").inner_text()
            assert word.lower() in WORDS and re.search(r"0\.\d\d|1\.00", page.locator("#verdict .ends").first.inner_text())
            assert page.locator("#verdict img").count() >= 3
            page.screenshot(path=tmp_path / f"{kind}.png", full_page=True)
            with page.expect_download() as got: page.locator("#report").click()
            got.value.save_as(tmp_path / "r.html")
            assert "data:image" in (tmp_path / "r.html").read_text()
            page.locator("#given button[aria-label='Clear'], #given button[aria-label='Remove this file'], #given .label-clear-button").first.click()
            page.locator("#verdict .idle").wait_for()
        browser.close()
    foreign = {u for u in asked if not u.startswith((served, "data:", "blob:", served.replace("http", "ws")))}
    assert not foreign, foreign
