"""Audio on the page: clips are spectrograms on the wall, and play in their view."""

from typing import Any

import pytest

from page_service import CHROMIUM, Watch
from server_process import serving
from tiny_audio import tone, wav, write_hearing_model

pytest.importorskip("playwright", reason="`make test-page` runs it")
pytest.importorskip("av", reason="the extra audio is not installed")

PLAYED = """async (audio) => {
  audio.muted = true;
  await audio.play();
  await new Promise((resolve) => audio.addEventListener("ended", resolve));
  return [audio.duration, audio.error];
}"""


@pytest.mark.page
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_a_clip_is_a_spectrogram_and_plays(
    browser: Any, watch: Watch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    import coca
    from coca.workflows.collections.index import index_images

    root = tmp_path_factory.mktemp("audio")
    predictor = coca.load(write_hearing_model(root / "model"), device="cpu")
    (root / "clips").mkdir()
    (root / "clips" / "tone.wav").write_bytes(wav(tone(440, 0.5)))
    uri = str(root / "clips.db")
    index_images([root / "clips"], predictor, uri=uri)
    with serving("--uri", uri, "--model", predictor.source, cache=root / "cache") as found:
        tab = browser.new_context().new_page()
        watch.follow(tab)
        tab.goto(found.url)
        thumbnail = tab.wait_for_selector("#wall img, main img")
        tab.wait_for_function("image => image.naturalWidth > 0", arg=thumbnail)
        assert thumbnail.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [50, 128]
        thumbnail.click()
        duration, error = tab.wait_for_selector("audio").evaluate(PLAYED)
        assert (duration, error) == (0.5, None)
        tab.context.close()
