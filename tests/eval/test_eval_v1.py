"""eval_v1: the file matches its README, and its answers can be computed again.

The tests compute every computable answer a second time from the numbers and words of its prompt, by
brute force if possible. So a prompt cannot be changed without its answer.
"""

from __future__ import annotations

import json
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import combinations, cycle, groupby, islice, pairwise, permutations, product
from pathlib import Path
from typing import Literal

import pytest

from tuneloop.evaluation.sets.schema import EvalItem, parse_eval_set, problems

FOLDER = Path(__file__).parents[2] / "eval"
DATA = (FOLDER / "eval_v1.jsonl").read_bytes()
ITEMS = parse_eval_set(DATA, "eval/eval_v1.jsonl")
DIFFICULTIES: tuple[Literal["easy", "medium", "hard"], ...] = ("easy", "medium", "hard")
DIE = range(1, 7)

Numbers = list[Fraction]
Answer = int | Fraction | str


def numbers(text: str) -> Numbers:
    """Return the numbers in a text; a minus counts only directly before digits."""
    found = re.findall(r"−?\d+(?:,\d{3})*(?:\.\d+)?", text)
    return [Fraction(number.replace(",", "").replace("−", "-")) for number in found]


def written(answer: Answer) -> str:
    return answer if isinstance(answer, str) else str(answer)


def decimal(value: Fraction, places: int | None = None) -> str:
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    return str(exact) if places is None else f"{exact:.{places}f}"


def root(square: Fraction) -> int:
    whole = math.isqrt(int(square))
    assert whole * whole == square
    return whole


def share(hits: Callable[[tuple[int, ...]], bool], outcomes: list[tuple[int, ...]]) -> Fraction:
    return Fraction(sum(map(hits, outcomes)), len(outcomes))


def throws(faces: range, times: int) -> list[tuple[int, ...]]:
    return list(product(faces, repeat=times))


def divisors(number: Fraction) -> list[int]:
    return [k for k in range(1, int(number) + 1) if number % k == 0]


def is_prime(number: int) -> bool:
    return divisors(Fraction(number)) == [1, number]


def triangle_area(a: Fraction, b: Fraction, c: Fraction) -> int:
    half = (a + b + c) / 2
    return root(half * (half - a) * (half - b) * (half - c))


def shoelace(*points: tuple[Fraction | int, Fraction | int]) -> Fraction:
    pairs = zip(points, points[1:] + points[:1], strict=True)
    return abs(Fraction(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs), 2))


def clock_minutes(n: Numbers) -> int:
    start_hour, start_minute, end_hour, end_minute = map(int, n)
    start = timedelta(hours=start_hour, minutes=start_minute)
    return (timedelta(hours=end_hour, minutes=end_minute) - start) // timedelta(minutes=1)


def snail_day(n: Numbers) -> int:
    height, day = Fraction(0), 1
    while height + n[1] < n[0]:
        height += n[1] - n[2]
        day += 1
    return day


def first_negative(n: Numbers) -> int:
    return next(k for k in range(int(n[0]), -int(n[1]) - 1, -int(n[1])) if k < 0)


def read_off(n: Numbers) -> str:
    def say(term: str) -> str:
        return "".join(f"{len(list(run))}{digit}" for digit, run in groupby(term))

    terms = [written(number) for number in n]
    assert all(say(term) == after for term, after in pairwise(terms))
    return say(terms[-1])


def steady(n: Numbers, step: Callable[[Fraction], Fraction]) -> Fraction:
    assert all(step(term) == after for term, after in pairwise(n))
    return step(n[-1])


def sum_of_last_two(n: Numbers) -> Fraction:
    assert all(a + b == c for a, b, c in zip(n, n[1:], n[2:], strict=False))
    return n[-2] + n[-1]


def vehicles(n: Numbers) -> int:
    car, motorcycle, count, wheels = n
    (cars,) = (k for k in range(int(count) + 1) if k * car + (count - k) * motorcycle == wheels)
    return cars


ROMAN = dict(
    zip(
        ["M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"],
        (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1),
        strict=True,
    )
)


def to_roman(number: int) -> str:
    numeral = ""
    for sign, value in ROMAN.items():
        numeral += sign * (number // value)
        number %= value
    return numeral


def from_roman(numeral: str) -> int:
    values = [ROMAN[sign] for sign in numeral]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))


FROM_NUMBERS: dict[str, Callable[[Numbers], Answer]] = {
    # arithmetic
    "eval-001": lambda n: n[0] + n[1],
    "eval-002": lambda n: n[0] - n[1],
    "eval-003": lambda n: n[0] * n[1],
    "eval-004": lambda n: n[0] / n[1],
    "eval-005": lambda n: n[0] + n[1],
    "eval-006": lambda n: n[0] / n[1] + n[2] / n[3],
    "eval-007": lambda n: n[0] + n[1] * (n[2] - n[3]) ** 2,
    "eval-008": lambda n: n[0] / 100 * n[1],
    "eval-009": lambda n: decimal(n[0] * n[1]),
    "eval-010": lambda n: n[0] + n[1],
    "eval-011": lambda n: n[0] % n[1],
    "eval-012": lambda n: n[0] ** int(n[1]) - n[2] ** int(n[3]),
    "eval-013": lambda n: n[0] * n[1],
    "eval-014": lambda n: n[0] / n[1] - n[2] / n[3] + n[4] / n[5] - n[6] / n[7],
    "eval-015": lambda n: math.prod(n[k] + n[k + 1] / n[k + 2] for k in range(0, 12, 3)),
    "eval-016": lambda n: root(n[0] ** 2 + n[1] ** 2) + next(k for k in range(100) if k**3 == n[2]),
    # word_problem
    "eval-017": lambda n: n[0] - n[1],
    "eval-018": lambda n: n[0] * n[1],
    "eval-019": clock_minutes,
    "eval-020": lambda n: n[0] / len(["friend", "friend", "friend"]),
    "eval-021": lambda n: n[0] * n[1] + n[2],
    "eval-022": lambda n: n[1] / n[0],
    "eval-023": lambda n: n[0] * (1 - n[1] / 100) * (1 - n[2] / 100),
    "eval-024": lambda n: n[0] * n[1] + n[2] * n[3],
    "eval-025": lambda n: n[1] / n[0] * n[2],
    "eval-026": lambda n: n[1] / (n[0] - n[2]),
    "eval-027": lambda n: decimal(n[4] - n[0] * n[2] - n[1] * n[3], places=2),
    "eval-028": vehicles,
    "eval-029": lambda n: n[0] * 5 - sum(n[1:]),
    "eval-030": lambda n: 1 / (1 / n[0] + 1 / n[1]),
    "eval-031": lambda n: n[0] / (n[1] + n[2]) * max(n[1:]),
    "eval-032": lambda n: (n[0] * n[1] + n[2] * n[3]) / (n[0] + n[2]),
    "eval-033": lambda n: decimal(n[0] * (1 + n[1] / 100) ** int(n[2]), places=2),
    "eval-034": snail_day,
    # geometry
    "eval-035": lambda n: shoelace((0, 0), (n[0], 0), (n[0], n[1]), (0, n[1])),
    "eval-036": lambda n: sum([n[0]] * 4),
    "eval-037": lambda n: 180 - sum(n),
    "eval-038": lambda n: sum(
        sum(map(int.__ne__, a, b)) == 1 for a, b in combinations(product((0, 1), repeat=3), 2)
    ),
    "eval-039": lambda n: root(n[0] ** 2 + n[1] ** 2),
    "eval-040": lambda n: shoelace((0, 0), (n[0], 0), (5, n[1])),
    "eval-041": lambda n: f"{n[0] ** 2}π",
    "eval-042": lambda n: math.prod(n),
    "eval-043": lambda n: (6 - 2) * 180,
    "eval-044": lambda n: root((n[2] - n[0]) ** 2 + (n[3] - n[1]) ** 2),
    "eval-045": lambda n: next(k for k in range(3, 400) if 180 - Fraction(360, k) == n[0]),
    "eval-046": lambda n: f"{n[0] ** 2 * n[1]}π",
    "eval-047": lambda n: sum(2 * a * b for a, b in combinations(n, 2)),
    "eval-048": lambda n: triangle_area(n[0], n[1], n[2]),
    # conversion
    "eval-049": lambda n: n[0] * 1000,
    "eval-050": lambda n: timedelta(hours=int(n[0])) // timedelta(minutes=1),
    "eval-051": lambda n: decimal(n[0] / 1000),
    "eval-052": lambda n: n[0] / 100,
    "eval-053": lambda n: n[0] * 9 / 5 + 32,
    "eval-054": lambda n: n[0] * 1000 / 3600,
    "eval-055": lambda n: int(written(n[0]), 2),
    "eval-056": lambda n: f"{int(n[0]):X}",
    "eval-057": lambda n: to_roman(int(n[0])),
    "eval-059": lambda n: n[0] * 100**2,
    "eval-060": lambda n: int(written(n[0]), 8),
    "eval-061": lambda n: decimal((n[0] - 32) * 5 / 9 - n[1] + n[2]),
    "eval-062": lambda n: n[1] / 99,
    # number_theory
    "eval-063": lambda n: next(k for k in range(int(n[0]) + 1, 1000) if is_prime(k)),
    "eval-064": lambda n: len(divisors(n[0])),
    "eval-065": lambda n: max(set(divisors(n[0])) & set(divisors(n[1]))),
    "eval-066": lambda n: next(k for k in range(1, 1000) if k % n[0] == k % n[1] == 0),
    "eval-067": lambda n: "yes" if is_prime(int(n[0])) else "no",
    "eval-068": lambda n: max(set(divisors(n[0])) & set(divisors(n[1]))),
    "eval-069": lambda n: next(k for k in range(1, 10_000) if all(k % d == 0 for d in n)),
    "eval-070": lambda n: sum(is_prime(k) for k in range(int(n[0]))),
    "eval-071": lambda n: max(k for k in divisors(n[0]) if is_prime(k)),
    "eval-072": lambda n: sum(divisors(n[0])),
    "eval-073": lambda n: int(n[0]) ** int(n[1]) % 10,
    "eval-074": lambda n: int(n[0]) ** int(n[1]) % int(n[2]),
    "eval-075": lambda n: len(re.findall("0*$", str(math.factorial(int(n[0]))))[0]),
    "eval-076": lambda n: next(
        k for k in range(1, 1000) if (k % n[1], k % n[3], k % n[5]) == (n[0], n[2], n[4])
    ),
    # pattern
    "eval-077": lambda n: steady(n[1:], lambda term: term + n[0]),
    "eval-078": lambda n: steady(n, lambda term: term * 2),
    "eval-081": sum_of_last_two,
    "eval-082": lambda n: n[1] ** 2 + n[0],
    "eval-083": lambda n: list(range(int(n[0]), 1000, int(n[1] - n[0])))[int(n[3]) - 1],
    "eval-084": lambda n: sum(range(1, int(n[-1]) + 1)),
    "eval-085": first_negative,
    "eval-086": lambda n: sum(k for k in range(2 * int(n[0])) if k % 2),
    "eval-087": read_off,
    "eval-088": lambda n: n[0] / (1 - n[1] / n[2]),
    # probability
    "eval-089": lambda n: share(lambda t: t[0] > n[0], throws(DIE, 1)),
    "eval-090": lambda n: n[0] / (n[0] + n[1]),
    "eval-091": lambda n: share(all, throws(range(2), 2)),
    "eval-093": lambda n: share(lambda t: sum(t) == n[0], throws(DIE, 2)),
    "eval-094": lambda n: len(list(permutations(range(int(n[0]))))),
    "eval-095": lambda n: len(list(combinations(range(int(n[1])), int(n[0])))),
    "eval-096": lambda n: share(
        lambda t: max(t) < n[0], list(permutations(range(int(n[0] + n[1])), 2))
    ),
    "eval-097": lambda n: share(lambda t: sum(t) == 2, throws(range(2), 3)),
    "eval-098": lambda n: share(lambda t: sum(t) >= n[1], throws(range(2), int(n[0]))),
    "eval-100": lambda n: share(lambda t: len(set(t)) == 3, throws(DIE, 3)),
    # knowledge
    "eval-103": lambda n: (date(2025, 1, 1) - date(2024, 1, 1)).days,
    # formatting
    "eval-112": lambda n: " ".join(map(written, sorted(n))),
    "eval-117": lambda n: str(date(*map(int, n[1:])) + timedelta(days=int(n[0]))),
    "eval-118": lambda n: json.dumps(
        [k * k for k in range(int(n[0]), int(n[1]) + 1)], separators=(",", ":")
    ),
}


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"{pattern} is not in {text!r}"
    return match[1]


def next_letter(prompt: str) -> str:
    letters = [string.ascii_uppercase.index(letter) for letter in re.findall(r"\b[A-Z]\b", prompt)]
    (step,) = {after - before for before, after in pairwise(letters)}
    return string.ascii_uppercase[letters[-1] + step]


def nth_colour(prompt: str) -> str:
    colours = found(r"The colours (.+) repeat", prompt).split(", ")
    place = int(found(r"(\d+)th", prompt))
    return list(islice(cycle(colours), place))[-1]


def share_of_letter(prompt: str) -> Fraction:
    word, letter = found(r"\b([A-Z]{2,})\b", prompt), found(r"an ([A-Z])\?", prompt)
    return Fraction(word.count(letter), len(word))


def marked_letters(prompt: str) -> int:
    phrase = found("“(.+)”", prompt)
    return sum(unicodedata.decomposition(char) != "" for char in phrase)


FROM_TEXT: dict[str, Callable[[str], Answer]] = {
    "eval-058": lambda p: from_roman(found(r"\b([IVXLCDM]+)\b", p)),
    "eval-079": next_letter,
    "eval-080": nth_colour,
    "eval-092": share_of_letter,
    "eval-099": lambda p: len(set(permutations(found(r"\b([A-Z]{2,})\b", p)))),
    "eval-104": lambda p: unicodedata.name(found(r"letter (\w)", p)).split()[-1].lower(),
    "eval-111": lambda p: "".join(reversed(found("“(.+)”", p))),
    "eval-113": lambda p: str(datetime.strptime(found(r"(\d+ \w+ \d+)", p), "%d %B %Y").date()),
    "eval-114": lambda p: " ".join(
        sorted(re.split(", | and ", found("the words (.+) in alphabetical", p)))
    ),
    "eval-115": lambda p: re.sub(
        "[" + found(r"\((.+)\)", p).replace(", ", "") + "]", "", found("“(.+)”", p)
    ),
    "eval-116": lambda p: f"{Decimal(found(r'Write ([0-9.]+)', p)):e}",
    "eval-119": marked_letters,
    "eval-120": lambda p: "".join(reversed(found("«(.+)»", p))),
}

NOT_COMPUTABLE = {
    "eval-101": "a capital is a fact: Japan's is Tokyo",
    "eval-102": "the order of the planets is a fact: Mercury is the innermost",
    "eval-105": "an author is a fact: Miguel de Cervantes Saavedra",
    "eval-106": "a capital is a fact: Brazil's is Brasília since 1960",
    "eval-107": "a date is a fact: Apollo 11 landed on 20 July 1969",
    "eval-108": "the meaning of a word is a fact: 山 is mountain",
    "eval-109": "the name of a unit is a fact: capacitance is measured in farads",
    "eval-110": "a symbol is a fact: W is tungsten, once wolfram",
}


def by_id(item: EvalItem) -> str:
    return item.id


def test_the_set_is_valid() -> None:
    assert problems(DATA, "eval/eval_v1.jsonl") == []
    assert len(ITEMS) >= 100


def test_ids_count_up() -> None:
    assert [item.id for item in ITEMS] == [f"eval-{k:03d}" for k in range(1, len(ITEMS) + 1)]


def test_the_file_is_in_the_form_the_readme_gives() -> None:
    keys = {"id", "prompt", "expected_answer", "accepted_answers", "category", "difficulty"}
    values = [item.model_dump(mode="json", include=keys) for item in ITEMS]
    rows = [json.dumps(value, ensure_ascii=False) for value in values]
    assert DATA.decode().splitlines() == rows
    assert DATA == ("\n".join(rows) + "\n").encode()


def test_every_category_is_broad_enough() -> None:
    counts = Counter((item.category, item.difficulty) for item in ITEMS)
    categories = {item.category for item in ITEMS}
    assert len(categories) == 9
    for category in categories:
        assert sum(counts[category, level] for level in DIFFICULTIES) >= 8
        assert all(counts[category, level] >= 2 for level in DIFFICULTIES)


def test_the_readme_counts_are_the_files() -> None:
    counts = Counter((item.category, item.difficulty) for item in ITEMS)
    table = {}
    for category in dict.fromkeys(item.category for item in ITEMS):
        row = [counts[category, level] for level in DIFFICULTIES]
        table[category] = [*row, sum(row)]
    table["**all**"] = [sum(column) for column in zip(*table.values(), strict=True)]
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) ((?:\| \d+ ){4})\|$", readme, flags=re.MULTILINE)
    assert {name: [int(k) for k in re.findall(r"\d+", row)] for name, row in rows} == table
    assert f"{len(ITEMS)} short questions" in readme


def test_every_answer_is_computed_or_listed_once() -> None:
    covered = Counter([*FROM_NUMBERS, *FROM_TEXT, *NOT_COMPUTABLE])
    assert covered == Counter(item.id for item in ITEMS)
    assert {item.category for item in ITEMS if item.id in NOT_COMPUTABLE} == {"knowledge"}


@pytest.mark.parametrize("item", [i for i in ITEMS if i.id not in NOT_COMPUTABLE], ids=by_id)
def test_the_answer_comes_out_again(item: EvalItem) -> None:
    if item.id in FROM_NUMBERS:
        answer = FROM_NUMBERS[item.id](numbers(item.prompt))
    else:
        answer = FROM_TEXT[item.id](item.prompt)
    assert written(answer) == item.expected_answer


@pytest.mark.parametrize("item", [i for i in ITEMS if i.accepted_answers], ids=by_id)
def test_other_spellings_name_the_same_number(item: EvalItem) -> None:
    def number(text: str) -> Fraction | None:
        match = re.search(r"[-−]?\d[\d,]*(?:\.\d+)?", text)
        return Fraction(match[0].replace(",", "").replace("−", "-")) if match else None

    assert {number(text) for text in item.accepted_answers} == {number(item.expected_answer)}


@pytest.mark.parametrize("item", ITEMS, ids=by_id)
def test_answers_are_short_and_different(item: EvalItem) -> None:
    answers = [item.expected_answer, *item.accepted_answers]
    assert len({unicodedata.normalize("NFKC", text).casefold() for text in answers}) == len(answers)
    assert all(text == text.strip() and len(text) <= 40 for text in answers)
    assert not any(text.endswith(".") for text in answers)
