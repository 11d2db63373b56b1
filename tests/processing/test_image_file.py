import threading
import warnings

import pytest
from PIL import Image

from coca.core.errors import DataError
from coca.processing.image_file import DECODERS, Stream, decoder_warnings_ignored, read_image


def warn_as(module: str, kind: type[Warning] = UserWarning) -> None:
    warnings.warn_explicit("odd metadata", kind, "file.py", 1, module=module)


def test_decoder_warnings_are_silenced_and_others_are_not() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with decoder_warnings_ignored():
            warn_as("PIL.Image")
            warn_as("torchvision.io.image", DeprecationWarning)
            warnings.warn("another", stacklevel=1)
    assert [str(one.message) for one in caught] == ["another"]


def test_threads_that_end_in_another_order_leave_the_filters_as_they_were() -> None:
    before = list(warnings.filters)
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with decoder_warnings_ignored():
            first_is_in.set()
            second_is_in.wait(timeout=240)
        first_is_out.set()

    thread = threading.Thread(target=first)
    thread.start()
    first_is_in.wait(timeout=240)
    with decoder_warnings_ignored():
        second_is_in.set()
        assert first_is_out.wait(timeout=240)
        assert list(warnings.filters) != before
    thread.join()
    assert list(warnings.filters) == before


def test_a_decoder_of_a_plugin_reads_files_that_are_not_images() -> None:
    @DECODERS.register(".toy")
    def decode(stream: Stream, name: str) -> Image.Image | None:
        return Image.new("RGB", (3, 2)) if stream.read(3) == b"toy" else None

    assert read_image(b"toy file").size == (3, 2)
    with pytest.raises(DataError, match="is not a JPEG"):
        read_image(b"another file")
