"""Writes the support-desk suite: eight small, invented customer-service tasks. The same seed gives the same bytes.

    python generate.py [--seed 17] [--out DIR] [--check]

Each task has its own random stream, so changing one leaves the files of the others as they were.
Some labels are wrong in every split (train, validation and test), as in real data: no model scores 1.00.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from phrases import (
    ABOUT,
    ACTIONS,
    AREAS,
    CLOSINGS,
    DEADLINES,
    FAULT_ANY,
    FAULTS,
    FILLERS,
    GREETINGS,
    HAPPY,
    IMPACTS,
    OBJECTS,
    PRODUCTS,
    REPLIES,
    UPSET,
)

SPLITS = ("train", "validation", "test")
URGENCY = ("low", "medium", "high")
INTENTS = tuple(f"{action}-{thing}" for action in ACTIONS for thing in OBJECTS)
# The parts of a report of same-issue: several slots with a few values each. From these a tiny model learns the rule
# (compare the words of the two reports) within some hundred steps; with one slot of many values it takes far longer.
ISSUE = (
    ("kettle", "router", "lamp", "sofa"),
    ("leak", "noise", "smell", "crack"),
    ("monday", "friday", "easter", "june"),
    ("blue", "red", "green", "white"),
)
_CHOICE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Example:
    """One row as written, and its right answer before noise."""

    row: dict[str, str]
    clean: str

    @property
    def answer(self) -> str:
        return self.row["label"] if "label" in self.row else self.row["target"]

    @property
    def inputs(self) -> tuple[str, str]:
        return self.row["text"], self.row.get("text_pair", "")


@dataclass(frozen=True)
class Task:
    """How the rows of a task are generated: ``draw`` gives (inputs, right answer), ``spoil`` a wrong answer."""

    name: str
    sizes: tuple[int, int, int]
    noise: float
    labels: tuple[str, ...]  # empty for generation
    draw: Callable[[Random], tuple[dict[str, str], str]]
    spoil: Callable[[Random, str], str]


def render(rng: Random, template: str, **slots: str) -> str:
    """Fill the slots, then replace every ``{a|b}`` by one of its alternatives, innermost first."""
    for key, value in slots.items():
        template = template.replace(f"${key}", value)
    while True:
        template, replaced = _CHOICE.subn(lambda match: rng.choice(match[1].split("|")), template)
        if not replaced:
            return template


def typos(rng: Random, text: str, keep: Iterable[str] = (), rate: float = 0.01) -> str:
    """Swap two adjacent letters in a few of the longer words, but not in the words of ``keep``."""
    words, kept = text.split(" "), set(keep)
    for index, word in enumerate(words):
        if len(word) >= 5 and word.isalpha() and word not in kept and rng.random() < rate:
            at = rng.randrange(1, len(word) - 2)
            words[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def message(rng: Random, sentences: Sequence[str], fillers: int = 1, keep: Iterable[str] = ()) -> str:
    """A message: the sentences and some fillers in random order, maybe with a greeting and a closing."""
    body = [*sentences, *(render(rng, rng.choice(FILLERS)) for _ in range(rng.randint(0, fillers)))]
    rng.shuffle(body)
    text = ". ".join(body)
    if rng.random() < 0.6:
        text = f"{rng.choice(GREETINGS)}, {text}"
    if rng.random() < 0.5:
        text = f"{text}. {rng.choice(CLOSINGS)}"
    return typos(rng, text, keep)


def problem(rng: Random, product: str) -> str:
    return render(rng, "{the|my|our} $p $f", p=product, f=FAULT_ANY)


def maybe_problem(rng: Random) -> list[str]:
    return [problem(rng, rng.choice(PRODUCTS))] if rng.random() < 0.5 else []


def other(rng: Random, values: Sequence[str], value: str) -> str:
    return rng.choice([each for each in values if each != value])


def among(values: Sequence[str]) -> Callable[[Random, str], str]:
    """Noise that gives any other label with equal chance."""
    return lambda rng, value: other(rng, values, value)


# ---- classification ----


def urgency(rng: Random) -> tuple[dict[str, str], str]:
    """Deadline and impact, 0 to 2 each, in two sentences: sum 0–1 low, 2 medium, 3–4 high."""
    deadline, impact = rng.randrange(3), rng.randrange(3)
    cues = [render(rng, DEADLINES[deadline]), render(rng, IMPACTS[impact])]
    text = message(rng, [*maybe_problem(rng), *cues])
    return {"text": text}, URGENCY[(0, 0, 1, 2, 2)[deadline + impact]]


def neighbour(rng: Random, label: str) -> str:
    """Ordinal noise: one level up or down."""
    at = URGENCY.index(label)
    return URGENCY[rng.choice([step for step in (at - 1, at + 1) if 0 <= step < len(URGENCY)])]


def request(rng: Random, action: str, thing: str) -> list[str]:
    """An action on an object, in one sentence or two; sometimes with another object that has no problem."""
    name = render(rng, OBJECTS[thing])
    wish = rng.choice(ACTIONS[action])
    if rng.random() < 0.35:
        sentences = [render(rng, f"{{it is about|i write about|this concerns}} my {name}. {wish}", o="it")]
    else:
        sentences = [render(rng, wish, o=f"{{my|the|our}} {name}")]
    if rng.random() < 0.35:
        spare = render(rng, OBJECTS[other(rng, list(OBJECTS), thing)])
        sentences.append(render(rng, "{my|the} $s {is fine|is in order|is another matter}", s=spare))
    return sentences


def intent(rng: Random) -> tuple[dict[str, str], str]:
    action, thing = rng.choice(list(ACTIONS)), rng.choice(list(OBJECTS))
    return {"text": message(rng, request(rng, action, thing))}, f"{action}-{thing}"


def feeling(rng: Random, upset: bool) -> str:
    """A mood, sometimes by negating the opposite one."""
    denied = rng.random() < 0.15
    mood = UPSET if upset != denied else HAPPY
    degree = "not" if denied else "{very|really|quite|rather}"
    return render(rng, f"{{i am|we are}} {degree} {mood} {ABOUT}", p=rng.choice(PRODUCTS))


def complaint(rng: Random) -> tuple[dict[str, str], str]:
    """One mood, or two moods, of which the one after "but" counts."""
    upset = rng.random() < 0.5
    mood = feeling(rng, upset)
    if rng.random() < 0.3:
        mood = f"{feeling(rng, not upset)} but {mood}"
    return {"text": message(rng, [mood, *maybe_problem(rng)])}, "complaint" if upset else "other"


def product_area(rng: Random) -> tuple[dict[str, str], str]:
    """The area of the product that has the fault; often with a second product that works."""
    area = rng.choice(list(AREAS))
    sentences = [problem(rng, rng.choice(AREAS[area]))]
    if rng.random() < 0.5:
        spare = rng.choice(AREAS[other(rng, list(AREAS), area)])
        sentences.append(render(rng, "{the|my|our} $p {is fine|works well|is good|runs well}", p=spare))
    return {"text": message(rng, sentences)}, area


def report(rng: Random, product: str, fault: str, day: str, colour: str) -> str:
    """One customer's words for an issue."""
    thing, trouble = render(rng, f"{{the|my|our}} {colour} {product}"), render(rng, FAULTS[fault])
    text = f"{thing} {trouble} {render(rng, '{since|from}')} {day}"
    return message(rng, [text], fillers=0, keep=(product, fault, day, colour)) if rng.random() < 0.5 else text


def same_issue(rng: Random) -> tuple[dict[str, str], str]:
    """Two reports that agree on product, fault, day and colour, or on none of them: word overlap decides."""
    first = [rng.choice(values) for values in ISSUE]
    same = rng.random() < 0.5
    second = first if same else [other(rng, values, value) for values, value in zip(ISSUE, first, strict=True)]
    return {"text": report(rng, *first), "text_pair": report(rng, *second)}, "same" if same else "different"


def escalate(rng: Random) -> tuple[dict[str, str], str]:
    """Urgent and upset, or not. A hundred rows with many wrong labels are too few to tell whether a model is good."""
    urgent, upset = rng.randrange(3), rng.random() < 0.5
    cues = [render(rng, DEADLINES[urgent]), feeling(rng, upset)]
    return {"text": message(rng, [*maybe_problem(rng), *cues])}, "escalate" if urgent + upset >= 2 else "keep"


# ---- generation ----


def order_slots(rng: Random) -> tuple[dict[str, str], str]:
    """The faulty product and the order number, to be copied out of the message."""
    product, code = rng.choice(PRODUCTS), f"{rng.choice('ABCDEFGHKLMNPRST')}{rng.randrange(10, 100)}"
    number = render(rng, "{the order is|my order was|it was order|order number} $c", c=code)
    text = message(rng, [problem(rng, product), number], keep=(product,))
    return {"text": text}, f"product: {product}; order: {code}"


def misread(rng: Random, target: str) -> str:
    """An extraction with the wrong product."""
    product, rest = target.removeprefix("product: ").split(";")
    return f"product: {other(rng, PRODUCTS, product)};{rest}"


def reply(rng: Random) -> tuple[dict[str, str], str]:
    """A draft that answers the request and names the product; an upset customer gets an apology first."""
    action, thing, product = rng.choice(list(ACTIONS)), rng.choice(list(OBJECTS)), rng.choice(PRODUCTS)
    upset = rng.random() < 0.5
    sentences = [*request(rng, action, thing)[:1], render(rng, "{it is|that is} for {the|my} $p", p=product)]
    if upset:
        sentences.append(render(rng, f"{{i am|we are}} {{very|really|quite}} {UPSET}"))
    opening = rng.choice(["hello", "dear customer"]) + (", we are sorry. " if upset else ", thank you. ")
    draft = render(rng, REPLIES[action], o=thing, p=product)
    return {"text": message(rng, sentences, fillers=0, keep=(product,))}, f"{opening}{draft}."


def wrong_reply(rng: Random, target: str) -> str:
    """A draft for another request."""
    opening = target.split(". ", maxsplit=1)[0]
    draft = render(rng, rng.choice(list(REPLIES.values())), o=rng.choice(list(OBJECTS)), p=rng.choice(PRODUCTS))
    return f"{opening}. {draft}."


TASKS: tuple[Task, ...] = (
    Task("urgency", (4000, 300, 500), 0.06, URGENCY, urgency, neighbour),
    Task("intent", (9000, 300, 600), 0.06, INTENTS, intent, among(INTENTS)),
    Task("complaint", (2000, 200, 400), 0.06, ("complaint", "other"), complaint, among(("complaint", "other"))),
    Task("product-area", (3000, 300, 500), 0.06, tuple(AREAS), product_area, among(tuple(AREAS))),
    Task("same-issue", (6000, 300, 500), 0.05, ("same", "different"), same_issue, among(("same", "different"))),
    Task("escalate", (110, 60, 64), 0.25, ("escalate", "keep"), escalate, among(("escalate", "keep"))),
    Task("order-slots", (3000, 200, 300), 0.06, (), order_slots, misread),
    Task("reply", (2000, 200, 200), 0.06, (), reply, wrong_reply),
)


def draw(task: Task, seed: int) -> dict[str, list[Example]]:
    """All splits of a task. No two of its rows have the same inputs, so no test row is also in train."""
    rng = Random(f"support-desk/{task.name}/{seed}")
    seen: set[tuple[str, str]] = set()
    splits: dict[str, list[Example]] = {}
    for split, size in zip(SPLITS, task.sizes, strict=True):
        examples: list[Example] = []
        while len(examples) < size:
            inputs, clean = task.draw(rng)
            key = (inputs["text"], inputs.get("text_pair", ""))
            if key in seen:
                continue
            seen.add(key)
            answer = task.spoil(rng, clean) if rng.random() < task.noise else clean
            examples.append(Example({**inputs, "label" if task.labels else "target": answer}, clean))
        splits[split] = examples
    return splits


def suite(seed: int) -> dict[str, dict[str, list[Example]]]:
    """Every task by name, every split by name."""
    return {task.name: draw(task, seed) for task in TASKS}


def write(data: dict[str, dict[str, list[Example]]], out: Path) -> None:
    """Write ``out/<task>/<split>.jsonl.gz``. The gzip header has no file name or time: equal rows give equal bytes."""
    for name, splits in data.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        for split, examples in splits.items():
            lines = "".join(json.dumps(example.row, ensure_ascii=False) + "\n" for example in examples)
            (out / name / f"{split}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


def table(data: dict[str, dict[str, list[Example]]]) -> str:
    """Sizes, mean words, share of wrong answers, and the commonest labels of every task."""
    lines = [f"{'task':13}{'train':>7}{'valid':>7}{'test':>6}{'words':>7}{'noise':>7}  train labels"]
    for name, splits in data.items():
        rows = [example for examples in splits.values() for example in examples]
        words = sum(len(" ".join(example.inputs).split()) for example in rows) / len(rows)
        noise = sum(example.answer != example.clean for example in rows) / len(rows)
        counts = Counter(example.answer for example in splits["train"])
        if "label" in rows[0].row:
            shown = ", ".join(f"{label} {count}" for label, count in counts.most_common(3))
            shown += f" … ({len(counts)} labels)" if len(counts) > 3 else ""
        else:
            shown = f"(text, {len(counts)} different)"
        sizes = "".join(f"{len(splits[split]):>{width}}" for split, width in zip(SPLITS, (7, 7, 6), strict=True))
        lines.append(f"{name:13}{sizes}{words:>7.1f}{noise:>7.3f}  {shown}")
    return "\n".join(lines)


def check(data: dict[str, dict[str, list[Example]]]) -> str:
    """Test accuracy of the majority label, of a linear model on word 1- and 2-grams, and of the rules before noise."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    lines = [f"{'task':13}{'majority':>9}{'n-grams':>9}{'ceiling':>9}"]
    for task in TASKS:
        if not task.labels:
            continue
        train, test = data[task.name]["train"], data[task.name]["test"]
        model = make_pipeline(CountVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=300, C=0.3))
        model.fit([" | ".join(each.inputs) for each in train], [each.answer for each in train])
        guesses = model.predict([" | ".join(each.inputs) for each in test])
        ngrams = sum(guess == each.answer for guess, each in zip(guesses, test, strict=True)) / len(test)
        majority = Counter(each.answer for each in train).most_common(1)[0][0]
        floor = sum(each.answer == majority for each in test) / len(test)
        ceiling = sum(each.answer == each.clean for each in test) / len(test)
        lines.append(f"{task.name:13}{floor:>9.3f}{ngrams:>9.3f}{ceiling:>9.3f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the synthetic support-desk suite.")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "data")
    parser.add_argument("--check", action="store_true", help="also score simple baselines (needs scikit-learn)")
    options = parser.parse_args(arguments)
    data = suite(options.seed)
    write(data, options.out)
    print(table(data))
    if options.check:
        print(check(data))


if __name__ == "__main__":
    main()
