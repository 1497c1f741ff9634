import numpy as np
import pytest

from cytoseed.images.unmix import unmix

HAEMATOXYLIN, DAB = (0.65, 0.70, 0.29), (0.27, 0.57, 0.78)


def stained(haematoxylin: float, dab: float) -> np.ndarray:
    """Pixels (3, 4, 5) of a section with these amounts in optical density."""
    density = haematoxylin * np.array(HAEMATOXYLIN) + dab * np.array(DAB)
    return np.broadcast_to((255 * 10**-density).round().astype(np.uint8)[:, None, None], (3, 4, 5)).copy()


def test_haematoxylin_is_told_from_dab():
    blue, brown, both, white = (
        float(unmix(stained(*amounts), "haematoxylin").mean()) for amounts in [(0.8, 0), (0, 0.8), (0.8, 0.8), (0, 0)]
    )
    assert blue == pytest.approx(both, rel=0.1)
    assert abs(brown) < 0.1 * abs(blue)
    assert abs(white) < 0.02 * abs(blue)
    assert blue < 0  # dark where there is much


def test_shape_and_type_and_no_change_of_the_input():
    pixels = stained(0.5, 0.3)
    before = pixels.copy()
    result = unmix(pixels, "dab")
    assert result.shape == (1, 4, 5)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(pixels, before)


def test_16_bit_and_float_images_give_the_same():
    pixels = stained(0.6, 0.2)
    expected = unmix(pixels, "haematoxylin")
    np.testing.assert_allclose(unmix(pixels.astype(np.uint16) * 257, "haematoxylin"), expected, atol=1e-4)
    np.testing.assert_allclose(unmix(pixels / 255, "haematoxylin"), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("pixels", "stain", "message"),
    [
        (np.zeros((1, 4, 4), np.uint8), "haematoxylin", "1 channels"),
        (np.zeros((3, 4, 4), np.uint8), "giemsa", "one of haematoxylin, eosin, dab"),
        (np.full((3, 4, 4), 255.0), "dab", "white must be 1"),
    ],
)
def test_what_cannot_be_unmixed_is_refused(pixels, stain, message):
    with pytest.raises(ValueError, match=message):
        unmix(pixels, stain)
