"""Drawn scenes: nuclei lie apart and in their cells, and shine."""

import numpy as np
import pytest
from scipy import ndimage

from cytoseed.images import scenes

DRAWN = (scenes.draw_nuclei, scenes.draw_tissue, scenes.draw_rims)


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_nuclei_lie_in_their_cells_and_a_seed_repeats_a_scene(draw):
    scene, again = draw((90, 120), 12, 18, seed=3), draw((90, 120), 12, 18, seed=3)
    np.testing.assert_array_equal(scene.image, again.image)
    inside = scene.nuclei > 0
    np.testing.assert_array_equal(scene.cells[inside], scene.nuclei[inside])
    assert np.unique(scene.nuclei).tolist() == list(range(scene.nuclei.max() + 1))
    assert 8 <= scene.nuclei.max() <= 12
    assert (scene.cells > 0).sum() > 1.5 * inside.sum()


def test_stains_lie_where_they_belong():
    nuclei, tissue, rims = (draw((90, 120), 12, 18, seed=3) for draw in DRAWN)
    inside = nuclei.nuclei > 0
    assert nuclei.image[0][inside].mean() > 5 * nuclei.image[0][~inside].mean()
    around = (tissue.cells > 0) & (tissue.nuclei == 0)
    for marker in tissue.image[1:]:
        assert marker[around].mean() > 1.5 * marker[tissue.cells == 0].mean()
    middle = ndimage.binary_erosion(rims.nuclei > 0, iterations=4)
    assert rims.image[0][(rims.nuclei > 0) & ~middle].mean() > 2 * rims.image[0][middle].mean()


def test_there_may_be_no_room():
    assert scenes.draw_nuclei((20, 20), 50, 18).nuclei.max() < 10
    assert scenes.draw_tissue((20, 20), 0, 18).nuclei.max() == 0
