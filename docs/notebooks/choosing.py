# %% [markdown]
# # Choosing a decoding setting by its numbers
#
# Which temperature? Which top-p? People try values until the text looks good. Numbers get you there
# sooner, and you can say why. Here is the way, on the embedded model and a short story by a person.
# For your own model, change the name in `load_model` and the text.
#
# To run this notebook yourself: `pip install -e '.[plot,pandas]' jupyterlab` in a checkout.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from decoding import generate, load_model
from decoding.settings import parse_grid

language_model = load_model()
paragraphs = [
    "Once upon a time there was a little dog named Max. Max lived in a small house near the big "
    "park. Every day he ran to the park to play with his ball. One day the ball rolled under a "
    "tall tree. Max tried to get it, but he was too big. He was very sad.",
    'A little bird saw Max and flew down to him. "Why are you sad?" asked the bird. "My ball is '
    'under the tree and I can not reach it," said Max. The bird smiled and said, "I am small. I '
    'can help you." The bird hopped under the tree and pushed the ball out with her beak.',
    'Max was so happy that he jumped up and down. "Thank you!" he said. "Do you want to play '
    'with me?" The bird said yes. They played together until the sun went down. From that day '
    "on, Max and the bird were the best of friends.",
]

# %% [markdown]
# ## 1. Does the model know this kind of text?
#
# Fit a temperature to it. Near 1, the model is as surprised as it expects to be: it needs no
# correction. Above 1, it is too sure of itself.

# %%
from decoding_evals.calibrate import calibrate

fitted = calibrate(language_model, paragraphs, held_out=0, coverage=0.95)
fitted

# %%
sonnet = (
    "Shall I compare thee to a summer's day? Thou art more lovely and more temperate. Rough winds "
    "do shake the darling buds of May, and summer's lease hath all too short a date."
)
strange = calibrate(language_model, [sonnet], held_out=0)
print(f"stories: {fitted.temperature:.2f}, Shakespeare: {strange.temperature:.2f}")

low, high = fitted.confidence_interval
assert np.allclose([low, fitted.temperature, high], [0.92, 1.00, 1.08], atol=0.01)
assert np.isclose(strange.temperature, 1.42, atol=0.01)

# %% [markdown]
# For stories the temperature is 1.00, with an interval from 0.92 to 1.08. For Shakespeare it is
# 1.42: this model has never read him, and does not know that it has not.
#
# ## 2. What may be cut?
#
# A cut protects from the long tail of tokens that are each improbable and together are not. Its
# price is **coverage**: the share of a person's words that the setting could still have written.

# %%
from decoding_evals.compare import compare

settings = parse_grid("temperature=0.6:1.2:0.2,top_p=0.8|0.9|0.95|1")
comparison = compare(language_model, paragraphs, settings)
comparison.plot()

# %%
table = comparison.to_pandas().set_index("setting")
columns = ["entropy_nats", "effective_choices", "kept", "coverage", "cross_entropy_nats"]
some = ["raw", "top_p=0.95", "temperature=0.8,top_p=0.9", "temperature=0.6,top_p=0.8"]
table.loc[some, columns].round(3)

# %%
print(fitted.setting)

assert np.isclose(fitted.setting.top_p, 0.946, atol=0.001)
assert np.isclose(table.coverage["top_p=0.95"], 0.953, atol=0.001)
assert np.isclose(table.coverage["temperature=0.6,top_p=0.8"], 0.686, atol=0.001)
assert table.kept["raw"] == 2048 and np.isclose(table.kept["top_p=0.95"], 37.7, atol=0.1)

# %% [markdown]
# `top_p=0.95` keeps 37.7 of 2048 tokens on average and still covers 0.953 of the story. The careful
# `temperature=0.6,top_p=0.8` covers 0.686: nearly a third of it could not have been written.
# Asked for a nucleus that covers 0.95, `calibrate` names the mass 0.946.
#
# ## 3. Is the model's own text like a person's?
#
# Text that is *more* probable than a person's reads dull and repeats itself; text that is much less
# probable falls apart. So write a little under each candidate, and measure it under the model as it
# is. The line to meet is the surprisal of the person's story.

# %%
from decoding_evals.score import score

person = np.concatenate([one.surprisal_nats for one in score(language_model, paragraphs)]).mean()


def measured(setting, stories=8):
    """Surprisal of what the model writes under a setting, and how varied its stories are."""
    written = generate(
        language_model,
        "Once upon a time",
        setting,
        max_new_tokens=80,
        num_return_sequences=stories,
        seed=1,
    )
    surprisals = np.concatenate([one.trace.raw_surprisal_nats for one in written])
    triples = [
        tuple(one.trace.ids[place : place + 3])
        for one in written
        for place in range(len(one.trace) - 2)
    ]
    return {
        "setting": str(setting),
        "surprisal_nats": surprisals.mean(),
        "distinct_triples": len(set(triples)) / len(triples),
        "kl_nats": np.concatenate([one.trace.kl_nats for one in written]).mean(),
    }


candidates = [
    "temperature=0.6,top_p=0.8",
    "temperature=0.8,top_p=0.9",
    "top_p=0.9",
    "top_p=0.95",
    "raw",
    "temperature=1.2",
]
results = pd.DataFrame([measured(one) for one in candidates]).set_index("setting")
results.round(3)

# %%
fig, ax = plt.subplots(figsize=(8, 3), layout="constrained")
ax.barh(results.index, results.surprisal_nats)
ax.axvline(person, color="k", label="the person's story")
ax.invert_yaxis()
ax.set_xlabel("mean surprisal under the model as it is, nats")
ax.legend()

assert np.isclose(person, 1.77, atol=0.01)
assert np.allclose(results.surprisal_nats.iloc[[0, 3, 4, 5]], [0.69, 1.71, 1.86, 3.41], atol=0.01)
assert np.allclose(results.distinct_triples.iloc[[0, 3]], [0.59, 0.92], atol=0.01)

# %% [markdown]
# The person's story costs 1.77 nats a token. `temperature=0.6,top_p=0.8` writes at 0.69: one story
# after the other begins alike, and only 0.59 of its triples of tokens are different ones.
# `temperature=1.2` writes at 3.41, word salad. `top_p=0.95`, at 1.71 and with 0.92 of the triples
# different, comes nearest; the model as it is, at 1.86, is not far off.
#
# ## 4. Decide
#
# No temperature (step 1), a nucleus of 0.95 (step 2), and the text is like a person's (step 3).
# What it costs is the KL from the model as it is, in the table above: under a twentieth of a nat.
# Here is a story; its sliders show what another setting would have made likely at each token.

# %%
[story] = generate(language_model, "Once upon a time", "top_p=0.95", max_new_tokens=120, seed=7)

assert results.kl_nats["top_p=0.95"] < 1 / 20
story.with_page(language_model)

# %% [markdown]
# These are the numbers of one small model and one short story. With a page of the text that *you*
# want, the same steps decide for yours. Where answers are right or wrong, measure that instead:
# [How sure is the model?](sure.py).
