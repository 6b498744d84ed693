# %% [markdown]
# # Probability and information, on a real row
#
# Courses explain entropy with coins and dice. Here each idea meets one row of numbers that a
# language model really gave, the small one inside this package. What the text says of it, an
# `assert` in a cell beside it checks.
#
# To run this notebook yourself: `pip install -e '.[plot]' jupyterlab` in a checkout of the toolkit.

# %%
from math import exp, log

import matplotlib.pyplot as plt
import numpy as np
import torch

from decoding import DecodingSettings, generate, load_model
from decoding import information as info

language_model = load_model()
model, tokenizer = language_model.model, language_model.tokenizer


def rows(text):
    """The model's logits after each token of a text, (seq, vocab), and the ids, (seq)."""
    encoded = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        return model(**encoded).logits[0], encoded.input_ids[0]


def bars(ax, values, ids):
    """One bar for each token."""
    ax.barh([tokenizer.decode([i]) for i in ids][::-1], values.flip(0))


row = rows("The cat sat on the")[0][-1]
len(row)

# %% [markdown]
# ## Softmax and log-sum-exp
#
# After “The cat sat on the” the model gives one logit *z* to each of its 2048 tokens. Softmax makes
# probabilities of them: p = exp(z − A), where A = ln Σ exp z is the log-partition.

# %%
p = DecodingSettings().log_probs(row)  # log-probabilities of the model as it is
top = row.topk(12).indices
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
bars(axes[0], row[top], top)
bars(axes[1], p.exp()[top], top)
axes[0].set_title("logit z")
axes[1].set_title("probability p")

assert len(row) == 2048
assert np.isclose(float(p.exp()[top[0]]), 0.186, atol=0.001)

# %% [markdown]
# “ground” gets 0.186. Now sharpen the row by a temperature of 0.05: every logit is divided by it.
# The largest becomes 172.6, and exp(172.6) does not fit into a 32-bit float, which ends at
# exp(88.7). Naive code divides infinity by infinity. Subtracting the largest logit first changes
# nothing in the result, and keeps every exponential at most 1.

# %%
z = row.numpy() / np.float32(0.05)
with np.errstate(over="ignore", invalid="ignore"):
    naive = np.exp(z) / np.exp(z).sum()
stable = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
ours = DecodingSettings(temperature=0.05).log_probs(row).exp()

for name, probs in (("naive", naive), ("stable", stable), ("ours", ours.numpy())):
    print(name, probs[top[:4]])
assert np.allclose([z.max(), log(np.finfo(np.float32).max)], [172.6, 88.7], atol=0.1)
assert np.isnan(naive[top[0]]) and np.allclose(stable, ours, atol=1e-5)

# %% [markdown]
# ## Entropy is the surprise to expect
#
# The surprisal of a token is −ln p: 0 if it was certain, 1 nat if it had one chance in *e*. Entropy
# is the mean surprisal before the token is known. `score` gives both at each token of a text.

# %%
from decoding_evals.score import score

[document] = score(language_model, ["Once upon a time there was a little dog who ate the moon."])
document

# %%
document.plot()

# %% [markdown]
# After “Once upon a” the model expected hardly anything but “time”, which cost 0.01 nats. “ate” and
# “mo”, with which the moon begins, cost 7.7 and 8.2 where 1.92 and 4.65 were expected: an odd dog.
# Entropy itself is a sum that NumPy writes in a line.

# %%
H = float(info.entropy(p))
print(f"{H:.3f} nats, as many as of {exp(H):.0f} equally likely tokens")
assert np.isclose(H, -np.sum(np.exp(p.double().numpy()) * p.double().numpy()), atol=1e-5)
assert np.isclose(H, 3.330, atol=0.001)
assert np.allclose(document.surprisal_nats[[10, 12]], [7.7, 8.2], atol=0.05)
assert np.allclose(document.entropy_nats[[10, 12]], [1.92, 4.65], atol=0.01)
assert np.isclose(document.surprisal_nats[3], 0.01, atol=0.005)

# %% [markdown]
# ## Cross-entropy is likelihood
#
# The probability of a text is the product of its tokens'. Its negative logarithm is the sum of
# surprisals, and a token's share of that is the cross-entropy: what training minimises. Its
# exponential is the perplexity.

# %%
logits, ids = rows(document.text)
cross_entropy = torch.nn.functional.cross_entropy(logits[:-1], ids[1:])
surprisals = info.surprisal(logits[:-1].log_softmax(-1), ids[1:])
print(f"{surprisals.sum():.2f} nats, {len(surprisals)} tokens, perplexity {exp(cross_entropy):.1f}")
assert torch.isclose(surprisals.mean(), cross_entropy)

# %% [markdown]
# ## Maximum likelihood of a temperature
#
# A story drawn at temperature 0.7. Whoever does not know that can ask: under which temperature is
# the story least surprising? The curve is convex in 1/T, so Newton's method finds the bottom in a
# few steps, and its curvature there gives the error.

# %%
from decoding import fit_temperature

tempered = DecodingSettings(temperature=0.7)
[story] = generate(language_model, "Once upon a time", tempered, max_new_tokens=120, seed=1)
begin = len(story.prompt_ids)
with torch.no_grad():
    sequence = torch.tensor([[*story.prompt_ids, *story.trace.ids.tolist()]])
    logits = model(sequence).logits[0, begin - 1 : -1]
written = sequence[0, begin:]
fit = fit_temperature(logits, written)

grid = np.linspace(0.4, 1.3, 46)
costs = [info.surprisal((logits / t).log_softmax(-1), written).sum() for t in grid]
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.plot(grid, costs)
ax.axvline(fit.temperature, color="k", label="likeliest")
ax.axvspan(*fit.confidence_interval, alpha=0.2, label="95 % interval")
ax.set(xlabel="temperature", ylabel="surprisal of the story, nats")
ax.legend()
print(story.text)
assert abs(grid[np.argmin(costs)] - fit.temperature) < 0.02
assert np.allclose([fit.temperature, *fit.confidence_interval], [0.72, 0.63, 0.83], atol=0.01)

# %% [markdown]
# The likeliest temperature is 0.72, and the interval from 0.63 to 0.83 holds the true 0.7.
#
# ## MAP: a prior for small samples
#
# From the first three tokens alone, the likeliest temperature is 0: each of them was the model's
# favourite. A prior that expects ln T within 0.5 of ln 1 turns that into a sane 0.88, the mode of
# the posterior (maximum a posteriori). With all 120 tokens the prior hardly matters.

# %%
from decoding.inference import LogNormalPrior

prior = LogNormalPrior(median=1, scale=0.5)
few = fit_temperature(logits[:3], written[:3], prior)
whole = fit_temperature(logits, written, prior)
for one in (few, whole):
    print(f"{one.tokens} tokens: likeliest {one.temperature:.2f}, MAP {one.map_temperature:.2f}")
assert few.temperature == 0 and len(written) == 120
assert np.isclose(few.map_temperature, 0.88, atol=0.01)
assert abs(whole.temperature - whole.map_temperature) < 0.01

# %% [markdown]
# ## Weight decay is a Gaussian prior
#
# Is the model's favourite right more often where the entropy is low? One weight *w* says so:
# P(right) = σ(w·x), with x the entropy in standard units. Training with weight decay λ finds
# the mode of the posterior under the prior w ~ N(0, 1/λ).

# %%
from decoding.inference import log_posterior

logits, ids = rows(document.text)
x = info.entropy(logits[:-1].log_softmax(-1))
x = (x - x.mean()) / x.std()
right = (logits[:-1].argmax(-1) == ids[1:]).float()


def cost(w):
    """The surprisal of what was right and what was not."""
    return torch.nn.functional.binary_cross_entropy_with_logits(w * x, right, reduction="sum")


def trained(decay):
    """The weight that gradient descent finds."""
    w = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, weight_decay=decay)
    for _ in range(300):
        optimizer.zero_grad()
        cost(w).backward()
        optimizer.step()
    return w.item()


weights = np.linspace(-4, 2, 601)
log_likelihoods = [-cost(w).item() for w in weights]
bell = np.exp(-(weights**2) / 2)  # N(0, 1), so the decay is 1
densities = {
    "prior": bell / bell.sum(),
    "likelihood": np.exp(log_posterior(log_likelihoods)),
    "posterior": np.exp(log_posterior(log_likelihoods, bell)),
}
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for name, density in densities.items():
    ax.plot(weights, density / density.max(), label=name)
ax.axvline(trained(0), color="C1", linestyle=":", label="trained without decay")
ax.axvline(trained(1), color="C2", linestyle=":", label="trained with decay 1")
ax.set(xlabel="w", yticks=[])
ax.legend()

for decay, name in ((0, "likelihood"), (1, "posterior")):
    assert abs(trained(decay) - weights[densities[name].argmax()]) < 0.01
assert np.allclose([trained(0), trained(1)], [-0.99, -0.69], atol=0.01)

# %% [markdown]
# Without decay *w* is −0.99, the peak of the likelihood; decay draws it to −0.69, the peak of the
# posterior. It is negative: the surer the model, the more often it is right.
#
# ## Bayes' rule
#
# One mail in ten is spam, so the prior is 0.1. A word stands in 0.8 of the spam and in 0.01 of the
# other mail. A mail with that word is spam with probability 0.899.

# %%
spam, other = np.exp(log_posterior([log(0.8), log(0.01)], prior=[0.1, 0.9]))
print(spam)
assert np.isclose(spam, 0.1 * 0.8 / (0.1 * 0.8 + 0.9 * 0.01))
assert np.isclose(spam, 0.899, atol=5e-4)

# %% [markdown]
# The same rule says who wrote a text. Candidates are settings, the likelihood is the probability
# that each gives to the story, and every token moves the odds.

# %%
from decoding import TokenDocument
from decoding_evals.identify import identify

candidates = ["raw", "temperature=0.7", "temperature=0.5", "top_p=0.9"]
ids = TokenDocument(story.trace.ids.tolist(), story.prompt_ids)
[found] = identify(language_model, [ids], candidates)
found

# %%
assert str(found.decided.setting) == "temperature=0.7"
assert round(found.posterior[1], 4) == 1.0000 and found.candidates[3].ruled_out.text == " puppy"

found.plot()

# %% [markdown]
# Temperature 0.7 has a posterior of 1.0000. One token, “ puppy”, rules `top_p=0.9` out: it was not
# in the nucleus, and a likelihood of 0 stays 0.
#
# ## KL divergence is not symmetric
#
# KL(q‖p) is the extra surprise of whoever expects *p* where *q* draws. Here *q* is the row at
# temperature 0.5, and *r* its nucleus of mass 0.8.

# %%
q = DecodingSettings(temperature=0.5).log_probs(row)
r = DecodingSettings(top_p=0.8).log_probs(row)
names, those = ["p: raw", "q: temperature=0.5", "r: top_p=0.8"], [p, q, r]
table = np.array([[float(info.kl_divergence(a, b)) for b in those] for a in those])

fig, ax = plt.subplots(figsize=(8, 3), layout="constrained")
for shift, (name, one) in enumerate(zip(names, those, strict=True)):
    ax.bar(np.arange(12) + 0.28 * (shift - 1), one.exp()[top], 0.28, label=name)
ax.set_xticks(range(12), [tokenizer.decode([i]) for i in top], rotation=40)
ax.legend()
print(table.round(3))
mass = p.exp()[r.isfinite()].sum()
assert np.isclose(table[1, 0], (q.exp() * (q - p)).sum(), atol=1e-5)
assert np.allclose([table[1, 0], table[0, 1]], [0.39, 1.02], atol=0.005)
assert np.isclose(table[2, 0], -log(mass), atol=1e-5) and table[0, 2] == np.inf

# %% [markdown]
# KL(q‖p) is 0.39 and KL(p‖q) is 1.02. The nucleus costs −ln of the mass that it keeps; the other
# way round KL is infinite, because *p* still draws words that *r* has ruled out.
#
# ## Mutual information: what an ensemble disagrees about
#
# The entropy of a mean is at least the mean of the entropies. The difference is the information
# between the next word and the member that one listens to. Three phrasings of one question agree;
# three animals do not.

# %%
phrasings = ["She had a pet", "She had a new pet", "She loved her pet"]
ensembles = {
    "phrasings": [f"{phrasing}. It was a" for phrasing in phrasings],
    "animals": [f"The {animal} lived in the" for animal in ("fish", "bird", "bear")],
}
shared = {}
for name, prompts in ensembles.items():
    members = torch.stack([rows(prompt)[0][-1].log_softmax(-1) for prompt in prompts])
    shared[name] = float(info.mutual_information(members))
    mean = members.exp().mean(0).log()
    assert np.isclose(shared[name], info.entropy(mean) - info.entropy(members).mean(), atol=1e-5)
    print(name, f"H {info.entropy(mean):.2f} nats, of them {shared[name]:.3f} disagreement")

assert np.allclose([shared["phrasings"], shared["animals"], log(3)], [0.05, 0.47, 1.10], atol=0.005)

# %% [markdown]
# The phrasings share all but 0.05 nats. The animals disagree by 0.47, of at most ln 3 = 1.10. Yet
# the entropy is higher for the pets: many words are possible, and everyone agrees on that.
#
# ## Attention has entropy, too
#
# Each head spreads its weight over the tokens before it. Normalised entropy is 0 for a look at one
# token, and 1 for an even look at all.

# %%
from decoding_evals.attention import attention

[looks] = attention(language_model, [document.text])
heads = np.stack(looks.normalized_entropy)  # (layers, heads)
assert np.allclose([heads[2].min(), heads[0].max()], [0.38, 0.99], atol=0.005)
assert (heads.min(), heads.max()) == (heads[2].min(), heads[0].max())

looks.plot()

# %% [markdown]
# The broadest head, at 0.99, is in the first layer; the narrowest, at 0.38, in the third.
#
# ## A loss that likes entropy
#
# Train the row of the cat on five words that came, and it learns their frequencies and forgets that
# anything else was possible. The entropy-regularised loss, cross-entropy − β·entropy, keeps it
# from being so sure.

# %%
from decoding.information import regularized_cross_entropy

came = torch.tensor(tokenizer.encode(" floor floor floor table ground"))
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
final = {}
for beta in (0, 0.1, 0.3):
    z = row.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.1)
    path = []
    for _ in range(300):
        optimizer.zero_grad()
        regularized_cross_entropy(z.expand(5, -1), came, beta=beta).mean().backward()
        optimizer.step()
        path.append(float(info.entropy(z.detach().log_softmax(-1))))
    ax.plot(path, label=f"β = {beta}")
    final[beta] = path[-1]
ax.set(xlabel="step", ylabel="entropy of the row, nats")
ax.legend()
assert np.isclose(final[0], -0.6 * log(0.6) - 0.4 * log(0.2), atol=0.03)  # 3, 1 and 1 of 5
assert np.allclose([H, final[0], final[0.1], final[0.3]], [3.33, 0.97, 1.29, 4.99], atol=0.01)

# %% [markdown]
# Without the term, the entropy falls from 3.33 to 0.97, nearly that of the five words. With β = 0.1
# it stops at 1.29; with β = 0.3 the wish for entropy wins, and the row ends flatter, at 4.99.
#
# ## Temperature and top-p, together
#
# 13 temperatures and 11 nuclei are 143 settings of the one row. `compare_rows` sorts it once for
# all of them.

# %%
from decoding.information import compare_rows
from decoding.settings import parse_grid

settings = parse_grid("temperature=0.3:1.5:0.1,top_p=0.5:1:0.05")
table = compare_rows(row[None], torch.tensor([int(top[0])]), settings)
values = table.entropy[0].reshape(13, 11)
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
image = ax.pcolormesh(np.linspace(0.5, 1, 11), np.linspace(0.3, 1.5, 13), values)
fig.colorbar(image, label="entropy, nats")
ax.set(xlabel="top_p", ylabel="temperature")

one = DecodingSettings.parse("temperature=0.7,top_p=0.9")
values = dict(zip(settings, table.entropy[0], strict=True))
assert len(values) == 143 and np.isclose(values[one], info.entropy(one.log_probs(row)), atol=1e-4)

# %% [markdown]
# Dark rows and columns are sure, bright ones are open; the step at the right edge is the long tail,
# which top-p alone takes away. How to choose among them is [another notebook](choosing.py).
#
# And along a text? `page` keeps of each row what sliders need. A begins at temperature 0.7 and
# top-p 0.9, B is the model as it is. A takes the mean entropy from 1.55 nats to 0.59, and no dog of
# its would ever have eaten the moon: it cuts “dog”, “ate” and “moon” off. Move the sliders until it
# may, and walk along the tokens with the arrow keys. (Without scripts, a table stands here.)

# %%
[moved] = score(language_model, [document.text], setting=one, page=192)
q = moved.under_setting
cut = [word for word, cost in zip(moved.texts(), q.surprisal_nats, strict=True) if cost == np.inf]
assert cut == [" there", " dog", " who", " ate", " mo", "on"]
assert np.allclose([moved.entropy_nats.mean(), q.entropy_nats.mean()], [1.55, 0.59], atol=0.005)

moved
