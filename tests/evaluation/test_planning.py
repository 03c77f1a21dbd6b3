from __future__ import annotations

import json

import pytest

from tests.builders import Invoke


def test_a_plan_says_how_many_items_a_gain_needs(tuneloop: Invoke) -> None:
    code, out, _ = tuneloop("eval-sets", "power", "--gain", "0.05", "--base", "0.4")
    assert code == 0
    assert out.splitlines()[0] == (
        "805 items find a gain of 5 points with a probability of 80 %, if the models differ on"
        " 24.6 % of the items"
    )
    assert len(out.splitlines()) == 4
    code, out, _ = tuneloop("eval-sets", "power", "--gain", "0.05", "--base", "0.4", "--json")
    found = json.loads(out)
    assert (found["items"], found["gain"], found["power"]) == (805, 0.05, 0.8)
    assert [case["correlation"] for case in found["cases"]] == [0.3, 0.5, 0.7]
    assert found["cases"][0]["items"] > 805 > found["cases"][2]["items"]


def test_a_plan_says_which_gain_items_find(tuneloop: Invoke) -> None:
    asked = ("--items", "805", "--discordance", "0.246", "--power", "0.8")
    code, out, _ = tuneloop("eval-sets", "power", *asked)
    assert (code, out.count("\n")) == (0, 1)
    assert out.startswith("805 items find a gain of 4.99 points or more with a probability of 80 %")
    code, out, _ = tuneloop("eval-sets", "power", "--items", "4", "--json")
    assert (code, json.loads(out)["gain"]) == (0, None)
    code, out, _ = tuneloop("eval-sets", "power", "--items", "4")
    assert (code, "4 items find no gain" in out) == (0, True)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((), "expected one of --gain and --items"),
        (("--gain", "0.1", "--items", "5"), "expected one of --gain and --items"),
        (("--gain", "0.7"), "expected more than 0 and at most 0.5"),
        (("--gain", "0"), "expected more than 0"),
        (("--gain", "0.2", "--discordance", "0.1"), "expected at least --gain"),
        (("--items", "99999999"), "expected at most 10000000"),
        (("--gain", "nan"), "less than or equal to 1"),
        (("--items", "0"), "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_is_refused(asked: tuple[str, ...], said: str, tuneloop: Invoke) -> None:
    code, out, err = tuneloop("eval-sets", "power", *asked)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize("base", ["0", "0.95", "1"])
def test_extreme_bases_have_a_plan(base: str, tuneloop: Invoke) -> None:
    assert tuneloop("eval-sets", "power", "--items", "500", "--base", base)[0] == 0
    gain = "0.05"
    code, out, err = tuneloop("eval-sets", "power", "--gain", gain, "--base", base)
    assert code == (2 if base == "1" else 0), out + err
