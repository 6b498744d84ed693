"""Settings, and what they wrote, for tests of which of them wrote it."""

from decoding.generation.run import generate
from decoding.scoring.teacher_forcing import TokenDocument
from decoding.settings.settings import DecodingSettings
from decoding.texts.prompts import encode_prompt


def parsed(specs):
    return [DecodingSettings.parse(spec) for spec in specs]


def drawn(language_model, spec, samples=1, tokens=100, prompt="", seed=5):
    """Sequences of `tokens` drawn tokens at most, ready to be scored."""
    context = encode_prompt(language_model.tokenizer, prompt)
    settings = DecodingSettings.parse(spec)
    generations = generate(
        language_model, prompt, settings, max_new_tokens=tokens,
        num_return_sequences=samples, seed=seed, batch_size=32,
    )  # fmt: skip
    return [TokenDocument(each.trace.ids.tolist(), context) for each in generations]


def ids_of(language_model, text):
    return language_model.tokenizer(text, add_special_tokens=False)["input_ids"]
