"""The task classifier, on made prompts: right and wrong by count."""

import json
from pathlib import Path

import pytest
from junctor import Request
from junctor.wire import OPENAI
from junctor_routing import classify

PROMPTS = json.loads(Path(__file__).with_name("prompts.json").read_text(encoding="utf-8"))


def asked(text, operation="chat", **body):
    return Request(OPENAI, operation, {"messages": [{"role": "user", "content": text}], **body}, "m")


def judged(part):
    return [(task, classify(asked(prompt))) for task, prompts in PROMPTS[part].items() for prompt in prompts]


# Of 72 each. The weights were looked at with the first set at hand; the second was never looked at.
@pytest.mark.parametrize(("part", "least"), [("seen", 68), ("unseen", 56)])
def test_most_prompts_are_told_for_what_they_are(part, least, record_property):
    found = judged(part)
    right = sum(task == guess.name for task, guess in found)
    record_property("right", right)
    assert len(found) == 72
    assert right >= least


def test_a_confident_answer_is_more_often_right():
    found = judged("unseen")
    sure = [task == guess.name for task, guess in found if guess.confidence >= 0.6]
    unsure = [task == guess.name for task, guess in found if guess.confidence < 0.6]
    assert len(sure) >= 30
    assert sum(sure) / len(sure) >= 0.9 > sum(unsure) / len(unsure)


def test_it_says_why():
    assert "summariz" in " ".join(classify(asked("Summarize the text below in two sentences.")).because)


@pytest.mark.parametrize(
    ("body", "task"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["a"]}}}}, "classification"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "extraction"),
        ({"max_tokens": 5}, "classification"),
        ({"reasoning_effort": "high"}, "reasoning"),
    ],
)
def test_the_shape_of_a_request_tells_something_too(body, task):
    assert (
        classify(asked("Look at the following passage, then proceed as agreed with the colleagues.", **body)).name
        == task
    )


def test_code_without_a_word_about_it_is_code():
    text = "def a(x):\n    return x\n\nfor i in a(3):\n    print(i)\n\nif x:\n    pass\n"
    assert classify(asked(text)).name == "code"


def test_the_system_prompt_counts():
    messages = [
        {"role": "system", "content": "Translate everything the user writes into French."},
        {"role": "user", "content": [{"type": "text", "text": "The meeting begins at nine."}]},
    ]
    assert classify(Request(OPENAI, "chat", {"messages": messages}, "m")).name == "translation"


def test_an_instruction_after_much_material_is_found():
    text = "The council met on Tuesday and talked about roads. " * 200 + "\n\nSummarize the text above."
    assert classify(asked(text)).name == "summarising"


def test_embeddings_are_their_own_task():
    found = classify(Request(OPENAI, "embeddings", {"input": "translate this"}, "m"))
    assert (found.name, found.source) == ("embedding", "operation")


def test_a_completion_is_read_by_its_prompt():
    assert (
        classify(Request(OPENAI, "completions", {"prompt": "Translate into German: hello"}, "m")).name == "translation"
    )


@pytest.mark.parametrize(
    "body", [{}, {"messages": [None, 3]}, {"messages": []}, {"prompt": [1, 2]}, {"system": 5, "input": None}]
)
def test_a_strange_body_is_chat_and_no_error(body):
    assert classify(Request(OPENAI, "chat", body, "m")).name == "chat"
