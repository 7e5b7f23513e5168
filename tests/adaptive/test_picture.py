import numpy as np
import pytest

from sr_deploy.adaptive.picture import decisions_picture


@pytest.mark.parametrize("dtype, white", [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_the_least_is_blue_and_the_most_red_over_the_image(dtype, white):
    rgb = np.full((2, 3, 3), white, dtype)
    picture = decisions_picture(rgb, np.array([[0, 0.5, 1]] * 2, np.float32), scale=4)
    assert picture.shape == (8, 12, 3) and picture.dtype == np.uint8
    blue, yellow, red = (picture[0, x].astype(int) for x in (0, 4, 8))
    assert blue.argmax() == 2 and red.argmax() == 0 and yellow[2] < min(yellow[:2])
    dark = decisions_picture(np.zeros_like(rgb), np.zeros((2, 3), np.float32), scale=1)
    assert (dark[0, 0] < blue).all()
