"""Heatmaps: the pixel convention, and that decoding undoes encoding."""

import pytest
import torch

from gesturepose.heatmaps import crop_to_heatmap, decode_heatmaps, gaussian_heatmaps, heatmap_to_crop


def test_crop_and_heatmap_px_convert_both_ways():
    uv = torch.tensor([[0.0, 0.0], [63.0, 17.5]])
    torch.testing.assert_close(heatmap_to_crop(crop_to_heatmap(uv, 4), 4), uv)
    # Crop pixels 0…3 lie under heatmap pixel 0, whose centre is between the crop's pixels 1 and 2.
    assert crop_to_heatmap(torch.tensor([1.5, 1.5]), 4).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("size", [(16, 22), (32, 24), (64, 64)])
def test_decoding_undoes_encoding(size):
    height, width = size
    torch.manual_seed(0)
    uv = torch.rand(2, 3, 5, 2) * (torch.tensor([width, height]) - 7.0) + 3.0
    decoded = decode_heatmaps(gaussian_heatmaps(uv, height, width))
    assert (decoded - uv).abs().max() < 1e-3


def test_peak_is_one_at_a_pixel_centre_and_u_is_the_column():
    heatmap = gaussian_heatmaps(torch.tensor([[[5.0, 3.0]]]), 11, 13)[0, 0]
    assert heatmap.shape == (11, 13)
    assert heatmap[3, 5] == 1.0 and heatmap.argmax() == 3 * 13 + 5


def test_sigma_is_two_at_64_px():
    heatmap = gaussian_heatmaps(torch.tensor([[[20.0, 30.0]]]), 64, 64)[0, 0]
    torch.testing.assert_close(heatmap[30, 22], torch.tensor(-0.5).exp())  # one σ away


def test_decoding_a_map_without_a_positive_value_gives_its_maximum():
    heatmap = -torch.ones(1, 1, 7, 9)
    heatmap[0, 0, 4, 6] = -0.5
    assert decode_heatmaps(heatmap)[0, 0].tolist() == [6.0, 4.0]
