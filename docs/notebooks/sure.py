# %% [markdown]
# # How sure is the model?
#
# A model answers every question, whether it knows or not. This notebook goes from one question to
# a promise, *of the answers that I give, at most so many are wrong*, and lets the model be silent
# where it could not keep it.
#
# The embedded model has read children's stories, so its questions are sentences to complete. With
# a larger model, ask what you like: nothing else changes.
#
# To run this notebook yourself: `pip install -e '.[plot,pandas]' jupyterlab` in a checkout.
#
# ## One question

# %%
import numpy as np
import pandas as pd

from decoding import load_model
from decoding_evals.uncertainty import PromptRow, uncertainty

language_model = load_model()
how = {"num_samples": 5, "max_new_tokens": 4, "seed": 1, "stop": [".", ",", "!"]}
[one] = uncertainty(language_model, [PromptRow("The dog wagged his", references=("tail",))], **how)
one

# %% [markdown]
# The greedy answer is right, and its probability says that the model meant it. The *entropy* of the
# whole answer is estimated from five samples: how many different answers does the model have?
#
# ## Many questions
#
# Some are what stories are full of; of others a small model knows little.

# %%
QUESTIONS = """
They lived happily ever | after · The sun is very | hot ·
The fish swims in the | water · The sky is | blue · The grass is | green ·
At night she saw the moon and the | stars · He was tired, so he went to | bed ·
She was hungry, so she ate an | apple · The ball was big and | red ·
Tom was sad and began to | cry · The baby was tired and wanted to | sleep ·
He opened the door and went | inside · She kissed her mom and | dad ·
The boy put on his coat and his | hat · The bunny liked to | hop ·
The princess lived in a | castle · The king sat on his | throne ·
The farmer had a cow and a | horse · The ice was very | cold · The fire was very | hot ·
She cut the paper with | scissors · He brushed his | teeth · She washed her | hands ·
He said he was very | sorry · They went to the park to | play ·
The boat sailed on the | sea · The bear slept in a | cave · The bee made | honey ·
The spider made a | web · The hen sat on her | eggs · Please and thank | you ·
He fell down and hurt his | knee · The doctor gave him some | medicine ·
They built a tower with | blocks · Mom cooked dinner in the | kitchen ·
The mouse ate the | cheese · The monkey ate a | banana · The rabbit ate a | carrot ·
The dog wagged his | tail · The tree was very | tall · The elephant was very | big ·
The boy kicked the | ball · They held each other's | hands ·
She gave her mom a big | hug · He climbed to the top of the | tree ·
The train went | fast · She looked in the mirror and saw | herself ·
Lily and her mom went to the | park · They became best | friends ·
Tom and Sue played in the park all | day · She said thank you and gave him a big | hug ·
One day, a little girl went for a walk in the | park ·
The little girl played with her | toys ·
Tim had a toy car. He liked to play with his toy | car ·
They laughed and played until the sun went | down ·
It was getting late, so they went | home · He did not know what to | do ·
The boy was happy and had a big smile on his | face · She put the flowers in a | vase ·
He was so happy that he jumped up and | down · Mom said it was time to go | home ·
He looked up and saw a bird in the | sky · The cat chased the | mouse ·
She made a wish and blew out the | candles · The little boy was afraid of the | dark ·
They went to the beach and made a sand | castle ·
The wind blew and the leaves fell to the | ground ·
He threw the ball and the dog ran to get | it · She was sad because she lost her | toy ·
After dinner he brushed his teeth and went to | bed ·
The teacher told the children to sit | down ·
She looked everywhere, but she could not find | it ·
The bird sat in the tree and began to | sing · The cow gave them | milk ·
The stove was hot, so mom said to be | careful · He learned that it is good to | share ·
The children ran and played in the | park ·
Once there was a boy who loved to play with his | toys · The snow was white and | cold ·
The moon was big and | bright · She was brave and not | afraid ·
The farmer lived on a | farm · He put on his shoes and went | outside ·
They shared the cookies and were very | happy ·
The little fish was lost and wanted to find his | mom · Dad said he was proud of | her ·
She got a new doll for her | birthday · He hid behind a big | tree ·
They saw a big slide and a | swing · The puppy was lost and felt very | sad
"""
rows = []
for question in QUESTIONS.replace("\n", " ").split("·"):
    prompt, word = question.split("|")
    rows.append(PromptRow(prompt.strip(), (word.strip(),)))
asked = list(uncertainty(language_model, rows, **how))
right = np.array([one.correct for one in asked])
print(f"{right.sum()} of {len(right)} right")

for one in asked[:5]:
    print("right |" if one.correct else "wrong |", one.row.prompt, "→", one.greedy.text.strip())

assert (right.sum(), len(right)) == (41, 90)

# %% [markdown]
# 41 of 90 answers are right: they contain the word that we had in mind. That is a rule, no judge:
# “The fish swims in the ocean” counts as wrong, because we said “water”.
#
# ## Does the number mean something?
#
# A useful uncertainty is larger where the answer is wrong. The **AUROC** is the chance that it is,
# for a wrong answer and a right one picked at random: one half is worthless, 1 is perfect. We pick
# one estimator *now*, before we see how well it does: `Perplexity`, the mean surprisal a token of
# the greedy answer. Questions are dealt at random into 60 to learn from, and 30 to be tested on.

# %%
from decoding_evals.judging.selective import auroc
from decoding_evals.uncertainty.summary import EstimatorEvaluation, evaluate

deal = np.random.default_rng(0).permutation(len(asked))
learned, tested = [asked[place] for place in deal[:60]], [asked[place] for place in deal[60:]]
assert len(tested) == 30
shown = ["Perplexity", "MeanTokenEntropy", "SemanticEntropy", "PTrue"]
records = [one.record() for one in learned]
for record in records:
    record["estimators"] = {name: record["estimators"][name] for name in shown}
evaluation = EstimatorEvaluation(language_model.name, "raw", "contains", evaluate(records))
evaluation

# %%
evaluation.plot()

# %%
perplexity = np.array([one.estimators["Perplexity"] for one in learned])
correct = np.array([one.correct for one in learned])
area = auroc(perplexity, correct)

pairs = perplexity[~correct][:, None] > perplexity[correct]  # each wrong answer with each right one
assert np.isclose(area, pairs.mean()) and np.isclose(area, 0.775, atol=0.001)
assert np.isclose(correct.mean(), 0.417, atol=0.001)
entries = evaluation.evaluation["estimators"]
assert np.isclose(entries["PTrue"]["auroc"], 0.448, atol=0.001)

# %% [markdown]
# Of the 60 answers 0.417 are right. `Perplexity` has an AUROC of 0.775. `PTrue`, which asks the
# model for its own opinion, has 0.448, no better than a coin: a model this small has no opinion of
# itself. The intervals are wide, since 60 questions are few.
#
# ## Abstain, with a promise
#
# Now find the largest uncertainty below which answers are wrong at most 0.4 of the time, and let
# that hold with probability 0.9 over the draw of the questions. A rate on 60 questions is not yet a
# promise; the bound of Clopper and Pearson on top of it is.

# %%
from math import comb

from decoding_evals.judging.abstention import abstention_threshold

found = abstention_threshold(perplexity, correct, risk=0.4, confidence=0.9)
pd.Series(found.record())

# %%
lucky = sum(comb(found.kept, k) * 0.4**k * 0.6 ** (found.kept - k) for k in range(found.wrong + 1))
assert lucky <= 1 - 0.9  # so few wrong ones would be luck, if each were wrong with probability 0.4
assert (found.kept, found.wrong) == (16, 3) and np.isclose(found.threshold, 0.700, atol=0.001)

# %% [markdown]
# It keeps 16 answers, 3 of them wrong, those with less than 0.700 nats a token. If each were wrong
# with probability 0.4, so few wrong ones would come less than one time in ten.
#
# The other 30 questions were not looked at until now.

# %%
for one in tested:
    answer = one.greedy.text if one.estimators["Perplexity"] < found.threshold else " …"
    print("right |" if one.correct else "wrong |", one.row.prompt + answer)

# %%
kept = np.array([one.correct for one in tested if one.estimators["Perplexity"] < found.threshold])
everything = np.array([one.correct for one in tested])
print(f"{1 - kept.mean():.2f} of the answers given are wrong, of all {1 - everything.mean():.2f}")

assert (len(kept), (~kept).sum(), (~everything).sum(), len(tested)) == (14, 2, 14, 30)

# %% [markdown]
# The model answers 14 of the 30 questions, and 2 of these answers are wrong. Had it answered all,
# 14 would have been.
#
# And a stricter promise?

# %%
strict = abstention_threshold(perplexity, correct, risk=0.2, confidence=0.9)
print(strict.threshold, strict.coverage)

assert strict.threshold is None and strict.coverage == 0 and strict.prompts == 60

# %% [markdown]
# At most 0.2 wrong: with these 60 questions nobody can promise that for this model, so it keeps
# nothing. More questions, or a better model, and it will.
#
# ## What everybody agrees on, and what not
#
# Entropy alone does not say *why* a model is unsure. Ask in other words. Where the phrasings agree
# that much is open, much is open; where they disagree, it is the model that does not know.

# %%
phrased = [
    PromptRow("She had a pet. It was a", paraphrases=("She had a new pet. It was a",)),
    PromptRow("He fell down and hurt his", paraphrases=("He fell off the swing and hurt his",)),
    PromptRow("The bird lived in the", paraphrases=("The home of the bird was in the",)),
]
split = {
    one.row.prompt: one.epistemic["phrasing"].record()["next_token"]
    for one in uncertainty(language_model, phrased, **how)
}
table = pd.DataFrame(split).T
table.round(3)

# %%
assert np.allclose(table.total_nats, table.aleatoric_nats + table.mutual_information_nats)
pet, bird = table.iloc[0], table.iloc[2]
assert np.allclose([pet.total_nats, pet.mutual_information_nats], [4.97, 0.02], atol=0.005)
assert np.allclose([bird.total_nats, bird.mutual_information_nats], [3.37, 0.14], atol=0.005)

# %% [markdown]
# The pet is the more open question, with 4.97 nats, and both phrasings agree that it is: they
# disagree about 0.02. The bird's home has 3.37, of which 0.14 hang on how one asks.
