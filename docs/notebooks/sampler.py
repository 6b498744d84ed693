# %% [markdown]
# # A sampler of your own
#
# A sampler takes the model's distribution and keeps some of its tokens. Here is one that this
# toolkit does not have, written in one cell. It then works wherever a built-in one does: in
# `generate`, inside `model.generate`, in `compare`, and in `identify`.
#
# To run this notebook yourself: `pip install -e '.[plot,pandas]' jupyterlab` in a checkout.
#
# ## The idea
#
# `top_k` keeps equally many tokens everywhere. But after “Once upon a” there is one sensible word,
# and after “The cat sat on the” there are dozens. Entropy counts them: e^H is the number of
# *effective choices*. Let us keep c times as many tokens as that.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from decoding import DecodingSettings, TokenDocument, generate, load_model
from decoding.information import entropy

language_model = load_model()
model, tokenizer = language_model.model, language_model.tokenizer

prompts = ["Once upon a", "Once upon a time, there was a girl named", "The cat sat on the"]
fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
choices = []
for ax, prompt in zip(axes, prompts, strict=True):
    with torch.no_grad():
        p = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1].log_softmax(-1)
    choices.append(float(entropy(p).exp()))
    top = p.topk(8).indices
    ax.barh([tokenizer.decode([i]) for i in top], p.exp()[top])
    ax.invert_yaxis()
    ax.set_title(f"{prompt} …\n{choices[-1]:.1f} effective choices", fontsize=9)


assert np.allclose(choices, [1.1, 9.8, 27.9], atol=0.05)

# %% [markdown]
# From 1.1 over 9.8 to 27.9: one number for all of them is too many here and too few there.
#
# ## The rule
#
# A rule that cuts is a subclass of `Cut`. It says what its number is called, which value means
# “off”, which values are allowed, and what it keeps, in the words that rows understand: here
# `first`, `exp`, and `entropy`.

# %%
from decoding.rules import Cut, Range

OFF_OR_MORE = Range("0 or >= 1", lambda value: value == 0 or value >= 1)


class EffectiveK(Cut):
    """Keep c·e^H tokens, the most probable first, rounded down."""

    field, neutral, range, example = "effective_k", 0.0, OFF_OR_MORE, "2"
    says = "keep {value} times as many tokens as there are effective choices"

    def keep(self, rows, c):
        return rows.first(c * rows.exp(rows.entropy))

    def looser(self, slack):
        """What rounding may have cut off, this keeps; `identify` asks for it."""
        return self.value * (1 + slack)


settings = DecodingSettings(extra=(EffectiveK(2),))
print(settings)

assert DecodingSettings.parse("effective_k=2") == settings

# %% [markdown]
# The text form reads back, and a value outside the range is refused in a sentence.

# %%
try:
    EffectiveK(0.5)
except ValueError as error:
    print(error)

# %% [markdown]
# ## Is it right?
#
# Test first, believe later. In NumPy the definition is a sort and a count. It must agree at every
# token of a text.

# %%
text = (
    "Once upon a time there was a little dog named Max. Every day he ran to the park to play with "
    "his ball. One day the ball rolled under a tall tree. Max was very sad. A little bird saw Max "
    "and pushed the ball out with her beak. They played together until the sun went down."
)
with torch.no_grad():
    logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
ours = settings.log_probs(logits).isfinite().numpy()

log_p = logits.double().log_softmax(-1).numpy()
size = np.floor(2 * np.exp(-(np.exp(log_p) * log_p).sum(-1))).astype(int)
place = np.argsort(np.argsort(-log_p, kind="stable"), kind="stable")
assert np.array_equal(ours, place < size[:, None])
print(
    f"kept at {len(size)} tokens: from {size.min()} to {size.max()}, median {np.median(size):.0f}"
)

# %% [markdown]
# ## Generate
#
# `kept` in the trace shows the rule at work: few tokens where the way is clear, many where it
# forks.

# %%
[story] = generate(language_model, "Once upon a time", settings, max_new_tokens=50, seed=3)
print(story.prompt + story.text)

trace = story.trace
fig, ax = plt.subplots(figsize=(10, 3), layout="constrained")
ax.bar(range(len(trace)), trace.kept)
ax.set_yscale("log")
ax.set_xticks(range(len(trace)), trace.texts, rotation=90, fontsize=7)
ax.set_ylabel("tokens kept")

assert (trace.kept <= 2 * np.exp(trace.raw_entropy_nats) + 1e-3).all()

# %% [markdown]
# An instance is a logits processor, too, for `model.generate` as you know it:

# %%
torch.manual_seed(1)
outputs = model.generate(
    **tokenizer("The little dog", return_tensors="pt"),
    logits_processor=[EffectiveK(2)],
    do_sample=True,
    top_k=0,
    max_new_tokens=20,
)
print(tokenizer.decode(outputs[0]))

# %% [markdown]
# ## Compare
#
# What does it cost, beside top-k and top-p? *Covered* is the share of the text's own tokens that a
# setting could have written. Good is much covered with few tokens kept.

# %%
from decoding_evals.compare import compare

families = {
    "top_k": ["top_k=2", "top_k=5", "top_k=10", "top_k=20"],
    "top_p": ["top_p=0.7", "top_p=0.8", "top_p=0.9", "top_p=0.95"],
    "effective_k": ["effective_k=1", "effective_k=1.5", "effective_k=2", "effective_k=4"],
}
comparison = compare(
    language_model, [text], [one for family in families.values() for one in family]
)
table = comparison.to_pandas().set_index("setting")
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
for name, family in families.items():
    ax.plot(table.loc[family, "entropy_nats"], table.loc[family, "coverage"], "o-", label=name)
ax.set(xlabel="mean entropy of q, nats", ylabel="covered")
ax.legend()
three = table.loc[["top_k=10", "effective_k=1.5", "top_p=0.9"]]
three[["entropy_nats", "kept", "kept_mass", "coverage"]].round(3)

# %%
assert np.allclose(three.entropy_nats, 1.0, atol=0.03)
assert np.allclose(three.coverage, [0.938, 0.892, 0.877], atol=0.001)
assert np.isclose(1 / comparison.account.tokens_scored, 0.015, atol=5e-4)

# %% [markdown]
# At an entropy of 1.0 nats `top_k=10` covers 0.938 of this text, the new rule 0.892, and
# `top_p=0.9` covers 0.877. So the idea is no wonder: it lies between the two. (One token of the
# text is worth 0.015, so try a longer one before you believe it.) Finding that out took one forward
# pass.
#
# ## Identify
#
# Bayes' rule takes the new rule like any other. Was the story above written with it?

# %%
from decoding_evals.identify import identify

drawn = TokenDocument(trace.ids.tolist(), story.prompt_ids)
[found] = identify(language_model, [drawn], ["effective_k=2", "raw", "top_p=0.9", "top_k=10"])
found

# %%
assert np.isclose(found.posterior[0], 0.934, atol=0.001)
assert [one.ruled_out is None for one in found.candidates] == [True, True, False, False]

# %% [markdown]
# Its posterior is 0.934. The two other cuts are ruled out, each by a token that it would not have
# kept. The model as it is can never be ruled out: whatever a cut writes, it could have written.
#
# A rule that works for others belongs into the toolkit: one class in `decoding/rules/`, one line in
# `DecodingSettings`, and a test against its definition like the one above.
