"""Every field with its default, whose parameter it is, and settings of any kind."""

from hypothesis import strategies as st

from decoding.settings.settings import DecodingSettings
from oracle import STEERING

NEUTRAL = {
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_breakers": (),
    "temperature": 1.0,
    "edt_theta": 0.0,
    "edt_base": 0.8,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "target_entropy": 0.0,
    "top_n_sigma": 0.0,
    "min_k": 0.0,
    "top_h": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "p_less": 0.0,
    "kl_budget": 0.0,
    "mirostat_tau": 0.0,
    "mirostat_eta": 0.1,
    "temperature_last": 1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "xtc_spared": (),
    "adaptive_p": 0.0,
    "adaptive_p_decay": 0.9,
}

OWNERS = {
    "dry_base": "dry_multiplier",
    "dry_allowed_length": "dry_multiplier",
    "dry_breakers": "dry_multiplier",
    "edt_base": "edt_theta",
    "dynatemp_exponent": "dynatemp_range",
    "mirostat_eta": "mirostat_tau",
    "xtc_threshold": "xtc_probability",
    "xtc_spared": "xtc_probability",
    "adaptive_p_decay": "adaptive_p",
}

not_negative = st.floats(0, allow_infinity=False)
positive = st.floats(0, exclude_min=True, allow_infinity=False)
share = st.floats(0, 1, exclude_min=True)
cutoff = st.floats(0, 1, exclude_max=True)
any_share = st.floats(0, 1)
tokens = st.lists(st.integers(0, 10**6) | st.text(min_size=1, max_size=3), max_size=4).map(tuple)

WARPERS = {
    "top_k": st.just(0) | st.integers(0, 10**12),
    "top_p": st.just(1.0) | share,
    "min_p": st.just(0.0) | any_share,
    "typical_p": st.just(1.0) | share,
    "epsilon_cutoff": st.just(0.0) | cutoff,
    "eta_cutoff": st.just(0.0) | cutoff,
}
of_hugging_face = st.builds(
    DecodingSettings,
    temperature=st.sampled_from([0.0, 1.0]) | st.floats(0, allow_infinity=False),
    **WARPERS,
)
VALUES = {
    **WARPERS,
    "dry_multiplier": not_negative,
    "dry_base": st.floats(1, allow_infinity=False),
    "dry_allowed_length": st.integers(1, 10**12),
    "dry_breakers": tokens,
    "temperature": st.sampled_from([0.0, 1.0]) | not_negative,
    "edt_theta": not_negative,
    "edt_base": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "dynatemp_range": not_negative,
    "dynatemp_exponent": positive,
    "target_entropy": not_negative,
    "top_n_sigma": not_negative,
    "min_k": not_negative,
    "top_h": share,
    "p_less": any_share,
    "kl_budget": not_negative,
    "mirostat_tau": not_negative,
    "mirostat_eta": share,
    "xtc_probability": any_share,
    "xtc_threshold": share,
    "xtc_spared": tokens,
    "temperature_last": positive,
    "adaptive_p": any_share,
    "adaptive_p_decay": st.floats(0, 0.99),
}


@st.composite
def settings_of_any_kind(draw):
    """Some of all fields, without what the rules of this page forbid together."""
    chosen = draw(st.sets(st.sampled_from(sorted(VALUES)), max_size=7))
    values = {name: draw(VALUES[name]) for name in sorted(chosen)}
    steering = [name for name in sorted(values) if name in STEERING and values[name]]
    for name in steering[1:]:
        del values[name]
    if "target_entropy" in steering[:1] or (steering and values.get("temperature") == 0):
        values.pop("temperature", None)
    if values.get("mirostat_tau"):
        for name in ("xtc_probability", "adaptive_p", "temperature_last"):
            values.pop(name, None)
    for name, owner in OWNERS.items():
        if not values.get(owner):
            values.pop(name, None)
    return DecodingSettings(**values)


any_setting = settings_of_any_kind()

THIRTY = [
    DecodingSettings.parse(text)
    for text in [
        "raw", "greedy", "greedy,top_p=0.9", "temperature=0.1", "temperature=0.5",
        "temperature=0.75", "temperature=1.5", "temperature=3", "top_k=1", "top_k=50",
        "temperature=0.5,top_k=50", "temperature=3,top_k=1000", "top_p=0.9", "top_p=0.5",
        "temperature=1.5,top_p=0.95", "temperature=0.1,top_p=0.99", "min_p=0.05",
        "temperature=2,min_p=0.1", "epsilon_cutoff=0.0003", "temperature=0.75,epsilon_cutoff=0.02",
        "eta_cutoff=0.0006", "temperature=1.25,eta_cutoff=0.01", "typical_p=0.95", "typical_p=0.2",
        "temperature=0.75,typical_p=0.5", "top_k=40,top_p=0.9,min_p=0.01",
        "temperature=1.3,top_k=2000,typical_p=0.8,epsilon_cutoff=0.0001",
        "temperature=0.9,top_p=0.98,min_p=0.001,typical_p=0.9,epsilon_cutoff=1e-05,eta_cutoff=0.0001",
        "top_k=100000", "temperature=0.75,top_k=50,top_p=0.8,eta_cutoff=0.0002",
    ]
]  # fmt: skip
