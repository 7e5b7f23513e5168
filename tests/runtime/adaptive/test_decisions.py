import numpy as np

from sr_deploy.runtime.adaptive.decisions import decisions_picture, legend_of


def test_the_least_is_blue_and_the_most_red_over_the_image():
    decided = np.ones((2, 3, 2), np.float32)
    decided[..., 0] = [0, 0.5, 1]
    picture = decisions_picture(decided, scale=4)
    assert picture.shape == (8, 12, 3) and picture.dtype == np.uint8
    blue, yellow, red = (picture[0, x].astype(int) for x in (0, 4, 8))
    assert blue.argmax() == 2 and red.argmax() == 0 and yellow[2] < min(yellow[:2])
    dark = decisions_picture(np.zeros_like(decided), scale=1)
    assert (dark[0, 0] < blue).all()


def test_a_legend_has_the_colours_of_the_picture():
    assert legend_of(("least", "half", "most")) == (
        ("least", "#3168be"),
        ("half", "#f0c83c"),
        ("most", "#c82832"),
    )
    assert len(legend_of([f"{n} blocks" for n in range(5)])) == 5
