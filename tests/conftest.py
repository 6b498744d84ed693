"""Models and texts that several test modules share."""

import copy
import dataclasses
import gc
import io
import os
import sys
from pathlib import Path

# Read when huggingface_hub is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

pytest.register_assert_rewrite(
    "comparing", "cuts_oracle", "drawing", "forcing", "oracle", "sources", "toys"
)

import hypothesis
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from decoding.models.loading import LanguageModel, load_model
from decoding_cli.app import main
from toys import words

pytest_plugins = ["browsing"]


def pytest_configure(config):
    """Hide accelerators from all but their own tests: elsewhere, what is meant is a CPU."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# The models are tiny: threads that wait for each other would cost more than they bring.
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(relative: str) -> Path:
    """A path beside the repository, or a skip where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs {relative}, which is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def stories() -> LanguageModel:
    """The embedded model."""
    return load_model()


@pytest.fixture(scope="session")
def stories260k() -> LanguageModel:
    """A real pretrained Llama of 260K parameters."""
    return load_model(str(shared("models/stories260K")))


@pytest.fixture(scope="session")
def random_gpt2() -> LanguageModel:
    """An untrained two-layer GPT-2 with the real tokenizer and its 50,257 tokens."""
    tokenizer = AutoTokenizer.from_pretrained(shared("tokenizers/gpt2"))
    torch.manual_seed(0)
    # A wide initialisation gives rows that are neither flat nor all alike.
    config = GPT2Config(n_layer=2, n_embd=64, n_head=2, initializer_range=0.3)
    return LanguageModel(GPT2LMHeadModel(config).eval(), tokenizer, "random-gpt2")


@pytest.fixture(scope="session")
def toy_gpt2() -> GPT2LMHeadModel:
    """An untrained GPT-2 with 17 tokens; id 0 is EOS."""
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=17, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="session")
def toy_tokenizer():
    """Seventeen words, one letter each; id 0 is EOS."""
    vocabulary = {word: i for i, word in enumerate(["<eos>", *"abcdefghijklmnop"])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<eos>"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", bos_token="<eos>")


@pytest.fixture
def toy(toy_gpt2, toy_tokenizer):
    """Model and tokenizer, as the first argument of `generate`."""
    return LanguageModel(toy_gpt2, toy_tokenizer, "toy")


@pytest.fixture(scope="session")
def toy_llama() -> LlamaForCausalLM:
    """An untrained Llama with 17 tokens; id 0 is EOS."""
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=17, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.5, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def toy_words(toy_llama) -> LanguageModel:
    """The untrained Llama with a tokenizer of whole words."""
    return LanguageModel(toy_llama, words(bos_token="<eos>", eos_token="<eos>"), "toy")


@pytest.fixture(scope="session")
def short(stories260k) -> LanguageModel:
    """The real Llama with 64 positions, so that short texts have many windows."""
    model = copy.copy(stories260k.model)
    model.config = copy.deepcopy(model.config)
    model.config.max_position_embeddings = 64
    return dataclasses.replace(stories260k, model=model)


@pytest.fixture(scope="session")
def wikitext():
    """The first characters of a real text, as many as one asks for."""

    def beginning(characters: int) -> str:
        with shared("data/wikitext2/wiki.test.raw").open(encoding="utf-8", newline="") as lines:
            return lines.read(characters)

    return beginning


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to be in, without the user's own environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "DECODING_MODEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(request, monkeypatch, capsys, elsewhere):
    """Run the command in this process, in an empty folder; gives exit code, stdout and stderr."""

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["decoding", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit_:
            main()
        request.addfinalizer(gc.unfreeze)  # this process goes on
        out, err = capsys.readouterr()
        return exit_.value.code or 0, out, err

    return run


@pytest.fixture
def own_modules(tmp_path_factory, monkeypatch):
    """A place for what transformers copies of code that comes with a folder, for one test alone."""
    place = str(tmp_path_factory.mktemp("modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", place)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(params=["of NumPy", "of torch"])
def arrays(request, monkeypatch):
    """Once as on a CPU, and once as on an accelerator, though in this one's memory."""
    if request.param == "of torch":
        monkeypatch.setattr("decoding.rows.arrays.numpy_sees", lambda _: False)
    return request.param
