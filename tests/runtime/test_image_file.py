import threading
import warnings

from coca.runtime.image_file import decoder_warnings_ignored


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
