import pytest

from class_photos import with_article


@pytest.mark.parametrize(
    "caption",
    [
        *(
            "a doberman",
            "an orange",
            "a unicycle",
            "an hourglass",
            "a U-boat",
            "an Old English sheepdog",
        ),
        *("broccoli", "red wine", "sunglasses", "swimming trunks", "a triceratops", "a bus"),
        *("a wine glass", "a walrus", "a European gallinule", "velvet", "an umbrella"),
    ],
)
def test_a_name_has_the_article_that_a_person_would_write(caption: str) -> None:
    name = caption.removeprefix("a ").removeprefix("an ")
    assert with_article(name) == caption
