"""General questions with accepted answers: what a tuned model must not forget.

Half of the questions of most kinds are guarded: they are asked before and after training. The other
half are replay: the base model's own answers to them are mixed into the training data. No question
is in both halves, and some kinds are guarded as a whole, so that they are never trained on.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from tuneloop.evaluation.sets.schema import EvalItem


class Question(NamedTuple):
    """A question and the answers of which a correct response contains one."""

    kind: str
    prompt: str
    answers: tuple[str, ...]


GUARDED_KINDS = ("animal home", "baby animal", "number of", "used for")
"""Kinds of question that replay never contains."""

_PATTERNS: dict[str, tuple[str, str]] = {
    "animal home": (
        "Where does a {} usually live?",
        "bird: nest, tree; bee: hive; fish: water, ocean, sea, river, lake; camel: desert; "
        "polar bear: arctic; penguin: antarctic; shark: ocean, sea; lion: africa, savanna, "
        "grassland; kangaroo: australia; whale: ocean, sea; spider: web; frog: water, pond, "
        "wetland; monkey: forest, tree, jungle; rabbit: burrow",
    ),
    "antonym": (
        'What is the opposite of "{}"?',
        "hot: cold; big: small, little; old: new, young; wet: dry; fast: slow; hard: soft, "
        "easy; thin: thick, fat; full: empty; long: short; dark: light, bright; happy: sad, "
        "unhappy; rich: poor; up: down; left: right; strong: weak; open: closed, close, shut; "
        "early: late; high: low; day: night; war: peace; love: hate; win: lose; buy: sell; "
        "true: false; clean: dirty; heavy: light; loud: quiet, silent, soft; young: old; good: "
        "bad, evil; begin: end, finish; inside: outside; above: below; first: last; alive: "
        "dead; success: failure; hello: goodbye; wide: narrow; deep: shallow; brave: coward, "
        "cowardly; increase: decrease",
    ),
    "author": (
        'Who wrote "{}"?',
        "Romeo and Juliet: shakespeare; Hamlet: shakespeare; Pride and Prejudice: austen; Harry "
        "Potter: rowling; 1984: orwell; Animal Farm: orwell; Oliver Twist: dickens; A Christmas "
        "Carol: dickens; The Odyssey: homer; Frankenstein: shelley; Dracula: stoker; War and "
        "Peace: tolstoy; The Great Gatsby: fitzgerald; The Hobbit: tolkien; To Kill a "
        "Mockingbird: lee; Moby-Dick: melville; The Adventures of Tom Sawyer: twain; On the "
        "Origin of Species: darwin; Don Quixote: cervantes; Alice in Wonderland: carroll",
    ),
    "baby animal": (
        "What is a baby {} called?",
        "dog: puppy, pup; cat: kitten; cow: calf; sheep: lamb; horse: foal; pig: piglet; lion: "
        "cub; bear: cub; duck: duckling; goat: kid; kangaroo: joey; chicken: chick; swan: "
        "cygnet; deer: fawn",
    ),
    "capital": (
        "What is the capital of {}?",
        "France: paris; Italy: rome; Spain: madrid; Germany: berlin; Japan: tokyo; China: "
        "beijing; Russia: moscow; Egypt: cairo; Greece: athens; Portugal: lisbon; Austria: "
        "vienna; Poland: warsaw; Norway: oslo; Sweden: stockholm; Denmark: copenhagen; Finland: "
        "helsinki; Ireland: dublin; Belgium: brussels; Hungary: budapest; Turkey: ankara; "
        "India: delhi; Canada: ottawa; Mexico: mexico city; Cuba: havana; Peru: lima; Chile: "
        "santiago; Argentina: buenos aires; Kenya: nairobi; Thailand: bangkok; Vietnam: hanoi; "
        "South Korea: seoul; Iran: tehran; Iraq: baghdad; Australia: canberra; the United "
        "Kingdom: london; the Netherlands: amsterdam; Ukraine: kyiv, kiev; Switzerland: bern; "
        "Brazil: brasília, brasilia; the Philippines: manila; Indonesia: jakarta; Colombia: "
        "bogotá, bogota; Venezuela: caracas; Morocco: rabat; Ethiopia: addis ababa; "
        "Afghanistan: kabul; Nepal: kathmandu; Romania: bucharest; Bulgaria: sofia; Serbia: "
        "belgrade",
    ),
    "chemistry": (
        "What is the chemical symbol of {}?",
        "hydrogen: h; oxygen: o; carbon: c; nitrogen: n; gold: au; silver: ag; iron: fe; "
        "copper: cu; sodium: na; helium: he; calcium: ca; lead: pb; zinc: zn; chlorine: cl; "
        "sulfur: s; potassium: k; neon: ne; magnesium: mg",
    ),
    "color": (
        "What color is {}?",
        "the sky on a clear day: blue; fresh snow: white; a ripe banana: yellow; grass: green; "
        "blood: red; coal: black; a carrot: orange; chocolate: brown; milk: white; a ripe "
        "tomato: red; an emerald: green; a ruby: red; a lemon: yellow; a polar bear: white; a "
        "stop sign: red; the sun in a child's drawing: yellow; a pumpkin: orange; a crow: black",
    ),
    "continent": (
        "On which continent is {}?",
        "France: europe; Egypt: africa; Japan: asia; Brazil: south america; Kenya: africa; "
        "India: asia; Germany: europe; Peru: south america; Canada: north america; China: asia; "
        "Nigeria: africa; Spain: europe; Argentina: south america; Thailand: asia; Poland: "
        "europe; Mexico: north america; South Africa: africa; Vietnam: asia; Norway: europe; "
        "Chile: south america",
    ),
    "currency": (
        "What is the currency of {}?",
        "Japan: yen; the United States: dollar; the United Kingdom: pound, sterling; India: "
        "rupee; China: yuan, renminbi; Russia: ruble, rouble; Mexico: peso; Germany: euro; "
        "France: euro; South Korea: won; Switzerland: franc; Brazil: real; Canada: dollar; "
        "Sweden: krona; Turkey: lira; Thailand: baht",
    ),
    "language": (
        "What is the main language spoken in {}?",
        "Brazil: portuguese; Mexico: spanish; Germany: german; Japan: japanese; Egypt: arabic; "
        "Italy: italian; France: french; Argentina: spanish; China: mandarin, chinese; Russia: "
        "russian; Poland: polish; Greece: greek; Sweden: swedish; Portugal: portuguese; "
        "Australia: english; Cuba: spanish; Turkey: turkish; Thailand: thai; Iran: persian, "
        "farsi; Hungary: hungarian",
    ),
    "number of": (
        "How many {}?",
        "days are in a week: 7, seven; months are in a year: 12, twelve; legs does a spider "
        "have: 8, eight; legs does an insect have: 6, six; sides does a triangle have: 3, "
        "three; sides does a square have: 4, four; hours are in a day: 24, twenty-four; seconds "
        "are in a minute: 60, sixty; letters are in the English alphabet: 26, twenty-six; "
        "continents are there: 7, seven; fingers are on one hand: 5, five; wheels does a "
        "bicycle have: 2, two; years are in a century: 100, hundred; strings does a violin "
        "have: 4, four",
    ),
    "past tense": (
        'What is the past tense of the verb "{}"?',
        "go: went; eat: ate; run: ran; see: saw; take: took; write: wrote; give: gave; come: "
        "came; speak: spoke; drink: drank; swim: swam; break: broke; begin: began; buy: bought; "
        "think: thought; sing: sang; fly: flew; know: knew; make: made; find: found",
    ),
    "plural": (
        'What is the plural of the noun "{}"?',
        "child: children; mouse: mice; man: men; foot: feet; tooth: teeth; book: books; dog: "
        "dogs; city: cities; box: boxes; leaf: leaves; woman: women; goose: geese; baby: "
        "babies; knife: knives; house: houses; bus: buses; sheep: sheep; fish: fish",
    ),
    "science": (
        "{}?",
        "Which planet is closest to the sun: mercury; Which planet is known as the red planet: "
        "mars; What is the largest planet in the solar system: jupiter; What gas do plants "
        "absorb from the air: carbon dioxide, co2; What gas do people need to breathe: oxygen; "
        "What force pulls objects toward the ground: gravity; At what temperature in Celsius "
        "does water boil: 100; At what temperature in Celsius does water freeze: 0, zero; What "
        "is frozen water called: ice; Which organ pumps blood through the body: heart; Which "
        "organ do people use to think: brain; What is the center of an atom called: nucleus; "
        "What is the largest animal on Earth: blue whale; What is the fastest land animal: "
        "cheetah; What is the tallest animal: giraffe; What star is at the center of the solar "
        "system: sun; What do bees make: honey; What do cows produce that people drink: milk; "
        "What is H2O commonly called: water; What part of a plant takes up water from the soil: "
        "root; What process do plants use to make food from sunlight: photosynthesis; What is "
        "the hardest natural substance: diamond; What is the study of living things called: "
        "biology; What is the study of stars and planets called: astronomy; What instrument "
        "measures temperature: thermometer; What metal is liquid at room temperature: mercury; "
        "What is the natural satellite of the Earth: moon; What do caterpillars turn into: "
        "butterfly, butterflies, moth; What is molten rock that comes out of a volcano called: "
        "lava, magma; Which sense do people use with their ears: hearing",
    ),
    "used for": (
        "What is a {} used for?",
        "hammer: nail, nails, hit, pound; knife: cut, cutting, slice; pen: write, writing; "
        "telescope: star, stars, planets, astronomy, distant; microscope: small, tiny, magnify, "
        "microscopic; refrigerator: cool, cold, fresh; broom: sweep, sweeping; clock: time; "
        "camera: photo, photos, picture, pictures, photographs, images; umbrella: rain; bed: "
        "sleep, sleeping; map: directions, location, locations, navigate, places; key: lock, "
        "unlock, open; spoon: eat, eating, stir, stirring",
    ),
    "world": (
        "{}?",
        "What is the largest ocean: pacific; What is the longest river in Africa: nile; What is "
        "the highest mountain in the world: everest; What is the largest country by area: "
        "russia; In which country are the pyramids of Giza: egypt; In which city is the Eiffel "
        "Tower: paris; In which country is the Great Wall: china; In which city is the Statue "
        "of Liberty: new york; In which country is the Taj Mahal: india; In which city is the "
        "Colosseum: rome; In which country is Machu Picchu: peru; In which city is Big Ben: "
        "london; Who was the first president of the United States: washington; Who painted the "
        "Mona Lisa: vinci, leonardo; Who developed the theory of relativity: einstein; Who "
        "invented the telephone: bell; Who was the first person to walk on the moon: armstrong; "
        "Who discovered penicillin: fleming; In which year did World War II end: 1945; In which "
        "year did World War I begin: 1914; Who painted the Sistine Chapel ceiling: "
        "michelangelo; What is the largest desert in Africa: sahara; Which ocean is between "
        "Africa and Australia: indian; What is the largest island in the world: greenland; Who "
        "formulated the laws of motion and gravity: newton; Who composed the Ninth Symphony in "
        "1824: beethoven; Who was the British prime minister during most of World War II: "
        "churchill; What is the smallest continent: australia",
    ),
}
"""Kind -> (pattern of the prompt, "subject: answer, answer; ...")."""

OPEN_PROMPTS = (
    "Write one sentence about the rain.",
    "Write one sentence about a cat.",
    "Write a short greeting for a friend.",
    "Write a short thank-you note.",
    "Give one tip for sleeping well.",
    "Give one tip for learning a language.",
    "Give one tip for saving money.",
    "Name three fruits.",
    "Name three colors.",
    "Name three musical instruments.",
    "Name two kinds of weather.",
    "Explain in one sentence what a volcano is.",
    "Explain in one sentence what a library is.",
    "Explain in one sentence what the internet is.",
    "Explain in one sentence what a democracy is.",
    "Explain in one sentence what a computer does.",
    "What should I wear when it is cold?",
    "What can I cook with eggs?",
    "Why is exercise good for people?",
    "Why do people read books?",
    "What is friendship?",
    "What is a bicycle?",
    "What is music?",
    "Describe the sea in one sentence.",
    "Describe a forest in one sentence.",
    "Describe winter in one sentence.",
    "Who are you?",
    "Can you help me with my homework?",
    "Good morning!",
    "Tell me a fact about the moon.",
    "Tell me a fact about dolphins.",
    "Tell me a fact about Rome.",
    "Correct this sentence: She go to school.",
    "Finish the sentence: The sun rises in the",
)
"""Prompts without one correct answer; replay only."""


def questions() -> list[Question]:
    """Return all questions, sorted by kind."""
    found = []
    for kind, (pattern, table) in _PATTERNS.items():
        for row in table.split("; "):
            subject, _, answers = row.partition(": ")
            found.append(Question(kind, pattern.format(subject), tuple(answers.split(", "))))
    return found


def is_guarded(question: Question) -> bool:
    """Return whether a question is asked before and after training, and never trained on."""
    if question.kind in GUARDED_KINDS:
        return True
    return hashlib.sha256(question.prompt.encode()).digest()[0] % 2 == 0


def replay_prompts() -> list[str]:
    """Return the prompts whose answers by the base model may be trained on again.

    `real_replay.jsonl` holds the answers that are used: those that end by themselves and, where the
    table has accepted answers, contain one.
    """
    return [q.prompt for q in questions() if not is_guarded(q)] + list(OPEN_PROMPTS)


def guard_items() -> list[EvalItem]:
    """Return the guarded questions as eval items, sorted by kind."""
    guarded = [q for q in questions() if is_guarded(q)]
    return [
        EvalItem(
            id=f"guard-{number:03d}",
            prompt=question.prompt,
            expected_answer=question.answers[0],
            accepted_answers=question.answers[1:],
            category=question.kind,
            difficulty="easy",
        )
        for number, question in enumerate(guarded, start=1)
    ]
