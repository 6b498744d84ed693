"""`DecodingSettings`: a decoding setting as a value.

A setting is a map from the model's next-token distribution p to another distribution q. The same
object filters logits, plugs into `model.generate`, and has a text form for shells and tables.
This module imports neither torch nor transformers; the methods that need them import them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from decoding.rules import BUILT_IN, RULES, Field, Rule, Tempering
from decoding.rules.tokens import Tokens, pieces
from decoding.settings.declared import check_fields

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase

    from decoding.rows.distribution import Distribution
    from decoding.settings.applying import Applied, History
    from decoding.settings.processor import Monitor


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DecodingSettings:
    """A decoding setting: each field is one rule, applied in the order of the fields.

    Every rule works on the renormalised result of the one before it. A field at its neutral value
    (the default) is a rule that is not applied. Tokens are ordered by logit descending, then id
    ascending, so each kept set is unique. What a field does, its range and its source stand with
    its rule in `decoding.rules`; `decoding settings` lists them. Some fields are parameters of
    another, such as `xtc_threshold` of `xtc_probability`, and mean nothing without it.

    Args:
        extra: rules of one's own, applied last; see `decoding.rules.Rule`.

    Raises:
        ValueError: a field is outside its range, is the parameter of one that is not set, or
            contradicts another; the message names field, rule and value.
    """

    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_breakers: Tokens = ()
    temperature: float = 1.0
    edt_theta: float = 0.0
    edt_base: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    target_entropy: float = 0.0
    top_n_sigma: float = 0.0
    min_k: float = 0.0
    top_h: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    p_less: float = 0.0
    kl_budget: float = 0.0
    mirostat_tau: float = 0.0
    mirostat_eta: float = 0.1
    temperature_last: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    xtc_spared: Tokens = ()
    adaptive_p: float = 0.0
    adaptive_p_decay: float = 0.9
    extra: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        for rule in RULES_IN_ORDER:
            for field in rule.fields():
                value = field.checked(getattr(self, field.name))
                object.__setattr__(self, field.name, value)
        object.__setattr__(self, "extra", _own_rules(self.extra))
        given = self._given()
        for rule in RULES_IN_ORDER:
            _refuse_lone(rule, given)
        for one in self.rules:
            one.check_beside([other for other in self.rules if other is not one])

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that are applied, in their order."""
        given = self._given()
        applied = [
            rule(given[rule.field], **{f.name: getattr(self, f.name) for f in rule.parameters})
            for rule in RULES_IN_ORDER
            if rule.field in given
        ]
        return (*applied, *self.extra)

    @property
    def greedy(self) -> bool:
        """Whether the setting is a point mass on the model's favourite token."""
        return self.temperature == 0

    @cached_property
    def stages(self) -> tuple[Rule | tuple[Tempering, ...], ...]:
        """The rules in their order; those that set one temperature together are one stage."""
        stages: list[Rule | tuple[Tempering, ...]] = []
        for tempering, group in groupby(self.rules, lambda rule: isinstance(rule, Tempering)):
            rules: tuple[Any, ...] = tuple(group)
            stages += [rules] if tempering else rules
        return tuple(stages)

    @classmethod
    def parse(cls, text: str) -> DecodingSettings:
        r"""Read the text form: `raw`, `greedy`, or `temperature=0.7,top_p=0.9`.

        A name may stand first and fields may follow it (`greedy,top_p=0.9`); a field may be given
        once. Fields in nats may be given in bits (`target_entropy=2bits`). Tokens are ids, or texts
        in JSON's quotes, separated by slashes (`dry_breakers=13/"\n"`).
        `DecodingSettings.parse(str(s)) == s` for every setting.

        Raises:
            ValueError: an unknown or repeated name (the nearest known one is suggested), a value
                that is no number or outside its range, or a parameter without its rule.
        """
        values: dict[str, Any] = {}
        known = FIELDS | {field.name: field for rule in RULES.values() for field in rule.fields()}
        for position, part in enumerate(pieces(text, ",")):
            name, separator, number = (piece.strip() for piece in part.partition("="))
            if not separator and position == 0 and name in ("raw", "greedy"):
                if name == "greedy":
                    values["temperature"] = 0.0
                continue
            if name in ("raw", "greedy"):
                raise ValueError(f"{name!r} stands alone or first, got {text!r}")
            if name not in known:
                raise ValueError(f"unknown setting {name!r}{_nearest(name, [*known])}")
            if not separator:
                raise ValueError(
                    f"setting {name!r} needs a value, as in {name}={known[name].example}"
                )
            if name in values:
                raise ValueError(f"setting {name!r} is given twice in {text!r}")
            values[name] = known[name].read(number)
        for rule in RULES.values():
            _refuse_lone(rule, values)
        extra = tuple(_taken(values))
        return cls(**values, extra=extra)

    @cached_property
    def _text(self) -> str:
        given = {name: getattr(self, name) for name in self._given()}
        if not given and not self.extra:
            return "raw"
        if given == {"temperature": 0} and not self.extra:
            return "greedy"
        return ",".join(map(str, self.rules))

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DecodingSettings) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    @cached_property
    def looks_back(self) -> bool:
        """Whether the distribution depends on earlier tokens, and not on the logits alone."""
        return any(rule.looks_back for rule in self.rules)

    @cached_property
    def remembers(self) -> str:
        """The field of a rule that follows what is drawn; empty where there is none."""
        return next((rule.field for rule in self.rules if rule.looks_back == "draws"), "")

    def looser(self, slack: float) -> DecodingSettings:
        """One that keeps what rounding may have cut off, `slack` being its relative size."""
        values: dict[str, Any] = {
            rule.field: rule.looser(slack) for rule in self.rules if rule not in self.extra
        }
        return replace(
            self,
            **values,
            extra=tuple(rule.replaced(**{rule.field: rule.looser(slack)}) for rule in self.extra),
        )

    def for_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> DecodingSettings:
        """The same setting, with ids for each text that names tokens: of those that contain it.

        Raises:
            ValueError: no token contains a text.
        """
        from decoding.texts.detokenizing import ids_with

        rules = [rule.with_ids(partial(ids_with, tokenizer)) for rule in self.rules]
        built_in = (rule.given for rule in rules if rule.field in FIELDS)
        values: dict[str, Any] = {
            name: value for given in built_in for name, value in given.items()
        }
        return DecodingSettings(
            **values, extra=tuple(rule for rule in rules if rule.field not in FIELDS)
        )

    def _given(self) -> dict[str, Any]:
        """The fields that are not at their defaults, in their order."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in values.items() if value != FIELDS[name].default}

    @classmethod
    def from_generation_config(cls, config: GenerationConfig) -> DecodingSettings:
        """The setting that `model.generate` would use under a generation configuration.

        Includes what Hugging Face fills in where the configuration is silent, such as `top_k=50`
        when sampling. Without sampling the other fields have no effect: the result is greedy, or of
        beam search `raw`, which is what it scores beams by.

        Raises:
            ValueError: the configuration uses a step that is no field here (contrastive search,
                …) or differs from the field of its name (`top_h`), or a value outside a field's
                range.
        """
        from decoding.settings.processor import own_fields

        for name in ("penalty_alpha", "dola_layers"):
            if getattr(config, name, None):
                raise ValueError(f"transformers' {name}={getattr(config, name)!r} is no field here")
        if not config.do_sample:
            return cls(temperature=1 if (config.num_beams or 1) > 1 else 0)
        return cls(**own_fields(config))

    def to_generation_config(self) -> GenerationConfig:
        """The setting in Hugging Face's own words, for wherever a `GenerationConfig` is taken.

        `from_generation_config` reads it back. Every field is said, at its neutral value where the
        setting leaves it out, so that neither `top_k=50` nor a model's own value comes back (under
        transformers 4 only with `generate(use_model_defaults=False)`). What has no value that says
        "off" (`top_h`, `suppress_tokens`, …) stays a model's own. Under greedy the cuts change
        nothing and are left out.

        Raises:
            ValueError: Hugging Face has no such rule, or means something else by it (`top_h`), or
                the temperature is too small for its arithmetic; naming the rule.
        """
        from decoding.settings.processor import in_their_words

        return in_their_words(self.rules, self.greedy)

    def apply(self, raw: Distribution, history: History | None = None) -> Applied:
        """What the setting makes of the model's own rows; see `decoding.settings.applying`.

        Raises:
            ValueError: the setting looks back and there is no history.
        """
        from decoding.settings.applying import apply

        if self.looks_back and history is None:
            raise ValueError(f"{self} looks back at earlier tokens, so it needs their history")
        return apply(self.stages, raw, history)

    def log_probs(self, logits: Tensor, history: History | None = None) -> Tensor:
        """log q for rows of logits.

        Args:
            logits: `(…, vocab)`, any floating dtype; `-inf` marks tokens that are ruled out.
            history: what came before each row, for a setting that `looks_back`.

        Returns:
            `(…, vocab)`, nats, normalised, `-inf` outside the kept set; float32, or float64 for
            float64 input. In its gradient, what is kept and a temperature that follows the entropy
            are constants.

        Raises:
            ValueError: the setting looks back and there is no history.
        """
        from decoding.settings.applying import apply_settings

        return apply_settings(self, logits, history).log_softmax(-1)

    def processors(self, monitor: Monitor | None = None) -> LogitsProcessorList:
        """What turns a model's logits into log q.

        `generate_kwargs(monitor=…)` gives it together with what `model.generate` needs besides. A
        monitor records each step's statistics, and serves one call of `generate`. What is monitored
        must see the model's own rows, so `generate` raises a ValueError for processors before it,
        those of `prefix_allowed_tokens_fn` too.
        """
        from decoding.settings.processor import processors

        return processors(self, monitor)

    def generate_kwargs(
        self,
        num_beams: int = 1,
        *,
        monitor: Monitor | None = None,
        cache_implementation: str | None = None,
    ) -> dict[str, Any]:
        """Keyword arguments under which `model.generate` draws from q as it is.

        They neutralise Hugging Face's own warpers and whatever a model's generation configuration
        would apply before the processor: penalties, suppressed or forced tokens, n-gram and word
        bans, guidance, watermarks, minimum lengths; and what it asks of beam search: a length
        penalty, early stopping.

        Args:
            num_beams: above 1, arguments for beam search under this setting.
            monitor: an `EntropyMonitor`, which records each step; with it the arguments hold
                `logits_processor` too. Without it, pass `processors()` or a `Sampler`.
            cache_implementation: as of `model.generate`, where it is not to be given again.

        Raises:
            ValueError: greedy with beams, or a setting that follows what is drawn; beam search
                needs a distribution to score by that does not depend on what was drawn. Or a paged
                cache, which ignores processors.
        """
        from decoding.settings.processor import neutral_generate_kwargs

        if num_beams > 1 and self.greedy:
            raise ValueError(
                f"temperature=0 cannot score beams: use temperature > 0 with num_beams={num_beams}"
            )
        if num_beams > 1 and self.remembers:
            raise ValueError(
                f"{self.remembers} follows what is drawn, and beam search draws nothing"
            )
        do_sample = num_beams == 1 and not self.greedy
        arguments = neutral_generate_kwargs(do_sample, num_beams, cache_implementation)
        if monitor is not None:
            arguments["logits_processor"] = self.processors(monitor)
        return arguments


_DEFAULTS = {field.name: field.default for field in fields(DecodingSettings)}
del _DEFAULTS["extra"]
check_fields(_DEFAULTS, BUILT_IN)

RULES_IN_ORDER: tuple[type[Rule], ...] = tuple(
    RULES[name] for name in _DEFAULTS if name in RULES and RULES[name] in BUILT_IN.values()
)
"""The rules of the package in the order in which a setting applies them."""

FIELDS: dict[str, Field] = {field.name: field for rule in RULES_IN_ORDER for field in rule.fields()}


def _own_rules(extra: Any) -> tuple[Rule, ...]:
    """Rules of one's own, each once, without those that do nothing."""
    if isinstance(extra, Rule):
        raise ValueError(f"extra must be a tuple of rules, as in ({extra!r},), got a rule")
    extra = tuple(extra)
    for position, rule in enumerate(extra):
        if not isinstance(rule, Rule):
            raise ValueError(f"extra must hold rules, got {rule!r}")
        if rule.field in FIELDS:
            raise ValueError(f"{rule.field} has a field of its own: leave it out of extra")
        if any(type(rule) is type(other) for other in extra[:position]):
            raise ValueError(f"{rule.field} is given twice in extra")
    return tuple(rule for rule in extra if rule.value != rule.neutral)


def _taken(values: dict[str, Any]) -> Iterator[Rule]:
    """Take the values of rules of one's own out, and make the rules."""
    for rule in RULES.values():
        names = [field.name for field in rule.fields() if field.name not in FIELDS]
        given = {name: values.pop(name) for name in names if name in values}
        if given:
            yield rule(given.pop(rule.field), **given)


def _refuse_lone(rule: type[Rule], given: Mapping[str, Any]) -> None:
    """Refuse a parameter of a rule that is not set."""
    for field in rule.parameters:
        if field.name in given and rule.field not in given:
            raise ValueError(f"{field.name} is a parameter of {rule.field}, which is not set")


def _nearest(name: str, fields: list[str]) -> str:
    known = ["raw", "greedy", *fields]
    asked = name.lower().replace("-", "_")
    close = difflib.get_close_matches(asked, known, n=1)
    # A family's name, as in xtc=0.5, is short of its fields' names.
    close = close or [one for one in known if one.partition("_")[0] == asked]
    close = close or [one for one in known if one.startswith(asked)]
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
