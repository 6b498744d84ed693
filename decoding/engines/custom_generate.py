"""A folder that gives `model.generate` a setting, by the hub's convention `custom_generate/`.

`write_folder` makes it; `generate_under` is what its few lines of code call.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    StopStringCriteria,
    TextGenerationPipeline,
)

from decoding.rules import BUILT_IN
from decoding.rules.tokens import Tokens
from decoding.sampling.sampler import Sampler
from decoding.sampling.stepping import generate_of
from decoding.settings.policy import EntropyPolicy, Setting, as_setting
from decoding.settings.processor import asked_for
from decoding.settings.settings import DecodingSettings

CODE = '''\
"""`model.generate` under the decoding setting {settings}; made by decoding-toolkit."""

try:
    from decoding.engines.custom_generate import generate_under
except ImportError as error:
    raise ImportError("install decoding-toolkit, whose package is called decoding") from error

SETTINGS = {quoted}


def generate(inputs=None, *, model, seed=None, **arguments):
    """Continue prompts as `model.generate` does, each token drawn from the setting.

    Args:
        inputs: the prompts' ids, `(rows, seq)`, which may also be called `input_ids`.
        model: what `model.generate` was called of.
        seed: 0 <= seed < 2^64; None takes one from torch's random numbers.
        arguments: further ones of `model.generate`; what would change the distribution is refused.
    """
    return generate_under(SETTINGS, model, inputs, seed=seed, **arguments)
'''

CARD = """\
---
library_name: transformers
tags:
- custom_generate
---

# {settings}

`model.generate` under the decoding setting `{settings}`: each token is drawn from exactly the
distribution that the setting makes of the model's own. It needs the package `decoding-toolkit`.

```python
model.generate(
    **inputs, custom_generate="THIS FOLDER OR REPOSITORY", trust_remote_code=True,
    seed=7, max_new_tokens=50,
)
```

A row's tokens are a function of the seed, its prompt and how many rows with that prompt came before
it; without a seed, one is taken from torch's random numbers. What the model's own generation
configuration says of the distribution (temperature, penalties, …) gives way to the setting; what an
argument says of it is refused. Lengths, stop strings, streamers, logits processors, stopping
criteria, caches and several sequences a prompt work as ever.

With a model's weights beside `custom_generate/`, every `generate` of that model is so, in pipelines
too, once it is loaded with `trust_remote_code=True`.
"""

NAMES = ("README.md", "custom_generate/generate.py", "custom_generate/requirements.txt")

# They ask for another loop than the `Sampler`'s, or for what no setting has.
_UNHEARD = (
    "assistant_model", "assistant_tokenizer", "negative_prompt_ids",
    "negative_prompt_attention_mask", "synced_gpus", "custom_generate",
)  # fmt: skip


def write_folder(settings: Setting | str, folder: Path | str) -> None:
    """Write a folder for `model.generate(custom_generate=folder, trust_remote_code=True)`.

    It appears whole or not at all, and one that was made so before is replaced.

    Args:
        settings: a setting, or a policy that hands over to another one, or the text form of either;
            its tokens are given by their ids.
        folder: where it goes, or goes on the hub as a repository; the folder above must exist.

    Raises:
        ValueError: the setting ends sequences, or cannot be read back elsewhere from its text form;
            or there is something at that place that was not made so.
        OSError: it cannot be written.
    """
    settings = as_setting(settings)
    _check_text(settings)
    place = Path(os.path.realpath(folder))
    if os.path.lexists(place) and not _is_ours(place):
        raise ValueError(f"{str(folder)!r} holds something else: give a new folder")
    texts = {
        "README.md": CARD.format(settings=settings),
        "custom_generate/generate.py": CODE.format(settings=settings, quoted=repr(str(settings))),
        "custom_generate/requirements.txt": f"decoding-toolkit>={version('decoding-toolkit')}\n",
    }
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name[:99]}.") as work:
        new, old = Path(work, "new"), Path(work, "old")
        for name, text in texts.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_text(text, encoding="utf-8")
        if place.exists():
            place.rename(old)
        try:
            new.rename(place)
        except OSError:
            if old.exists():
                old.rename(place)
            raise


def generate_under(
    settings: Setting | str,
    model: PreTrainedModel,
    inputs: Tensor | None = None,
    *,
    seed: int | None = None,
    generation_config: GenerationConfig | None = None,
    **arguments: Any,
) -> Any:
    """`model.generate` with a `Sampler` in place of its own loop, and the setting alone in charge.

    Args:
        settings: a setting or a policy, or its text form.
        model: what generates.
        inputs: as of `model.generate`.
        seed: of the `Sampler`; None takes one from torch's random numbers.
        generation_config: as of `model.generate`; what it shares with the model's own configuration
            gives way to the setting.
        arguments: further ones of `model.generate`.

    Returns:
        What `model.generate` returns.

    Raises:
        ValueError: an argument or the configuration says of the distribution what the setting does
            not say, or is one that a `Sampler` cannot heed; the message names it.
    """
    settings = as_setting(settings)
    given = {name: value for name, value in arguments.items() if value is not None}
    for name in _UNHEARD:
        if given.get(name) is not None and given.pop(name) is not False:
            raise ValueError(f"{name} cannot be heeded under '{settings}': leave it out")
    neutral = settings.generate_kwargs(cache_implementation=given.pop("cache_implementation", None))
    said = {name: given.pop(name) for name in neutral if name in given}
    if generation_config is not None:
        asked = asked_for(generation_config, model.generation_config)
        said |= {name: value for name, value in asked.items() if name not in arguments}
        given = _set_in(generation_config, but=neutral) | given
    _check_said(settings, said, neutral)
    stop = given.pop("stop_strings", model.generation_config.stop_strings)
    tokenizer = given.pop("tokenizer", None)
    criteria = [*given.pop("stopping_criteria", ())]
    if stop:
        if tokenizer is None:
            raise ValueError(f"stop_strings={stop!r} need a tokenizer: pass tokenizer=…")
        criteria.append(StopStringCriteria(tokenizer, stop))
    if seed is None:
        seed = int(torch.randint(2**63 - 1, ()))
    sampler = Sampler(settings, seed=seed, streamer=given.pop("streamer", None))
    return generate_of(model)(
        inputs,
        custom_generate=sampler,
        stopping_criteria=criteria,
        stop_strings=None,
        **given,
        **neutral,
    )


def _set_in(config: GenerationConfig, but: dict[str, Any]) -> dict[str, Any]:
    """What a configuration sets, as arguments: transformers takes a configuration or arguments."""
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    names = config.to_diff_dict().keys() & known - but.keys() - {"transformers_version"}
    return {name: getattr(config, name) for name in names}


def _check_said(settings: Setting, said: dict[str, Any], neutral: dict[str, Any]) -> None:
    """Refuse what is said of the distribution and is not what the setting says.

    What pipelines add where nobody says anything cannot be told from what somebody says.
    """
    config = getattr(TextGenerationPipeline, "_default_generation_config", None)
    added = {} if config is None else config.to_diff_dict()
    for name, value in said.items():
        if value in (neutral[name], getattr(settings, name, None)):
            continue
        if value != added.get(name):
            raise ValueError(
                f"{name}={value!r} would change the distribution, and '{settings}' alone says it: "
                "leave it out"
            )
        warnings.warn(
            f"{name}={value!r}, as pipelines add it, gives way to '{settings}'", stacklevel=2
        )


def _check_text(settings: Setting) -> None:
    """Refuse, by a ValueError, a setting that its text form alone does not give back."""
    if isinstance(settings, EntropyPolicy) and not isinstance(settings.then, DecodingSettings):
        raise ValueError(f"a folder cannot end or ask as '{settings}' does")

    def check(tokens: Tokens) -> Tokens:
        for token in tokens:
            if isinstance(token, str):
                raise ValueError(
                    f"a folder knows no tokenizer, so tokens must be given by ids, got {token!r}"
                )
        return tokens

    for rule in settings.rules:
        if type(rule) not in BUILT_IN.values():
            raise ValueError(f"{rule} is a rule of one's own, which others cannot read")
        rule.with_ids(check)


def _is_ours(place: Path) -> bool:
    """Whether there is nothing at a place but what `write_folder` writes."""
    if not place.is_dir():
        return False
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if not path.is_dir()}
    code = place / "custom_generate/generate.py"
    made = code.is_file() and "made by decoding-toolkit" in code.read_text("utf-8", "replace")
    return files <= {*NAMES} and (made or not files)
