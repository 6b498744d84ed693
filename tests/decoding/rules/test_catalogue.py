"""The rules of the package: each is whole, and none can be left out in silence."""

import inspect
import math
import re

import pytest

import decoding.rules
from decoding.rules import BUILT_IN, RULES
from decoding.settings import settings as module
from decoding.settings.settings import FIELDS, RULES_IN_ORDER, DecodingSettings

SOURCE = inspect.getsource(module)


def imported(source=SOURCE):
    """The module's text run anew, against the rules as they are now."""
    names = {"__name__": module.__name__}
    exec(compile(source, module.__file__, "exec"), names)
    return names


def test_the_module_as_it_is_can_be_imported():
    assert list(imported()["FIELDS"]) == list(FIELDS)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_field_without_its_rule_fails_at_import(name, monkeypatch):
    rule = BUILT_IN[name]
    left = {key: other for key, other in BUILT_IN.items() if other is not rule}
    monkeypatch.setattr(decoding.rules, "BUILT_IN", left)
    monkeypatch.delitem(RULES, rule.field)
    with pytest.raises(ImportError, match=rf"no rule .* has the field '{rule.field}'"):
        imported()


@pytest.mark.parametrize("name", FIELDS)
def test_a_rule_without_its_field_fails_at_import(name):
    without, times = re.subn(rf"(?m)^    {name}: .*\n", "", SOURCE)
    assert times == 1
    [owner] = [rule for rule in RULES_IN_ORDER if name in [f.name for f in rule.fields()]]
    with pytest.raises(ImportError, match=f"no field '{name}', which {owner.__name__} needs"):
        imported(without)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_whose_default_is_not_its_rules_fails_at_import(name):
    other, times = re.subn(rf"(?m)^(    {name}: .* = ).*$", r"\1 99", SOURCE)
    assert times == 1
    with pytest.raises(ImportError, match=rf"DecodingSettings\.{name} is 99 by default"):
        imported(other)


def test_the_order_is_that_of_the_fields():
    fields = list(inspect.signature(DecodingSettings).parameters)
    assert fields == [*FIELDS, "extra"]
    owners = [rule.field for rule in RULES_IN_ORDER]
    assert owners == [name for name in fields if name in owners]
    assert {*RULES_IN_ORDER} == {*BUILT_IN.values()}
    for name, rule in BUILT_IN.items():
        assert getattr(decoding.rules, name) is rule and name in dir(decoding.rules)
    with pytest.raises(AttributeError, match="TopQ"):
        _ = decoding.rules.TopQ


@pytest.mark.parametrize("rule", BUILT_IN.values())
def test_a_rule_is_documented(rule):
    assert rule.says and rule.source
    assert re.fullmatch(r"[A-Z].*\.", rule.summary())
    assert inspect.getdoc(rule).startswith(rule.summary()[:40])


@pytest.mark.parametrize("rule", BUILT_IN.values())
def test_examples_lie_in_their_ranges_and_do_something(rule):
    for field in rule.fields():
        assert field.checked(field.read(field.example)) == field.read(field.example)
        assert field.range.text in field_error(field)
    own = rule.fields()[0]
    assert own.read(own.example) != rule.neutral == own.default


def field_error(field):
    """What a field says of a value that it refuses."""
    refused = (-1,) if isinstance(field.default, tuple) else -1
    with pytest.raises(ValueError, match=field.name) as refusal:
        field.checked(refused)
    return str(refusal.value)


@pytest.mark.parametrize("rule", BUILT_IN.values())
def test_words_show_the_numbers(rule):
    own, *further = rule.fields()
    given = {field.name: field.read(field.example) for field in further}
    one = rule(own.read(own.example), **given)
    words = one.words(0.875)
    assert not set("{}") & set(words)
    shown = {f"{number:.6g}" for number in (one.value, one.value - 0.875, one.value + 0.875)}
    assert any(number in words for number in shown)
    if own.unit == "nats":
        assert f"{one.value / math.log(2):.6g} bits" in words


@pytest.mark.parametrize("rule", BUILT_IN.values())
def test_a_rule_is_shown_as_it_is_written(rule):
    own, *further = rule.fields()
    given = {
        field.name: field.read(field.example)
        for field in further
        if field.read(field.example) != field.default
    }
    one = rule(own.read(own.example), **given)
    assert eval(repr(one), dict(BUILT_IN)).given == one.given
    settings = DecodingSettings.parse(str(one))
    [again] = settings.rules
    assert (type(again), again.given) == (rule, one.given)
