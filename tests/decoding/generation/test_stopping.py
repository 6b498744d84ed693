"""Where sequences end: EOS, stop strings, and what Ctrl-C keeps."""

from dataclasses import replace

import pytest

from decoding import EntropyMonitor, generate
from decoding.generation.stopping import StopStrings
from decoding.settings.policy import parse_setting
from oracle import GREEDY, TOY_TEXTS, decode, editing, saying, scripted, spoken, with_config


@pytest.mark.parametrize("stop", ["sat", "cat s", " th", ".", "日", "é!", "😀"])
@pytest.mark.parametrize("name", ["stories", "stories260k"])
def test_stop_strings_end_the_text_and_stay_in_it(name, stop, request):
    language_model = request.getfixturevalue(name)
    tokenizer = language_model.tokenizer
    continuation = " time the cat sat. 日 é! 😀 and so on and on and on"
    ids, generation = spoken(language_model, "Once upon a", continuation, stop=stop)
    prompt = list(tokenizer("Once upon a")["input_ids"])
    texts = [decode(tokenizer, [*prompt, *ids[:n]]) for n in range(1, len(ids) + 1)]
    start = len(decode(tokenizer, prompt))
    wanted = next(text[start:] for text in texts if stop in text[start:])
    assert generation.text == wanted
    assert generation.finish_reason == "stop"
    assert generation.text == "".join(generation.trace.texts)


@pytest.mark.parametrize("name", ["stories", "stories260k"])
def test_a_stop_string_right_behind_a_character_of_several_tokens(name, request):
    language_model = request.getfixturevalue(name)
    _, generation = spoken(language_model, "Once", " a 🎈. Then he ran.", stop=".")
    assert (generation.text, generation.finish_reason) == (" a 🎈.", "stop")


def test_a_stop_string_with_tokens_between_that_have_no_text(stories260k):
    tokenizer = stories260k.tokenizer
    begin, end = (tokenizer.convert_tokens_to_ids(letter) for letter in "en")
    silent = [tokenizer.bos_token_id] * 5
    (generation,) = generate(
        saying(stories260k, [begin, *silent, end, begin]), "Once", GREEDY, stop="en",
        max_new_tokens=9, seed=0,
    )  # fmt: skip
    assert (generation.text, generation.finish_reason) == ("en", "stop")
    assert len(generation.trace) == 7


@pytest.mark.parametrize(
    ("stop", "length"), [("<s>", 2), ("e<s>", 2), ("<s>n", 3), ("<s><unk>", 4), ("n<unk>e", 5)]
)
def test_a_stop_string_may_spell_special_tokens(stories260k, stop, length):
    tokenizer = stories260k.tokenizer
    said = [tokenizer.convert_tokens_to_ids(token) for token in ("e", "<s>", "n", "<unk>", "e")]
    if stop == "<s><unk>":
        said[2:4] = said[1:2] + said[3:4]
    model = saying(stories260k, said)
    (generation,) = generate(model, "Once", GREEDY, stop=[stop], max_new_tokens=6, seed=0)
    assert (len(generation.trace), generation.finish_reason) == (length, "stop")


def test_special_tokens_do_not_hide_plain_stop_strings_beside_them(stories260k):
    tokenizer = stories260k.tokenizer
    said = [tokenizer.convert_tokens_to_ids(token) for token in ("e", "<unk>", "n", "e")]
    (generation,) = generate(
        saying(stories260k, said), "Once", GREEDY, stop=["<s>", "en"], max_new_tokens=4, seed=0
    )
    assert (len(generation.trace), generation.finish_reason) == (3, "stop")


def test_a_look_for_stop_strings_reads_only_the_end_of_the_text(stories, monkeypatch):
    sizes = []
    decode = type(stories.tokenizer).decode

    def counting(self, ids, **how):
        sizes.append(len(ids))
        return decode(self, ids, **how)

    monkeypatch.setattr(type(stories.tokenizer), "decode", counting)
    stop = StopStrings(stories.tokenizer, ["zzzzz"])
    ids = list(range(300, 1300))
    assert not any(stop.end(ids[:n], 100) for n in range(101, 1000))
    assert max(sizes) < 100


def test_the_first_of_several_stop_strings_ends_the_text(stories):
    stops = ["mat", "zebra", "cat"]
    _, generation = spoken(stories, "Once", " the cat sat on the mat", stop=stops)
    assert generation.text == " the cat"


def test_stop_strings_of_the_prompt_stop_nothing(stories):
    continuation = " the cat sat on the mat"
    _, generation = spoken(stories, "Once upon a time", continuation, stop="time")
    assert (generation.text, generation.finish_reason) == (continuation, "length")


def test_a_stop_string_must_lie_in_the_continuation(stories):
    """`a cat` begins in the prompt, so it does not appear in the text."""
    continuation = " cat sat on the mat"
    _, generation = spoken(stories, "Once upon a", continuation, stop="a cat")
    assert (generation.text, generation.finish_reason) == (continuation, "length")


def test_a_row_that_stops_does_not_stop_the_others(stories):
    tokenizer = stories.tokenizer
    long, short = " the cat sat on the mat", " it was. And so on"
    rows = [tokenizer(text)["input_ids"] for text in (long, short)]
    first, second = generate(
        saying(stories, *rows), ["Once", "Tom"], GREEDY, stop=".", seed=0,
        max_new_tokens=len(rows[0]),
    )  # fmt: skip
    assert (first.text, first.finish_reason) == (long, "length")
    assert (second.text, second.finish_reason) == (" it was.", "stop")
    assert len(second.trace) < len(first.trace)


@pytest.mark.parametrize("script", [[4, 5, 0], [0], [4, 5, 6, 7]])
def test_finish_reasons(toy, script):
    tokenizer = toy.tokenizer
    (generation,) = generate(saying(toy, script), "a b", GREEDY, max_new_tokens=4, seed=0)
    assert generation.trace.ids.tolist() == script
    assert generation.finish_reason == ("eos" if script[-1] == 0 else "length")
    assert decode(tokenizer, [1, 2]) + generation.text == decode(tokenizer, [1, 2, *script])


def test_beams_end_at_eos(toy):
    model = toy.model
    sure = scripted(model, [4, 5, 0, 6], [4, 5, 0, 6])
    (generation,) = generate(replace(toy, model=sure), "a b", num_beams=2, max_new_tokens=6, seed=0)
    assert (generation.trace.ids.tolist(), generation.finish_reason) == ([4, 5, 0], "eos")


def test_the_tokenizers_eos_ends_where_the_configuration_names_none(toy):
    model = toy.model
    silent = with_config(scripted(model, [4, 0, 5]), eos_token_id=None)
    (generation,) = generate(replace(toy, model=silent), "a b", GREEDY, max_new_tokens=4, seed=0)
    assert (generation.trace.ids.tolist(), generation.finish_reason) == ([4, 0], "eos")


def test_every_eos_of_a_list_ends(toy):
    model = toy.model
    several = with_config(scripted(model, [4, 5, 6], [4, 0], [4, 4, 7]), eos_token_id=[0, 6])
    generations = generate(replace(toy, model=several), TOY_TEXTS, GREEDY, max_new_tokens=3, seed=0)
    assert [g.finish_reason for g in generations] == ["eos", "eos", "length"]


# Interrupts.


def test_what_is_finished_is_handed_over_when_interrupted(toy):
    def interrupt(step, logits):
        if step == 3:
            raise KeyboardInterrupt
        return logits

    seen = []
    with pytest.raises(KeyboardInterrupt):
        generate(
            replace(toy, model=editing(toy.model, interrupt)), TOY_TEXTS * 2, max_new_tokens=1,
            seed=0, batch_size=1, on_generation=seen.append,
        )  # fmt: skip
    want = generate(toy, TOY_TEXTS * 2, max_new_tokens=1, seed=0)
    # Shortest first: both copies of the first prompt and one of the second were done.
    assert [generation.text for generation in seen] == [want[i].text for i in (0, 1, 3)]


@pytest.mark.parametrize("where", ["pass", "step"])
def test_rows_that_have_ended_are_handed_over_when_their_batch_is_interrupted(
    stories, monkeypatch, where
):
    """Rows end at EOS, at a stop string, by a policy, and not at all."""
    model, tokenizer = stories.model, stories.tokenizer
    end, dog = model.generation_config.eos_token_id, tokenizer(" dog")["input_ids"]

    def interrupt(step, logits):
        if where == "pass" and step == 3:
            raise KeyboardInterrupt
        if step == 2:
            logits[2] = 0  # an entropy that ends the row
        return logits

    def record(self, measures):
        if where == "step" and self.steps == 3:
            raise KeyboardInterrupt
        return recording(self, measures)

    recording = EntropyMonitor.record
    monkeypatch.setattr(EntropyMonitor, "record", record)
    written = [[7, end], [7, *dog], [7, 8, 9], [7, 8, 9]]
    policy = parse_setting("raw while entropy<=3 else stop")
    seen = []
    with pytest.raises(KeyboardInterrupt):
        generate(
            replace(stories, model=editing(scripted(model, *written), interrupt)), ["Once"] * 4,
            policy, stop="dog", seed=0, max_new_tokens=9, on_generation=seen.append,
        )  # fmt: skip
    assert [(one.index, one.finish_reason) for one in seen] == [
        (0, "eos"), (1, "stop"), (2, "entropy"),
    ]  # fmt: skip
    assert [one.trace.ids.tolist() for one in seen] == [*written[:2], [7, 8]]
    assert all(len(one.trace.raw_entropy_nats) == len(one.trace.ids) for one in seen)


def test_an_interrupt_of_the_first_look_for_a_stop_string_is_one(toy, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("decoding.generation.stopping.StopStrings.end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(toy, TOY_TEXTS, max_new_tokens=5, seed=0, stop="x")
