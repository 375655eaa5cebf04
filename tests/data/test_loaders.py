from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from scipy.io import savemat

from deepssm import data
from deepssm.data.download import data_folders, download, find

SHARED = Path(os.environ.get("DEEPSSM_DATA") or Path(__file__).parents[3] / "shared" / "data")


def _shared(subfolder: str) -> Path:
    folder = SHARED / subfolder
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine; set $DEEPSSM_DATA to the data folder")
    return folder


def _krichevsky_trofimov(ones: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    return (ones + 0.5) / (total + 1)


def test_jsb_chorales_has_the_published_sizes() -> None:
    splits = data.polyphonic("JSB_Chorales", _shared("polyphonic"))
    assert [len(split) for split in splits] == [229, 76, 77]
    assert [sum(map(len, split)) for split in splits] == [13807, 4602, 4725]
    assert [max(map(len, split)) for split in splits] == [129, 144, 160]
    assert splits.train[0].dtype == torch.uint8 and splits.train[0].shape[1] == 88


@pytest.mark.parametrize(("split", "expected"), [("test", 11.060154), ("valid", 10.950530)])
def test_jsb_likelihood_of_independent_keys(split: str, expected: float) -> None:
    """Deep.md case 6: each key an independent coin, its bias estimated on the training set."""
    splits = data.polyphonic("JSB_Chorales", _shared("polyphonic"))
    train = torch.cat(splits.train).double()
    p = _krichevsky_trofimov(train.sum(0), torch.full((88,), float(len(train))).double())
    rolls = torch.cat(getattr(splits, split)).double()
    loss = -(rolls * p.log() + (1 - rolls) * (1 - p).log()).sum(-1).mean()
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("split", "expected"), [("test", 10.469349), ("valid", 10.127818)])
def test_jsb_likelihood_of_one_markov_chain_a_key(split: str, expected: float) -> None:
    """Deep.md case 6: each key a two-state chain; the first step of a piece uses the marginal."""
    splits = data.polyphonic("JSB_Chorales", _shared("polyphonic"))
    train = torch.cat(splits.train).double()
    p = _krichevsky_trofimov(train.sum(0), torch.full((88,), float(len(train))).double())
    before = torch.cat([roll[:-1] for roll in splits.train]).double()
    after = torch.cat([roll[1:] for roll in splits.train]).double()
    stay = _krichevsky_trofimov((before * after).sum(0), before.sum(0))
    enter = _krichevsky_trofimov(((1 - before) * after).sum(0), (1 - before).sum(0))
    loss = torch.zeros((), dtype=torch.float64)
    for roll in getattr(splits, split):
        y = roll.double()
        chance = torch.cat([p[None], torch.where(roll[:-1] > 0, stay, enter)])
        loss -= (y * chance.log() + (1 - y) * (1 - chance).log()).sum()
    steps = sum(map(len, getattr(splits, split)))
    assert loss.item() / steps == pytest.approx(expected, abs=1e-6)


def test_padding_is_missing_data() -> None:
    pieces = [torch.ones(2, 3, dtype=torch.uint8), torch.zeros(4, 3, dtype=torch.uint8)]
    y, lengths = data.pad(pieces, torch.float64)
    assert y.shape == (2, 4, 3) and y.dtype == torch.float64 and lengths.tolist() == [2, 4]
    assert y[0, 2:].isnan().all() and not y[0, :2].isnan().any() and not y[1].isnan().any()


def test_polyphonic_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`name` must be one of JSB_Chorales, .*got 'Bach'"):
        data.polyphonic("Bach")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="must be Nottingham.mat or a folder"):
        data.polyphonic("Nottingham", tmp_path)
    savemat(tmp_path / "Nottingham.mat", {"other": [1.0]})
    with pytest.raises(ValueError, match="arrays traindata, validdata, testdata, got.*other"):
        data.polyphonic("Nottingham", tmp_path)


def test_a_file_is_found_in_the_named_folder_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSSM_DATA", str(tmp_path / "named"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = data_folders("sub")
    assert find("a.bin", folders) is None
    for folder in ("cache/deepssm/sub", "named"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.bin").touch()
    assert find("a.bin", folders) == tmp_path / "named" / "a.bin"
    monkeypatch.delenv("DEEPSSM_DATA")
    assert find("a.bin", data_folders("sub")) == tmp_path / "cache/deepssm/sub/a.bin"


def test_a_download_is_kept_only_with_the_right_checksum(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "cache" / "kept"
    source.write_bytes(b"piano rolls")
    with pytest.raises(ValueError, match="Nothing was kept"):
        download(source.as_uri(), "0" * 64, target)
    assert not target.exists()
    digest = sha256(b"piano rolls").hexdigest()
    assert download(source.as_uri(), digest, target).read_bytes() == b"piano rolls"
    assert list(target.parent.iterdir()) == [target]


def test_no_network_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="pass that folder as `path`"):
        download((tmp_path / "nowhere").as_uri(), "0" * 64, tmp_path / "kept")


def test_beijing_stations_share_one_weekly_index() -> None:
    folder = _shared("beijing_air_quality")
    every = data.beijing_air_quality(folder)
    assert every.shape == (210, 12 * 11) and every.index.freqstr == "W-MON"  # type: ignore[attr-defined]
    one = data.beijing_air_quality(folder, "Changping")
    assert list(one.columns[:3]) == ["PM2p5", "PM10", "SO2"]
    assert one.loc["2013-02-25", "NO2"] == pytest.approx(every["Changping"]["NO2"].iloc[0])
    assert int(every.isna().sum().sum()) == 50
    with pytest.raises(ValueError, match="`station` must be one of Aotizhongxin"):
        data.beijing_air_quality(folder, "Paris")


def test_beijing_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="UCI data set 501"):
        data.beijing_air_quality(tmp_path)
