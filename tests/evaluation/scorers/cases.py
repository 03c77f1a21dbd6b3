"""Cases of scorers, each decided by hand: what is right for a strict evaluator, and why.

`Case.right` and `Case.wrong` hold answers as the model writes them after `Answer: `.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One expected answer with answers that are right and answers that are wrong."""

    scorer: str | dict[str, Any]
    expected: str
    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    prompt: str = "?"
    keys: dict[str, Any] = field(default_factory=dict)
    """Other keys of the item."""


EXACT = (
    Case(
        "exact",
        "Paris",
        # Spelling and decoration: case, spaces, full stops and quotes in any order, bold, boxes.
        right=(
            "Paris", "PARIS", "  paris ", "Paris.", '"Paris"', '"Paris."', '"Paris".', "“Paris.”",
            "‘Paris’.", "«Paris»", "„Paris“", "**Paris**", "**Paris**.", "`Paris`", r"\boxed{Paris}",
            r"\text{Paris}", r"$\text{Paris}$", "Ｐａｒｉｓ", "𝐏𝐚𝐫𝐢𝐬", "Pa\u200bris", "\u200eParis\u200f",
            "Pa\u00adris", "\ufeffParis", "Paris<|im_end|>", "<bos>Paris<eos>", "Paris</s>", "Paris。",
        ),
        # Other words, letters of other scripts, and text beside the answer.
        wrong=(
            "Rome", "Paris, France", "Paris or Rome", "Pari", "Pariss", "Parіs", "Paris!", "Par is",
            "not Paris", "Paris?", "(Paris)", "Paris¹",
        ),
    ),
    Case("exact", "25", right=("25", "25.", "$25$", "２５", "٢٥", "२५"), wrong=("2⁵", "2₅", "52", "25%")),
    Case("exact", "2^5", right=("2⁵", "2^5"), wrong=("25", "2*5", "2₅", "2^ 5")),
    Case("exact", "x2", right=("x2", "X2", "x₂"), wrong=("x²", "x^2", "x_2", "x 2")),
    Case("exact", "x²", right=("x²", "x^2"), wrong=("x2", "x₂", "2x", "x³")),
    Case("exact", "1/2", right=("½", "1/2", "1⁄2"), wrong=("0.5", "12", "1/ 2", "2/1")),
    Case("exact", "3 1/2", right=("3½", "3 ½", "3 1/2"), wrong=("31/2", "3.5", "3/12")),
    Case("exact", "1", right=("①", "1", "1.", "⓵", "❶"), wrong=("1①", "①1", "⑴", "¹", "₁", "2")),
    Case("exact", "H2O", right=("H₂O", "H2O", "h2o"), wrong=("H²O", "HO2", "H2 O", "H_2O")),
    Case("exact", "101_2", right=("101₂",), wrong=("1012", "101²", "101")),
    Case("exact", "10^-3", right=("10⁻³", "10^-3", "10^−3"), wrong=("10-3", "10^3", "0.001")),
    Case("exact", "m^2", right=("㎡", "m²", "m^2"), wrong=("m2", "m")),
    Case("exact", "ℝ", right=("ℝ",), wrong=("R", "ℚ", "𝐑")),
    Case("exact", "-5", right=("-5", "−5", "–5", "‑5", "－5", "-5."), wrong=("5", "+5", "- 5", "—5")),
    Case(
        "exact",
        "1234",
        # Thousands: well-formed groups, also with spaces that cannot be broken.
        right=("1,234", "1234", "1\u00a0234", "1\u202f234", "1\u2009234", "１，２３４", "1,234."),
        wrong=("1.234", "12,34", "1 234", "1,2345", "123,4", "[1,234]", "1234.0", "0,1234"),
    ),
    Case("exact", "[1,234]", right=("[1,234]",), wrong=("[1234]", "1,234", "[1,2,34]")),
    Case("exact", "12,345,678.5", right=("12345678.5", "12,345,678.5"), wrong=("12.345.678,5",)),
    Case("exact", "5!", right=("5!", "5!."), wrong=("5", "120", "5")),
    Case("exact", "Straße", right=("STRASSE", "straße", "Strasse"), wrong=("Strase", "Straβe")),
    Case("exact", "café", right=("cafe\u0301", "CAFÉ", "café."), wrong=("cafe", "cafè")),
    Case("exact", "don't", right=("don't", "don’t", "DON'T"), wrong=("dont", "don t")),
    Case("exact", "five", right=("ﬁve", "Five"), wrong=("5", "fife")),
    Case("exact", "👨\u200d👩\u200d👧", right=("👨\u200d👩\u200d👧",), wrong=("👨👩👧", "👨", "👨\u200d👩\u200d👦")),
    Case("exact", "❤️", right=("❤️", "❤"), wrong=("💔", "<3")),
    Case("exact", "می\u200cخواهم", right=("می\u200cخواهم",), wrong=("میخواهم", "می خواهم")),
    Case("exact", "שלום", right=("שלום", "\u200fשלום\u200f"), wrong=("םולש",)),
    Case("exact", "<end_of_turn>", right=("<end_of_turn>", "`<end_of_turn>`"), wrong=("end_of_turn",)),
    Case("exact", "__init__", right=("__init__", "`__init__`"), wrong=("init", "_init_")),
    Case("exact", "IV", right=("Ⅳ", "IV", "iv"), wrong=("VI", "4", "IIII")),
    Case("exact", "M", right=("M", "M."), wrong=("m", "N"), keys={"case_sensitive": True}),
    Case({"kind": "exact", "case_sensitive": True}, "Mg", right=("Mg",), wrong=("mg", "MG")),
    Case("exact", "29", right=("$29", "29"), wrong=("€29", "29 or 30"), accepted=("$29",)),
    Case("exact", "e.g.", right=("e.g.", "e.g"), wrong=("eg", "i.e.")),
    Case("exact", "3.14", right=("3.14", "3.14."), wrong=("3.140", "314", "3,14")),
    Case("exact", "\ud800", right=("\ud800",), wrong=("\udfff", "x")),
)  # fmt: skip

NUMERIC = (
    Case(
        "numeric",
        "5",
        right=(
            "5", "5.0", "5.000", "+5", "05", "5.", "**5**", "$5$", r"\boxed{5}", "x = 5", "= 5",
            "2 + 3 = 5", "5 apples", "about 5", "≈ 5", "~5", "The answer is 5.", "5 (five)", "5th",
            "５", "٥", "⁵⁄₁", "10/2", "500%", "$5.00", "5 €", "5km", "5 km", "0.5e1", "5e0", "⑤",
            "5\u200b", "\u200f5\u200e", "5 = 10/2",
        ),
        wrong=(
            "-5", "5%", "5x", "x5", "5 or 6", "4-5", "4 to 5", "> 5", "≥ 5", "less than 5", "not 5",
            "at least 5", "±5", "√5", "sqrt(5)", "f(5)", "log 5", "5!", "5^2", "5²", "1:05", "5:00",
            "0,005", "5,0", "5_", "2π", "five", "", "banana", "15", "5.5", "5.0000000000000000001",
            "1/5", "5/0", "5 1/2", r"5\pi", "5+", "50", "5e1", "5e99999", "5 million", "¹⁄₅", "5 + 1",
        ),
    ),
    Case("numeric", "25", right=("25", "5²", "5^2", "5**2", "100/4"), wrong=("2⁵", "2₅", "5₂", "52")),
    Case("numeric", "32", right=("2⁵", "2^5", "2^{5}", "32"), wrong=("25", "2*5", "5²")),
    Case(
        "numeric",
        "1234567",
        right=(
            "1,234,567", "1 234 567", "1\u202f234\u202f567", "1\u00a0234\u00a0567", "1'234'567",
            "1_234_567", "12,34,567", "1234567.0", "１，２３４，５６７", r"1{,}234{,}567", "1.234567e6",
            "1.234567 × 10^6", r"1.234567 \times 10^{6}", "1.234567 million", "۱٬۲۳۴٬۵۶۷",
        ),
        wrong=("1.234.567", "1,23,4567", "1,234,56", "1;234;567", "1,234 567", "1234,567", "123,4567"),
    ),
    Case(
        "numeric",
        "0.5",
        right=("1/2", "½", "50%", "0.50", ".5", "5e-1", r"\frac{1}{2}", r"\frac12", "٠٫٥", "1/2 (0.5)",
               "50 percent", "0.5 = 1/2", "2/4", r"50\%", "500e-3", "5 × 10⁻¹"),
        wrong=("0,5", "5", "1/3", "-0.5", "50", "0.05", "0.5%", "1.2", "1/2 or 1/3"),
    ),
    Case("numeric", "3.5", right=("3½", "3 1/2", r"3\frac{1}{2}", r"3\frac12", "7/2", "3 + 1/2"),
         wrong=("31/2", "3/2", "3,5", "3 1 2", "3 and a half")),
    Case("numeric", "-5", right=("-5", "−5", "–5", "-$5", "$-5", "-5.0", "x = -5"),
         wrong=("5", "--5", "3-5", "—5")),
    Case("numeric", "10", right=("1e1", "1E+1", "10^1", "10", "1×10^1", "ten (10)"), wrong=("1e", "1e-1")),
    Case("numeric", "1000", right=("10³", "10^3", "1e3", "1 thousand", "1,000"), wrong=("103", "1.000")),
    Case("numeric", "0.3", right=("0.3", "3/10", "30%"), wrong=("0.30000000000000004",)),
    Case("numeric", "0", right=("0", "-0", "0.0", "0%"), wrong=("", "none", "0^0", "o")),
    # Tolerances include their limits, which floats would miss.
    Case({"kind": "numeric", "tolerance": 0.1}, "1", right=("1.1", "0.9", "1.05"), wrong=("1.11", "0.89")),
    Case({"kind": "numeric", "tolerance": 0.01}, "3.14", right=("3.14159", "3.13", "3.15"),
         wrong=("3.1", "3.151", "22/7.1")),
    Case({"kind": "numeric", "relative_tolerance": 0.01}, "200", right=("202", "198", "201.9"),
         wrong=("202.1", "197.9", "-200")),
    # Percent: a missing sign counts as stated by the item; a ratio is the same value.
    Case("numeric", "50%", right=("50%", "50", "0.5", "1/2", "50 percent"), wrong=("5%", "0.5%", "500")),
    Case({"kind": "numeric", "unit": "%"}, "12.5", right=("12.5", "12.5%", "0.125", "1/8"), wrong=("125",)),
    Case({"kind": "numeric", "unit": "%", "unit_required": True}, "12.5", right=("12.5%", "0.125"),
         wrong=("12.5", "125%")),
    # Currency.
    Case("numeric", "$29", right=("$29.00", "29", "29 dollars", "US$29", "USD 29", "29 USD", "2900 cents",
                                  "$29"), wrong=("€29", "29 EUR", "£29", "29 cents", "$29k")),
    Case("numeric", "€1,250.50", right=("1250.5", "1,250.50 €", "EUR 1250.50", "1250.50 euros"),
         wrong=("$1250.50", "1.250,50 €")),
    Case({"kind": "numeric", "unit": "EUR", "unit_required": True}, "5", right=("€5", "5 euros", "500 cents"),
         wrong=("5", "$5", "5 kg")),
    Case("numeric", "$0.75", right=("75 cents", "75¢", "$.75", "3/4"), wrong=("75", "$75", "7.5 cents")),
    Case("numeric", "$5 million", right=("$5M", "$5,000,000", "5 million dollars", "$5 million"),
         wrong=("$5", "$5k", "$5B")),
    # Units: answers in other units of the dimension are converted exactly.
    Case({"kind": "numeric", "unit": "km"}, "5",
         right=("5 km", "5", "5000 m", "5000 meters", "5km", "500000 cm", r"5\,\text{km}", "5 kilometers"),
         wrong=("5 miles", "5 m", "5 kg", "5 seconds", "$5", "5 km^2", "50 km")),
    Case("numeric", "36 km/h", right=("10 m/s", "36 kph", "36 kilometers per hour", "36"),
         wrong=("36 m/s", "36 mph", "36 km", "10")),
    Case({"kind": "numeric", "unit": "mile", "unit_required": True}, "1",
         right=("1 mile", "1.609344 km", "5280 ft", "1760 yards", "63360 inches"),
         wrong=("1", "1.6 km", "1 km", "1 nautical mile")),
    Case({"kind": "numeric", "unit": "°C"}, "20", right=("20 °C", "20°C", "68 °F", "293.15 K", "20",
         "20 degrees Celsius", "20 ℃"), wrong=("20 °F", "20 K", "68")),
    Case({"kind": "numeric", "unit": "m^2"}, "2", right=("2 m²", "2 m^2", "20000 cm²", "2 square meters",
         "2 ㎡"), wrong=("2 m", "2 m³", "200 cm²")),
    Case({"kind": "numeric", "unit": "L"}, "1.5", right=("1.5 L", "1500 mL", "1.5 liters", "1500 cm³", "1½ L"),
         wrong=("1500 L", "1.5 mL", "1.5 kg")),
    Case({"kind": "numeric", "unit": "N*m"}, "3", right=("3 N·m", "3 J", "3"), wrong=("3 N", "3 N/m")),
    Case({"kind": "numeric", "unit": "hour"}, "1.5", right=("90 minutes", "1.5 h", "5400 s", "1.5 hrs"),
         wrong=("90", "90 s", "1.5 min")),
    Case({"kind": "numeric", "unit": "µm"}, "2", right=("2 µm", "2 μm", "0.002 mm", "2000 nm"), wrong=("2 mm",)),
    Case({"kind": "numeric", "unit": "degree"}, "90", right=("90°", "90 degrees", r"90^\circ", "90"),
         wrong=("90 rad", "90 °C")),
    # Locales, which the item states.
    Case({"kind": "numeric", "locale": "de_DE"}, "1.234,5",
         right=("1.234,5", "1234,5", "1.234,50", "1,2345e3", "1.234,5 €"),
         wrong=("1,234.5", "1234.5", "1.2345", "12.345", "1.23.4,5")),
    Case({"kind": "numeric", "locale": "de"}, "1.500", right=("1500", "1.500", "1.500,0"), wrong=("1,5", "1,500")),
    Case({"kind": "numeric", "locale": "fr"}, "1 234,5",
         right=("1 234,5", "1\u202f234,5", "1\u00a0234,5", "1234,5"), wrong=("1.234,5", "1,234.5", "12345")),
    Case({"kind": "numeric", "locale": "de_CH"}, "1'234.5", right=("1’234.5", "1'234.5", "1234.5"),
         wrong=("1.234,5", "1,234.5")),
    Case({"kind": "numeric", "locale": "en_IN"}, "12,34,567", right=("12,34,567", "1234567"), wrong=("1,23,456",)),
    Case("numeric", "12345678901234567890", right=("12345678901234567890", "12,345,678,901,234,567,890"),
         wrong=("12345678901234567891", "1.2345678901234568e19")),
    Case("numeric", "1e-300", right=("1e-300", "10^-300"), wrong=("0", "1e-301")),
    Case("numeric", "42", right=("42", "forty-two (42)"), wrong=("4 2", "42nd street, number 7"),
         accepted=("43",)),
    Case("numeric", "0", right=("0", "none", "None."), wrong=("nothing", "1"), accepted=("none",)),
    Case("numeric", "7", right=("7", "8"), wrong=("9", "7 or 8"), accepted=("8",)),
)  # fmt: skip

CAPITALS = "What is the capital of Italy?\nA) Paris\nB) Rome\nC) Bern\nD) None of these"
NUMBERED = "Which is prime?\n1. four\n2. six\n3. seven"

CHOICE = (
    Case(
        "choice",
        "B",
        right=(
            "B", "(B)", "B)", "B.", "[B]", "b", "B: Rome", "B) Rome", "(B) Rome", "B. Rome.", "Rome",
            "rome.", '"Rome"', "**B**", "**B) Rome**", "Option B", "The answer is B", "Choice (B)",
            r"\boxed{B}", r"\text{(B)}", "Ｂ", "Ⓑ", "B - Rome", "B, because Rome is the capital",
            "the correct answer is B",
        ),
        wrong=(
            "A", "C", "E", "Paris", "B) Paris", "B: Bern", "A or B", "B or C", "A and B", "A, B", "B/C",
            "Bern", "None of these", "A dog", "Rome or Paris", "I don't know", "В", "3", "Be", "AB",
            "Romeo",
        ),
        prompt=CAPITALS,
    ),
    Case("choice", "Rome", right=("B", "Rome", "(b)"), wrong=("A", "Paris"), prompt=CAPITALS),
    Case("choice", "3", right=("3", "③", "3.", "(3)", "seven", "3) seven"), wrong=("1", "4", "30", "four"),
         prompt=NUMBERED),
    Case({"kind": "choice", "choices": ["yes", "no", "it depends"]}, "C",
         right=("C", "it depends", "It depends.", "(C)"), wrong=("yes", "A", "depends", "D")),
    Case({"kind": "choice", "choices": {"X": "left", "Y": "right"}}, "Y", right=("Y", "right"),
         wrong=("X", "left", "A")),
    Case("choice", "C", right=("C", "(C)", "c."), wrong=("D", "A", "cat")),
)  # fmt: skip

MATH = (
    Case("math", "B", right=("B", "B."), wrong=("C", "A")),  # math-verify parses no letter
    Case("math", "-5", right=("−5", "-5", "–5"), wrong=("5",)),
    Case("math", "10", right=("1e1", "10.0", "20/2"), wrong=("1e2", "1")),
    Case("math", "25", right=("5²", "5^2", r"\boxed{25}"), wrong=("2⁵", "52")),
    Case("math", "x^2-1", right=("(x-1)(x+1)", "x² - 1", r"x^{2}-1"), wrong=("x2-1", "x^2+1")),
    Case("math", r"\frac{1}{2}", right=("0.5", "½", r"\dfrac{2}{4}", "50%"), wrong=("2", "0.05")),
    Case("math", r"2\sqrt{2}", right=(r"\sqrt{8}", "2√2"), wrong=("2.83", r"\sqrt{2}")),
    Case("math", r"\{1,2\}", right=(r"\{2,1\}",), wrong=(r"\{1,3\}",)),
    Case("math", "(1,2)", right=("(1, 2)",), wrong=("(2,1)",)),
    Case("math", r"2\pi", right=("2π",), wrong=("6.28", r"\pi")),
    Case("math", "1,234", right=("1234", "1\u202f234"), wrong=("1.234",)),
)

CONTAINS = (
    Case(
        "contains",
        "Paris",
        right=("It is Paris.", "PARIS", "“Paris”, of course", "Paris or Rome", "Pa\u200bris it is"),
        wrong=("Parisian", "It is Rome", "P a r i s"),
    ),
    Case(
        "contains",
        "5",
        right=("2 + 3 = 5", "It is 5.", "5, I think", "(5)", "５"),
        wrong=("15", "3.5", "5.2", "-5", "x5", "2⁵", "5²", "1/5", "5/2", "51", "5,000"),
    ),
    Case("contains", "9", right=("nine planets",), wrong=("ninety",), accepted=("nine",)),
    Case("contains", "C++", right=("Use C++ here", "c++"), wrong=("C", "C+")),
    Case(
        "contains", "1234", right=("There are 1,234 of them",), wrong=("There are 1.234 of them",)
    ),
)

PATTERNS = (
    Case({"kind": "regex", "pattern": r"^\d{4}$"}, "x", right=("2024",), wrong=("20245", "x2024")),
    Case({"kind": "regex", "pattern": "colou?r", "ignore_case": True}, "x",
         right=("the Color", "colour"), wrong=("colr",)),
    Case({"kind": "regex", "pattern": r"\p{Lu}+", "match": "full"}, "x", right=("ÄÖ",), wrong=("Äb",)),
    Case({"kind": "regex", "pattern": r"is (?P<answer>\w+)"}, "Rome",
         right=("it is Rome", "it is rome"), wrong=("it is Paris", "Rome")),
)  # fmt: skip

_POINT = {
    "type": "object",
    "required": ["x"],
    "properties": {"x": {"type": "integer"}},
    "additionalProperties": False,
}
SCHEMAS = (
    Case({"kind": "json_schema", "schema": _POINT}, '{"x": 1}',
         right=('{"x": 1}', '```json\n{"x": 2}\n```', ' {"x":3} '),
         wrong=('{"x": "1"}', "{}", '{"x": 1, "y": 2}', "{'x': 1}", '{"x": 1', '{"x": NaN}', "[1]",
                '{"x": 1, "x": 2}', '{"x": 1} and more')),
    Case({"kind": "json_schema", "schema": _POINT, "equals": True}, '{"x": 1}',
         right=('{ "x": 1 }', '{"x": 1.0}'), wrong=('{"x": 2}',)),
    Case({"kind": "json_schema", "schema": {}, "equals": True}, "1", right=("1",), wrong=("true", '"1"')),
)  # fmt: skip
