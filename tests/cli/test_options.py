from pathlib import Path

import pytest

import sttm
from sttm.cli.multi_value import _repeat
from sttm.cli.reduction import Reduction, Wanted, describe_method, parse_reduction
from sttm.evaluation.thresholds import Thresholds, VideoRetention
from sttm.methods import Method


def method_of(
    keep: str | None = None,
    thresholds: str | None = None,
    max_tokens: str | None = None,
    method: str | None = None,
) -> Method | None:
    wanted = Wanted(keep, thresholds, max_tokens, method)
    return parse_reduction(wanted, model="some/model").method


@pytest.mark.parametrize(
    ("text", "keep"), [("0.3", 0.3), ("30%", 0.3), (" 29 % ", 0.29), ("512", 512), ("2", 2)]
)
def test_budgets(text: str, keep: float | int) -> None:
    method = method_of(keep=text)
    assert method == sttm.STTM(keep=keep)
    assert type(getattr(method, "keep", None)) is type(keep)


@pytest.mark.parametrize("text", ["1", "1.0", "100%"])
def test_all_of_it_is_no_merging(text: str) -> None:
    assert method_of(keep=text) is None
    assert method_of(method=f"sttm:keep={text}") is None


@pytest.mark.parametrize("text", ["0.3", "30%", "512"])
def test_a_budget_means_the_same_in_a_spec(text: str) -> None:
    assert method_of(method=f"sttm:keep={text}") == method_of(keep=text)
    assert method_of(method=f"sttm:max_tokens={text}") == method_of(max_tokens=text)


@pytest.mark.parametrize("text", ["0", "lots", "101%", "true"])
def test_bad_budgets_in_a_spec(text: str) -> None:
    with pytest.raises(sttm.ConfigError, match="keep: got"):
        method_of(method=f"sttm:keep={text}")


@pytest.mark.parametrize("text", ["", "x", "0", "0%", "-3", "1.5", "101%", "nan", "inf", "0.3/0.2"])
def test_bad_budgets(text: str) -> None:
    with pytest.raises(sttm.ConfigError, match="keep"):
        method_of(keep=text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.85/0.65", (0.85, 0.65)),
        (" 0.9 / none ", (0.9, None)),
        ("None/0.6", (None, 0.6)),
    ],
)
def test_thresholds(text: str | None, wanted: tuple[float | None, float | None]) -> None:
    spatial, temporal = wanted
    assert method_of(thresholds=text) == sttm.STTM(
        spatial_threshold=spatial, temporal_threshold=temporal
    )


@pytest.mark.parametrize("text", ["none", "none/none"])
def test_two_steps_off_is_no_merging(text: str) -> None:
    assert method_of(thresholds=text) is None


@pytest.mark.parametrize("text", ["", "0.8", "0.8/0.6/0.4", "a/b", "2/0.5", "0.8/nan"])
def test_bad_thresholds(text: str) -> None:
    with pytest.raises(sttm.ConfigError, match="threshold"):
        method_of(thresholds=text)


def test_contradictions() -> None:
    with pytest.raises(sttm.ConfigError, match="--keep and --thresholds"):
        method_of("0.3", "0.8/0.6")
    with pytest.raises(sttm.ConfigError, match="--keep and --max-tokens"):
        method_of("0.3", max_tokens="100")
    for keep in (".5", "1"):
        with pytest.raises(
            sttm.ConfigError, match=r"got keep in --method sttm:keep=\.3 and --keep"
        ):
            method_of(keep, method="sttm:keep=.3")
    with pytest.raises(sttm.ConfigError, match=r"got max_tokens in --method .* and --max-tokens"):
        method_of(max_tokens="9", method="sttm:max_tokens=8")
    with pytest.raises(sttm.ConfigError, match=r"spatial_threshold in --method .* --thresholds"):
        method_of(thresholds="0.8/0.6", method="sttm:spatial_threshold=0.7")
    with pytest.raises(sttm.ConfigError, match="--full and --keep"):
        parse_reduction(Wanted("0.3", full=True), model=None)
    with pytest.raises(sttm.ConfigError, match="only sttm has thresholds"):
        method_of(thresholds="0.8/0.6", method="random")


def test_full_and_layer() -> None:
    assert parse_reduction(Wanted(full=True), model=None, layer=3) == Reduction(None, 3)


def test_other_models_have_the_published_thresholds_by_default() -> None:
    assert method_of() == sttm.STTM()
    assert describe_method(method_of()) == "sttm, thresholds 0.80/0.60"


def test_nano_has_a_budget_by_default() -> None:
    assert parse_reduction(Wanted(), model=None).method == sttm.STTM(keep=0.3)
    assert parse_reduction(Wanted(max_tokens="90"), model=None).method == sttm.STTM(max_tokens=90)


def test_a_cap_on_thresholds() -> None:
    wanted = sttm.STTM(spatial_threshold=0.9, temporal_threshold=0.7, max_tokens=0.5)
    assert method_of(thresholds="0.9/0.7", max_tokens="50%") == wanted
    with pytest.raises(sttm.ConfigError, match="--max-tokens: got 'many'"):
        method_of(max_tokens="many")


def test_other_methods() -> None:
    assert method_of("0.3", method="random") == sttm.get_method("random", keep=0.3)
    assert method_of("9", method="random:seed=5") == sttm.get_method("random", keep=9, seed=5)
    assert method_of("1", method="random") is None
    assert method_of(method="identity") == sttm.get_method("identity")
    wanted = sttm.STTM(keep=0.3, parent="top_left")
    assert method_of("0.3", method="sttm:parent=top_left") == wanted
    with pytest.raises(sttm.ConfigError, match="--method random without --keep"):
        method_of(method="random")
    with pytest.raises(sttm.ConfigError, match="Did you mean 'random'"):
        method_of("0.3", method="randm")


def test_thresholds_of_a_calibration(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    video = VideoRetention("a.mp4", 8, 512, 153, 0.299)
    made = Thresholds("a/model", 2, 0.85, 0.65, 0.2, 0.3, 0.299, (video,))
    made.write(path, {})
    found = parse_reduction(Wanted(thresholds=str(path)), model="a/model")
    assert found.method == sttm.STTM(spatial_threshold=0.85, temporal_threshold=0.65)
    assert found.misfit("a/model", 2) == ""
    assert "calibrated for a/model, layer 2" in found.misfit("a/model", 0)
    assert "used with b/model" in found.misfit("b/model", 2)
    with pytest.raises(sttm.ConfigError, match="cannot be read"):
        method_of(thresholds=str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("--keep 1 .5 --json", "--keep 1 --keep .5 --json"),
        ("--keep 1 --keep .5", "--keep 1 --keep .5"),
        ("--keep=1 --out a", "--keep=1 --out a"),
        ("--out a b", "--out a b"),
        ("--keep -1 2", "--keep -1 --keep 2"),
    ],
)
def test_values_in_a_row(given: str, parsed: str) -> None:
    assert list(_repeat(given.split(), {"--keep"})) == parsed.split()


def test_descriptions() -> None:
    assert describe_method(None) == "all tokens"
    assert describe_method(method_of()) == "sttm, thresholds 0.80/0.60"
    assert describe_method(method_of(thresholds="0.9/none")) == "sttm, thresholds 0.90/none"
    assert describe_method(method_of(thresholds="0.925/0.7")) == "sttm, thresholds 0.925/0.70"
    assert describe_method(method_of(max_tokens="64")) == "sttm, thresholds 0.80/0.60, at most 64"
    assert describe_method(method_of(keep="30%")) == "sttm, keep 0.3"
    by_distortion = "sttm:criterion=distortion"
    assert describe_method(method_of(method=by_distortion, keep="30%")) == (
        "sttm by distortion, keep 0.3"
    )
    limit = f"{by_distortion},max_distortion=0.1"
    assert describe_method(method_of(method=limit, max_tokens="64")) == (
        "sttm by distortion, losing 0.1 at most, at most 64"
    )
    assert describe_method(sttm.get_method("identity")) == "identity"
