"""Grids against plain loops, and their refusals."""

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from decoding.settings.grids import MOST_SETTINGS, parse_grid
from decoding.settings.settings import DecodingSettings

checked = settings(derandomize=True, max_examples=150)


def forms(grid):
    return [str(setting) for setting in parse_grid(grid)]


def test_steps_of_a_tenth_stay_exact():
    written = ["0.5", "0.6", "0.7", "0.8", "0.9", "1", "1.1", "1.2", "1.3", "1.4", "1.5"]
    found = parse_grid("temperature=0.5:1.5:0.1")
    assert [setting.temperature for setting in found] == [float(number) for number in written]
    assert [str(setting) for setting in found] == [
        "raw" if number == "1" else f"temperature={number}" for number in written
    ]


def test_a_range_ends_at_the_last_step_within_it():
    assert [s.temperature for s in parse_grid("temperature=0.5:1:0.2")] == [0.5, 0.7, 0.9]
    assert [s.top_k for s in parse_grid("top_k=10:50:20")] == [10, 30, 50]
    assert [s.top_k for s in parse_grid("top_k=10:10:3")] == [10]


def test_the_first_field_varies_slowest():
    assert forms("top_p=0.8|0.9,temperature=0.5:0.7:0.1,top_k=5") == [
        f"temperature={t},top_k=5,top_p={p}" for p in (0.8, 0.9) for t in (0.5, 0.6, 0.7)
    ]


def test_lists_may_hold_ranges_and_spaces_do_no_harm():
    assert forms(" temperature = 0.5 : 0.7 : 0.1 | 2 , top_p = 0.9 ") == [
        f"temperature={t},top_p=0.9" for t in (0.5, 0.6, 0.7, 2)
    ]


def test_one_value_is_one_setting():
    assert parse_grid("top_p=0.9") == [DecodingSettings(top_p=0.9)]
    assert parse_grid("temperature=0") == [DecodingSettings(temperature=0)]


decimals = st.integers(1, 400).map(lambda n: Fraction(n, 100))


@checked
@given(decimals, st.integers(0, 30), decimals, st.fractions(0, Fraction(99, 100)))
def test_every_step_up_to_the_end_is_there(start, steps, step, beyond):
    """Exact fractions say which values lie in the range."""
    stop = start + step * steps + Fraction(int(beyond * step * 100), 100)
    written = ":".join(f"{float(number):.2f}" for number in (start, stop, step))
    want = [float(start + step * index) for index in range(steps + 1)]
    assert [setting.temperature for setting in parse_grid(f"temperature={written}")] == want


@checked
@given(
    st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True),
)
def test_a_grid_is_the_product_of_its_lists(temperatures, masses):
    grid = "temperature=" + "|".join(str(t / 10) for t in temperatures)
    grid += ",top_p=" + "|".join(str(p / 100) for p in masses)
    assert parse_grid(grid) == [
        DecodingSettings(temperature=t / 10, top_p=p / 100)
        for t, p in product(temperatures, masses)
    ]


@checked
@given(st.text(st.sampled_from("temperature=0.5:1,|topk_-+einfa \n"), max_size=40))
@example("0\n0=:")
@example("temperature=1\n:\n0:1")
def test_any_text_is_a_grid_or_refused_in_one_line(text):
    message = ""
    try:
        assert 1 <= len(parse_grid(text)) <= MOST_SETTINGS
    except ValueError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("", "a grid is like temperature=0.5:1.5:0.1,top_p=0.9, got ''"),
        (" ", "a grid is like"),
        ("raw", "a grid is like temperature=.*, got 'raw'"),
        ("temperature=", "a grid is like"),
        ("=0.5", "a grid is like"),
        ("temperature=0.5,", "a grid is like"),
        ("temprature=0.5:1:0.1", "unknown setting 'temprature'; did you mean 'temperature'"),
        ("top_p=0.9,top_p=0.8", "setting 'top_p' is given twice"),
        ("temperature=0.5:1.5:0", "start <= stop and step > 0 are needed"),
        ("temperature=0.5:1.5:-0.1", "start <= stop and step > 0 are needed"),
        ("temperature=1.5:0.5:0.1", "temperature=1.5:0.5:0.1 holds no value"),
        ("temperature=1:0.9:0.2", "temperature=1:0.9:0.2 holds no value"),
        ("temperature=0.5:1.5", "temperature takes start:stop:step, got '0.5:1.5'"),
        ("temperature=0.5:1.5:0.1:2", "temperature takes start:stop:step"),
        ("temperature=a:b:c", "temperature takes start:stop:step, got 'a:b:c'"),
        ("temperature=::", "temperature takes start:stop:step"),
        ("temperature=0.5:1.5:inf", "temperature takes start:stop:step"),
        ("temperature=0.5:inf:0.1", "temperature takes start:stop:step"),
        ("temperature=inf:inf:1", "temperature takes start:stop:step"),
        ("temperature=nan:1:0.1", "temperature takes start:stop:step"),
        ("temperature=0.5:1:nan", "temperature takes start:stop:step"),
        ("temperature=0.5:1:snan", "temperature takes start:stop:step"),
        ("temperature=0.5||0.7", "temperature must be a number, got ''"),
        ("temperature=nan", "temperature must be a finite number >= 0, got nan"),
        ("top_k=1:2:0.5", "top_k must be a whole number"),
        ("top_p=0.5:1.5:0.25", r"top_p must be in \(0, 1\], got 1.25"),
        ("temperature=-1:1:0.5", "temperature must be a finite number >= 0, got -1"),
    ],
)
def test_what_is_no_grid_is_refused_in_one_line(grid, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_grid(grid)
    assert len(str(caught.value).splitlines()) == 1


def test_a_thousand_settings_and_no_more():
    assert len(parse_grid("top_k=1:1000:1")) == MOST_SETTINGS == 1000
    assert len(set(parse_grid("top_k=1:100:1,temperature=1:10:1"))) == 1000
    for grid in (
        "top_k=1:1001:1",
        "top_k=1:500:1,temperature=0.5:1.5:0.5",
        "top_k=" + "|".join(map(str, range(1, 1002))),
        "temperature=0:1:1e-300",
        "temperature=0:1:1e-99999",
        "temperature=0:1e999999:1",
        "top_p=0.5,temperature=-1e999999:1:0.1",
        "top_k=1:1e999999:1e99999",
    ):
        with pytest.raises(ValueError, match="a grid holds at most 1000 settings"):
            parse_grid(grid)


def test_equal_points_stay_for_the_caller_to_refuse():
    """`compare` and its command refuse a setting given twice, wherever it comes from."""
    assert parse_grid("temperature=0.7|0.70") == [DecodingSettings(temperature=0.7)] * 2
