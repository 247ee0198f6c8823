# ruff: noqa: E501 (the templates are read more easily one a line)
"""Makes question pairs with known answers to "do both want the same answer?", from templates written for this purpose.

A frame is one question in several phrasings, with slots. Two phrasings with the same slot values are a right pair; a slot
with another value, the opposite frame, a negation, a narrower scope, another number or swapped roles make a wrong one.
Fillers, contractions, typing slips, moved clauses and case are added to both kinds. Nothing here is taken from anywhere.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Pair", "generate"]

SLOTS = {
    "city": [
        "Lisbon",
        "Oslo",
        "Vienna",
        "Toronto",
        "Nairobi",
        "Osaka",
        "Denver",
        "Leeds",
        "Porto",
        "Geneva",
        "Mumbai",
        "Lima",
        "Hanoi",
        "Krakow",
    ],
    "country": [
        "Norway",
        "Brazil",
        "Japan",
        "Kenya",
        "Canada",
        "Portugal",
        "India",
        "Poland",
        "Chile",
        "Vietnam",
        "Germany",
        "Mexico",
    ],
    "name": ["Anna", "Boris", "Carla", "David", "Elena", "Farid", "Greta", "Hugo", "Irene", "Jonas", "Kiran", "Laura"],
    "lang": ["Python", "Java", "Rust", "Kotlin", "Ruby", "Swift", "JavaScript", "Haskell", "Go"],
    "app": ["Slack", "Excel", "Photoshop", "Spotify", "Outlook", "WhatsApp", "Firefox", "Instagram", "Dropbox"],
    "device": [
        "laptop",
        "tablet",
        "router",
        "printer",
        "camera",
        "dishwasher",
        "boiler",
        "smart watch",
        "keyboard",
        "monitor",
    ],
    "item": ["jacket", "sofa", "bicycle", "headphones", "kettle", "backpack", "mattress", "desk lamp", "running shoes"],
    "doc": [
        "passport",
        "driving licence",
        "birth certificate",
        "work permit",
        "visa",
        "tax certificate",
        "library card",
    ],
    "plan": [
        "gym membership",
        "phone contract",
        "broadband plan",
        "home insurance",
        "newspaper subscription",
        "season ticket",
    ],
    "food": ["rice", "salmon", "lentils", "pancakes", "chicken thighs", "sourdough bread", "pasta", "roast potatoes"],
    "animal": ["dog", "cat", "rabbit", "hamster", "parrot", "horse", "tortoise", "goldfish"],
    "plant": ["tomatoes", "basil", "roses", "orchids", "strawberries", "lavender", "cucumbers"],
    "illness": ["asthma", "migraine", "diabetes", "measles", "anaemia", "hay fever", "tonsillitis", "shingles"],
    "drug": ["ibuprofen", "aspirin", "penicillin", "melatonin", "codeine", "insulin"],
    "sport": ["tennis", "chess", "swimming", "climbing", "golf", "rowing", "judo", "basketball"],
    "subject": ["biology", "economics", "philosophy", "calculus", "law", "medicine", "architecture", "statistics"],
    "job": ["nurse", "pilot", "electrician", "lawyer", "teacher", "chef", "journalist", "plumber", "data scientist"],
    "team": ["finance", "marketing", "legal", "support", "design", "sales"],
    "book": ["Hamlet", "Dracula", "Emma", "Ulysses", "Walden", "Frankenstein", "Middlemarch"],
    "account": ["savings account", "current account", "brokerage account", "business account", "pension account"],
    "adj": ["polite", "confident", "patient", "creative", "organised", "honest", "generous", "calm"],
    "n": [
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "8",
        "10",
        "12",
        "14",
        "15",
        "20",
        "21",
        "25",
        "30",
        "40",
        "45",
        "50",
        "60",
        "90",
        "100",
        "200",
        "500",
    ],
    "year": ["1998", "2004", "2009", "2012", "2015", "2018", "2020", "2021", "2022", "2023", "2024"],
    "unit": ["minutes", "hours", "days", "weeks", "months", "years"],
    "month": ["January", "March", "April", "June", "August", "October", "December"],
    "day": ["Monday", "Wednesday", "Friday", "Saturday", "Sunday"],
    "who": [
        "students",
        "pensioners",
        "children",
        "employees",
        "visitors",
        "residents",
        "members",
        "tourists",
        "adults",
        "tenants",
    ],
    "scope": [
        "joint",
        "temporary",
        "international",
        "second-hand",
        "extended",
        "digital",
        "group",
        "weekend",
        "business",
        "family",
    ],
}
# One frame a paragraph; "!" is the question with the opposite answer.
FRAMES = """
How do I cancel my {plan}?|What is the process for cancelling my {plan}?|I want to cancel my {plan}, how do I do that?|Steps to cancel a {plan}
!How do I renew my {plan}?|I'd like to renew my {plan}, what do I do?

How do I return the {item} I bought?|I want to send back my {item}, how does that work?|What's the procedure for returning the {item}?|Can you tell me how to return a {item}?
!How do I exchange the {item} I bought?|Can I keep the {item} I bought?

How long does delivery to {country} take?|How many days until my parcel reaches {country}?|What is the delivery time to {country}?|When will an order shipped to {country} arrive?
!How much does delivery to {country} cost?|Do you deliver to {country}?

How do I renew my {doc}?|My {doc} is about to expire, how do I get a new one?|What do I have to do to renew a {doc}?|Where can I renew my {doc}?
!How do I cancel my {doc}?|I lost my {doc}, what should I do?

How much does a {doc} cost?|What is the price of a {doc}?|What do I pay for a {doc}?|What's the fee for getting a {doc}?
!How long does it take to get a {doc}?|Who can get a {doc}?

How do I transfer money from my {account} to my {account2}?|I want to move money from my {account} to my {account2}, how?|What's the way to send funds from the {account} to the {account2}?
!How do I transfer money from my {account2} to my {account}?|Move money to my {account} from my {account2}

Why is my {device} so slow?|What makes my {device} so slow?|My {device} has become very slow, why?|What could be the reason that my {device} runs slowly?
!Why is my {device} so loud?|Why is my {device} so hot?|Why is my {device} so fast?

How do I turn on my {device}?|How can I switch on the {device}?|What do I press to turn on a {device}?
!How do I turn off my {device}?|How can I switch off the {device}?

My {device} won't start, what should I do?|How do I fix a {device} that doesn't start?|The {device} is not starting anymore, how can I repair it?
!My {device} won't stop, what should I do?|How do I sell a {device}?

How do I install {app}?|What are the steps to install {app}?|How can I set up {app} on my computer?|Tell me how to install {app}
!How do I uninstall {app}?|How can I remove {app} from my computer?

How do I reset my {app} password?|I forgot my {app} password, how do I get a new one?|What do I do if I can't remember my {app} password?|How can I change a forgotten password in {app}?
!How do I change my {app} username?|How do I delete my {app} account?

Is {app} free?|Do I have to pay for {app}?|Does {app} cost anything?|Can I use {app} for free?
!Is {app} safe?|Is {app} available offline?

How do I enable notifications in {app}?|How can I turn on {app} notifications?|Where do I switch notifications on in {app}?
!How do I disable notifications in {app}?|How can I turn off {app} notifications?

How do I reverse a list in {lang}?|What's the best way to reverse a list in {lang}?|In {lang}, how can I reverse a list?|Reversing a list in {lang}
!How do I sort a list in {lang}?|How do I copy a list in {lang}?

How do I read a file in {lang}?|What is the way to read a text file in {lang}?|In {lang}, how do you read from a file?
!How do I write a file in {lang}?|How do I delete a file in {lang}?

How do I learn {lang} quickly?|What's the fastest way to learn {lang}?|How can I learn {lang} fast?|What is the quickest way of learning {lang}?
!Why should I learn {lang}?|How long does it take to learn {lang}?

What are the advantages of {lang}?|What are the benefits of using {lang}?|What is good about {lang}?|Which advantages does {lang} have?
!What are the disadvantages of {lang}?|What are the drawbacks of using {lang}?

How do I convert {lang} code to {lang2}?|How can I translate a program from {lang} to {lang2}?|What is the best way to port {lang} code to {lang2}?
!How do I convert {lang2} code to {lang}?|How can I translate a program from {lang2} to {lang}?

Is {lang} better than {lang2}?|Is {lang2} worse than {lang}?|Should I prefer {lang} over {lang2}?
!Is {lang2} better than {lang}?|Is {lang2} similar to {lang}?

How do I cook {food}?|What's the best way to cook {food}?|How should {food} be cooked?|Can you explain how to cook {food}?
!How do I freeze {food}?|How do I reheat {food}?

How long should I cook {food} for?|How many minutes does {food} need to cook?|What is the cooking time for {food}?
!How long can I keep {food} in the fridge?|How much {food} should I cook?

How many calories are in {food}?|What is the calorie content of {food}?|How many kcal does {food} have?
!How much protein is in {food}?|How much sugar is in {food}?

Can my {animal} eat {food}?|Is it OK to feed {food} to a {animal}?|Is {food} safe for my {animal}?|Am I allowed to give {food} to my {animal}?
!Can my {animal} eat grapes?|Why does my {animal} hate {food}?

How often should I feed my {animal}?|How many times a day does a {animal} have to be fed?|What is the right feeding frequency for a {animal}?
!How often should I wash my {animal}?|How much should I feed my {animal}?

How long do {animal}s live?|What is the average lifespan of a {animal}?|What age can a {animal} reach?|What's the life expectancy of a {animal}?
!How big do {animal}s get?|How long do {animal}s sleep?

How do I grow {plant} indoors?|What is the best way to grow {plant} inside the house?|Can you tell me how to grow {plant} at home?
!How do I grow {plant} outdoors?|Why do my {plant} not grow indoors?

When should I plant {plant}?|What is the best time to plant {plant}?|In which month should {plant} be planted?
!When should I harvest {plant}?|Where should I plant {plant}?

What are the symptoms of {illness}?|How do I know if I have {illness}?|What are the signs of {illness}?|Which symptoms does {illness} cause?
!What are the causes of {illness}?|How is {illness} treated?

What causes {illness}?|What is the reason for {illness}?|Why do people get {illness}?|What are the causes of {illness}?
!What prevents {illness}?|What are the symptoms of {illness}?

Can I take {drug} together with {drug2}?|Is it safe to combine {drug} and {drug2}?|Are {drug} and {drug2} OK to take at the same time?|May {drug2} and {drug} be taken together?
!Can I take {drug} instead of {drug2}?|Can I take {drug} before {drug2}?

How much {drug} can I take in a day?|What is the maximum daily dose of {drug}?|What's the daily limit for {drug}?
!What is the minimum daily dose of {drug}?|How fast does {drug} work?

What are the side effects of {drug}?|Which side effects does {drug} have?|What side effects can {drug} cause?
!What are the benefits of {drug}?|What is {drug} made of?

How do I become a {job}?|What do I need to do to become a {job}?|What is the path to becoming a {job}?|I want to be a {job}, where do I start?
!How do I hire a {job}?|How do I stop being a {job}?

How much does a {job} earn?|What is the average salary of a {job}?|What do {job}s get paid?|How much money do {job}s make?
!How many hours does a {job} work?|How much does it cost to hire a {job}?

What does a {job} do?|What are the duties of a {job}?|What is the work of a {job}?
!What should a {job} not do?|What does a {job} wear?

How can I become more {adj}?|What can I do to be more {adj}?|How do I become a more {adj} person?
!How can I become less {adj}?|How can I become a person who is not {adj}?|Why am I not {adj}?

What should I do before going to {country}?|What do I have to prepare before a trip to {country}?|What should be done before travelling to {country}?
!What should I do after going to {country}?|What should I not do before going to {country}?

Is {city} worth visiting?|Should I visit {city}?|Is it worth going to {city}?|Is {city} a good place to visit?
!Is {city} worth living in?|Is {city} safe?

How do I get from {city} to {city2}?|What is the best way to travel from {city} to {city2}?|How can I go to {city2} from {city}?
!How do I get from {city2} to {city}?|What is the best way to travel from {city2} to {city}?

How far is {city} from {city2}?|What is the distance between {city} and {city2}?|How many kilometres are there between {city2} and {city}?
!How long does the train from {city} to {city2} take?|Which is bigger, {city} or {city2}?

What is the best month to visit {country}?|When is the best time to travel to {country}?|Which month is best for visiting {country}?
!What is the worst month to visit {country}?|What is the best city in {country}?

What is the population of {country}?|How many people live in {country}?|How many inhabitants does {country} have?
!What is the area of {country}?|What is the capital of {country}?

Do I need a visa for {country}?|Is a visa required to enter {country}?|Must I have a visa to visit {country}?|Can I travel to {country} without a visa?
!How much is a visa for {country}?|How do I extend a visa for {country}?

Who wrote {book}?|Who is the author of {book}?|Which writer wrote {book}?
!When was {book} written?|Who published {book}?

What is {book} about?|Can you summarise {book}?|Give me a summary of {book}|What happens in {book}?
!How does {book} end?|Who is the hero of {book}?

How do I get better at {sport}?|How can I improve at {sport}?|What should I do to improve my {sport}?|Tips for getting better at {sport}
!Why am I bad at {sport}?|How do I quit {sport}?

What equipment do I need for {sport}?|Which gear is necessary for {sport}?|What do I have to buy to start {sport}?
!What equipment is not allowed in {sport}?|Where can I sell {sport} equipment?

Is {subject} hard to study?|Is it difficult to study {subject}?|How hard is studying {subject}?|Is studying {subject} difficult?
!Is {subject} useful to study?|Is {subject} easy to teach?

What is the best book on {subject}?|Which book about {subject} is the best?|What are good books for learning {subject}?|Can you recommend a book on {subject}?
!What is the worst book on {subject}?|Who teaches {subject}?

Who won the World Cup in {year}?|Which country won the {year} World Cup?|Who was the winner of the World Cup in {year}?
!Who lost the World Cup final in {year}?|Who hosted the World Cup in {year}?

What happened in {country} in {year}?|What were the main events in {country} in {year}?|Which important things happened in {year} in {country}?
!What happened in {country} before {year}?|Who was president of {country} in {year}?

Can I cancel within {n} days?|Is it possible to cancel in the first {n} days?|Am I able to cancel within {n} days?
!Can I cancel after {n} days?|Can I extend by {n} days?

Do you give discounts for orders over {n} items?|Is there a discount if I order more than {n} items?|Are orders above {n} items cheaper?
!Do you give discounts for orders under {n} items?|Are orders of less than {n} items cheaper?

Are you open on {day}?|Is the shop open on {day}s?|Can I visit you on {day}?
!Are you closed on {day}?|When do you close on {day}?

What are the opening hours in {month}?|When are you open in {month}?|At what times is it open during {month}?
!When are you closed in {month}?|What are the prices in {month}?

Is there a discount for {who}?|Do {who} get a discount?|Do {who} pay less?|Is it cheaper for {who}?
!Is there a limit for {who}?|Do {who} pay more?

What documents do {who} need?|Which papers are required for {who}?|Which documents must {who} bring?
!What documents do {who} not need?|What documents do {who} get?

How do I contact the {team} team?|How can I reach the {team} team?|What is the contact for the {team} team?|Who do I talk to in the {team} team?
!How do I join the {team} team?|Who leads the {team} team?

How do I open a {scope} account?|How can I open a {scope} account?|What do I need to do to open a {scope} account?|I'd like to open a {scope} account, how does it work?
!How do I close a {scope} account?|How do I open an account?

What is the price of a {scope} ticket?|How much is a {scope} ticket?|What does a {scope} ticket cost?
!What is the price of a ticket?|How do I refund a {scope} ticket?

Does the warranty cover my {device}?|Is my {device} covered by the warranty?|Is the {device} under warranty?
!Does the extended warranty cover my {device}?|Does the warranty exclude my {device}?

Is {name} married to {name2}?|Is {name2} married to {name}?|Are {name} and {name2} married?
!Is {name} divorced from {name2}?|Is {name} related to {name2}?

Did {name} invite {name2}?|Was {name2} invited by {name}?|Is it true that {name} invited {name2}?
!Did {name2} invite {name}?|Was {name} invited by {name2}?

How can I lend money to {name}?|What's the safe way of lending money to {name}?|I want to lend {name} money, how?
!How can I borrow money from {name}?|How can I get money back from {name}?

Write an email to {name} about the delay|Draft an email to {name} that explains the delay|Compose a mail to {name} regarding the delay
!Write an email to {name} about the refund|Write a letter from {name} about the delay

Explain {subject} to a child|Explain {subject} in simple words for a kid|How would you explain {subject} to a child?
!Explain {subject} to an expert|Explain why a child needs {subject}

My payment was declined, why?|Why was my payment declined?|Why did my payment get rejected?|What's the reason my payment was refused?
!My payment was accepted, why?|My payment was charged twice, why?

I haven't received my order yet|My order hasn't arrived yet|Where is my order, it has not come|My order is still not here
!I have received my order|I received the wrong order|I want to cancel my order

I was charged an extra fee|There is an extra charge on my account|Why is there an additional fee on my bill?|I see a fee that I don't recognise
!I was charged no fee|I want to avoid extra fees|How do I pay the fee?
"""
OPENERS = (
    "Hi, ",
    "Hello! ",
    "um ",
    "so ",
    "okay so ",
    "Quick question: ",
    "Hey there, ",
    "please tell me: ",
    "Could you help me? ",
)
CLOSERS = (" thanks", " Thanks in advance!", " please", " Thank you.", " cheers", "?", "!", "", " ??")
TAILS = (
    "in {country}",
    "for beginners",
    "in {year}",
    "at home",
    "without paying",
    "on a phone",
    "for free",
    "for {who}",
    "online",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions, whether one answer serves both, and what kind of pair it is."""

    one: str
    other: str
    same: bool
    kind: str


def generate(count: int, seed: int = 7) -> Iterator[Pair]:
    """Yield `count` pairs, about half of them right."""
    chance = random.Random(seed)
    frames = [_frame(block) for block in FRAMES.strip().split("\n\n")]
    makers = [_paraphrase] * 10 + [_noise] * 3 + [_slot] * 6 + [_opposite] * 5 + [_negated] * 2 + [_narrowed] * 3
    made = 0
    while made < count:
        pair = chance.choice(makers)(chance, *chance.choice(frames))
        if pair and pair.one != pair.other:
            made += 1
            yield pair


def _frame(block: str) -> tuple[list[str], list[str]]:
    asked, _, against = block.partition("\n!")
    return asked.split("|"), [q for q in against.replace("\n!", "|").split("|") if q]


def _values(chance: random.Random) -> dict[str, str]:
    values = {name: chance.choice(options) for name, options in SLOTS.items()}
    for name in ("city", "lang", "drug", "name", "account"):
        values[f"{name}2"] = chance.choice([v for v in SLOTS[name] if v != values[name]])
    return values


def _paraphrase(chance: random.Random, asked: list[str], against: list[str]) -> Pair:
    values = _values(chance)
    one, other = chance.sample(asked, 2)
    one, other = one.format_map(values), other.format_map(values)
    return Pair(one, _dress(chance, other) if chance.random() < 0.3 else other, same=True, kind="paraphrase")


def _noise(chance: random.Random, asked: list[str], against: list[str]) -> Pair:
    text = chance.choice(asked).format_map(_values(chance))
    return Pair(text, _dress(chance, text), same=True, kind="noise")


def _slot(chance: random.Random, asked: list[str], against: list[str]) -> Pair | None:
    template = chance.choice(asked)
    names = re.findall(r"{(\w+)}", template)
    if not names:
        return None
    values, name = _values(chance), chance.choice(names)
    changed = dict(values)
    while (
        changed[name] == values[name]
        or changed[name] == values.get(name.rstrip("2"))
        or changed[name] == values.get(f"{name}2")
    ):
        changed[name] = chance.choice(SLOTS[name.rstrip("2")])
    second = template if chance.random() < 0.6 else chance.choice(asked)
    other = second.format_map(changed)
    return Pair(template.format_map(values), _dress(chance, other, 0.2), same=False, kind="slot")


def _opposite(chance: random.Random, asked: list[str], against: list[str]) -> Pair:
    values = _values(chance)
    pair = [chance.choice(asked).format_map(values), _dress(chance, chance.choice(against).format_map(values), 0.2)]
    chance.shuffle(pair)
    return Pair(*pair, same=False, kind="opposite")


def _negated(chance: random.Random, asked: list[str], against: list[str]) -> Pair | None:
    text = chance.choice(asked).format_map(_values(chance))
    for word in ("can", "is", "does", "do", "should", "are", "was", "did"):
        inserted = re.sub(rf"\b{word} (I|my|the|a|it|you|\w+s)\b", rf"{word} \1 not", text, count=1, flags=re.I)
        contracted = re.sub(rf"\b{word}\b", f"{word}n't".replace("cann't", "can't"), text, count=1, flags=re.I)
        changed = inserted if chance.random() < 0.4 and inserted != text else contracted
        if changed != text:
            pair = [text, changed]
            chance.shuffle(pair)
            return Pair(*pair, same=False, kind="negation")
    return None


def _narrowed(chance: random.Random, asked: list[str], against: list[str]) -> Pair | None:
    values = _values(chance)
    one = chance.choice(asked).format_map(values)
    other = one if chance.random() < 0.7 else chance.choice(asked).format_map(values)
    tail = chance.choice(TAILS).format_map(values)
    if any(word in one.lower() or word in other.lower() for word in tail.lower().split()[-1:]):
        return None
    pair = [one, other.rstrip("?") + " " + tail + ("?" if other.endswith("?") else "")]
    chance.shuffle(pair)
    return Pair(*pair, same=False, kind="scope")


def _dress(chance: random.Random, text: str, share: float = 1.0) -> str:
    """Change what no answer depends on."""
    if chance.random() > share:
        return text
    if chance.random() < 0.4:
        text = text.replace("What is", "What's").replace("How can I", "How do I").replace("I want", "I'd like")
    if chance.random() < 0.35:
        text = chance.choice(OPENERS) + (text[0].lower() + text[1:] if not text.startswith("I ") else text)
    if chance.random() < 0.35:
        text = text.rstrip("?") + chance.choice(CLOSERS)
    if chance.random() < 0.3:
        text = text.lower()
    if chance.random() < 0.15:
        text = _slip(chance, text)
    return text


def _slip(chance: random.Random, text: str) -> str:
    places = [i for i in range(1, len(text) - 2) if text[i : i + 2].isalpha() and text[i - 1].isalpha()]
    if not places:
        return text
    at = chance.choice(places)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :] if chance.random() < 0.5 else text[:at] + text[at + 1 :]
