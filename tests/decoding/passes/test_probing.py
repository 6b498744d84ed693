"""What is no causal language model is refused; what a model puts in front by itself is left out."""

import copy
import functools

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from decoding import LanguageModel, generate
from decoding.passes.attention import head_entropies
from decoding.passes.head import LogitHead
from decoding.scoring.teacher_forcing import TeacherForcing
from decoding_evals.compare.models import compare_models
from decoding_evals.doctor.evaluation import CHECKS, REFERENCE
from decoding_evals.doctor.patient import Patient
from decoding_evals.score.evaluation import score
from decoding_evals.uncertainty.estimators.epistemic import checkpoint_members, ensemble_uncertainty
from oracle import log_softmax
from toys import words

SMALL = {
    "vocab_size": 17, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.4,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "type_vocab_size": 1,
}  # fmt: skip
XLNET = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}
SENTENCE = "Once upon a time there was a dog."


@functools.cache
def tiny(kind, dtype=torch.float32, **further):
    torch.manual_seed(4)
    values = {name: value for name, value in SMALL.items() if kind != "xlnet" or "max" not in name}
    config = CONFIG_MAPPING[kind](**values | further)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    return LanguageModel(model, words(bos_token="<eos>", eos_token="<eos>"), kind)


# Not causal.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "roformer"])
def test_a_model_that_sees_later_tokens_is_refused_everywhere(kind, dtype):
    language_model = tiny(kind, dtype)
    for call in (
        lambda: list(score(language_model, ["a b c d e"])),
        lambda: generate(language_model, "a b c", max_new_tokens=2),
        lambda: head_entropies(language_model.model, torch.tensor([[1, 2, 3]])),
        lambda: compare_models(language_model, language_model, ["a b c d"]),
        lambda: ensemble_uncertainty(checkpoint_members([language_model] * 2), [1, 2], [3]),
    ):
        with pytest.raises(ValueError, match=r"^the model is not causal: .* a later token changes"):
            call()


def test_a_permutation_language_model_is_refused():
    with pytest.raises(ValueError, match=r"^the model is not causal: XLNetLMHeadModel"):
        LogitHead(tiny("xlnet", **XLNET).model)


def test_a_model_whose_numbers_depend_on_the_length_of_the_row_is_refused(toy_llama):
    model = copy.copy(toy_llama)

    def forward(input_ids, **kwargs):
        output = toy_llama(input_ids, **kwargs)
        output.logits = output.logits * (1 + input_ids.shape[1] / 100)
        return output

    model.forward = forward
    with pytest.raises(ValueError, match=r"not causal: .* a longer row changes its logits"):
        LogitHead(model)


@pytest.mark.parametrize("kind", ["bert", "electra", "roformer"])
def test_the_same_architecture_as_a_decoder_is_scored_by_strict_prefixes(kind):
    language_model = tiny(kind, is_decoder=True)
    [document] = score(language_model, ["a b c d e f g a b"])
    read = [0, *document.ids.tolist()]
    with torch.no_grad():
        rows = [
            language_model.model(torch.tensor([read[:end]])).logits[0, -1]
            for end in range(1, len(read))
        ]
    want = [
        -log_softmax(row.double().numpy())[id_] for row, id_ in zip(rows, read[1:], strict=True)
    ]
    np.testing.assert_allclose(document.surprisal_nats, want, atol=1e-4)


def test_a_model_that_steps_otherwise_than_it_reads_cannot_generate():
    """Its own positions begin behind its padding id; those that it is given in steps, at 0."""
    language_model = tiny("roberta", is_decoder=True)
    with pytest.raises(ValueError, match=r"^the model cannot generate: RobertaForCausalLM reads"):
        generate(language_model, "a b c", max_new_tokens=2)
    [document] = score(language_model, ["a b c d"])
    assert len(document.ids) == 4


def test_a_model_that_gives_the_last_row_alone_is_refused(toy_llama):
    model = copy.copy(toy_llama)

    def forward(*args, **kwargs):
        output = toy_llama(*args, **kwargs)
        output.logits = output.logits[:, -1:]
        return output

    model.forward = forward
    with pytest.raises(ValueError, match="gives logits at 1 of 16 tokens"):
        LogitHead(model)


# More positions than tokens.


def prompted(model, embeddings):
    """A model that reads some embeddings of its own before everything, as prompt tuning does."""
    twin = copy.copy(model)

    @functools.wraps(model.forward)
    def forward(input_ids, attention_mask, position_ids=None, **kwargs):
        own = embeddings.expand(len(input_ids), -1, -1)
        mask = torch.cat([attention_mask.new_ones(own.shape[:2]), attention_mask], 1)
        read = torch.cat([own, model.get_input_embeddings()(input_ids)], 1)
        return model(inputs_embeds=read, attention_mask=mask, **kwargs)

    twin.forward = forward
    return twin


def virtual(language_model, seed=0):
    """Five virtual tokens, and what the model says behind them, row by row, of a text."""
    model = language_model.model
    torch.manual_seed(seed)
    own = model.get_input_embeddings().weight.std() * torch.randn(1, 5, model.config.hidden_size)

    def wanted(ids):
        read = torch.cat([own, model.get_input_embeddings()(torch.tensor([ids[:-1]]))], 1)
        with torch.no_grad():
            rows = model(inputs_embeds=read).logits[0, 5:].double().numpy()
        return [-log_softmax(row)[id_] for row, id_ in zip(rows, ids[1:], strict=True)]

    return own, wanted


TEXTS = [SENTENCE, "Tom was", "The little girl had a red ball and she was happy."]


@pytest.mark.parametrize("name", ["stories", "stories260k"])
def test_rows_of_what_a_model_puts_in_front_are_left_out(request, name):
    language_model = request.getfixturevalue(name)
    own, wanted = virtual(language_model)
    model = prompted(language_model.model, own)
    tuned = LanguageModel(model, language_model.tokenizer, "tuned")
    forcing = TeacherForcing(tuned)
    for document in score(tuned, TEXTS):
        want = wanted([*forcing.front, *document.ids.tolist()])
        np.testing.assert_allclose(document.surprisal_nats, want, atol=1e-4)
    patient = Patient(tuned, REFERENCE)
    for check in ("causality", "right padding", "batch size", "blocked head"):
        assert CHECKS[check](patient).status == "pass", check


@pytest.fixture(scope="module")
def prompt_tuned(stories):
    """The embedded model behind five virtual tokens, by peft."""
    peft = pytest.importorskip("peft")
    own, wanted = virtual(stories, seed=7)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    model = peft.get_peft_model(copy.deepcopy(stories.model), config)
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(own[0])
    return LanguageModel(model.eval(), stories.tokenizer, "prompt-tuned"), wanted


def test_prompt_tuning_is_scored_behind_its_virtual_tokens(prompt_tuned):
    language_model, wanted = prompt_tuned
    for document in score(language_model, TEXTS):
        want = wanted([language_model.tokenizer.bos_token_id, *document.ids.tolist()])
        np.testing.assert_allclose(document.surprisal_nats, want, atol=1e-4)


def test_a_short_text_behind_untrained_virtual_tokens(stories):
    """A figure of plain peft and transformers; read one position off it would be 94.35 nats."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    model = peft.get_peft_model(copy.deepcopy(stories.model), config).eval()
    tuned = LanguageModel(model, stories.tokenizer, "untrained")
    [document] = score(tuned, ["Once upon a time there was a dog."])
    assert document.surprisal_nats.sum() == pytest.approx(22.57, abs=0.01)


def test_attention_of_prompt_tuning_is_refused(prompt_tuned):
    with pytest.raises(ValueError, match="reads 5 tokens of its own before it"):
        head_entropies(prompt_tuned[0].model, torch.tensor([[5, 6, 7]]))


def test_prompt_tuning_generates_behind_its_virtual_tokens(prompt_tuned):
    language_model, wanted = prompt_tuned
    for one in generate(language_model, TEXTS, max_new_tokens=6, seed=3):
        ids = [*one.prompt_ids, *one.trace.ids.tolist()]
        want = wanted(ids)[len(one.prompt_ids) - 1 :]
        np.testing.assert_allclose(one.trace.raw_surprisal_nats, want, atol=1e-4)
