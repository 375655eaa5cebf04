from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch

from deepssm import report


def test_frames_stand_beside_each_other_and_gaps_are_tinted() -> None:
    """Pixel `(row, column)` of frame `k` is at `(row, 3 k + column)` of its film's strip."""
    film = torch.rand(5, 6, dtype=torch.float64)
    gappy = film.clone()
    gappy[1], gappy[3, 4] = float("nan"), float("nan")
    batch = torch.stack([film + 7, film]), torch.stack([gappy, gappy])
    figure = report.plot_frames({"truth": batch[0], "read": batch[1]}, 2, 3, series=1)
    truth, read = (np.ma.asarray(axes.images[0].get_array()) for axes in figure.axes)
    assert truth.shape == (2, 15)
    assert float(truth[1, 3 * 4 + 2]) == float(film[4, 1 * 3 + 2])
    mask = np.ma.getmaskarray(read)
    assert mask.sum() == 7 and mask[1, 3 * 3 + 1]
    assert [axes.get_title("left") for axes in figure.axes] == ["truth", "read"]
    assert figure.axes[0].images[0].get_clim() == figure.axes[1].images[0].get_clim()
    figure.savefig(buffer := BytesIO(), format="svg")
    assert buffer.tell() > 1000


def test_long_films_are_thinned_out() -> None:
    figure = report.plot_frames({"a": torch.rand(31, 4)}, 2, 2, most=4)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        "1", "11", "21", "31",
    ]  # fmt: skip


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"= \(5, 4\), got \(5, 6\) for 'b'. Check `height`"):
        report.plot_frames({"a": torch.rand(5, 4), "b": torch.rand(5, 6)}, 2, 2)
