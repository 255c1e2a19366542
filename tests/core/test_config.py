"""The door between config files and dataclasses: what passes, and what each refusal says."""

import dataclasses

import pytest

from llama3_jax.core import config as config_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1e-3
    steps: int | None = None

    def __post_init__(self):
        if self.rate <= 0:
            raise ValueError(f"rate must be positive, got {self.rate}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = Inner()
    ramp: tuple[tuple[int, float], ...] = ((0, 1.0),)
    weights: dict[str, float] = dataclasses.field(default_factory=lambda: {"web": 0.5})
    parts: tuple[Inner, ...] = ()
    flag: bool = False


def test_thaw_then_freeze_is_the_identity():
    outer = Outer(
        name="x", inner=Inner(rate=0.5, steps=3), parts=(Inner(), Inner(rate=2.0)), weights={"a": 1.0, "b": 2.0}
    )
    assert config_lib.freeze(Outer, config_lib.thaw(outer)) == outer
    assert config_lib.freeze(Outer, config_lib.to_dict(outer)) == outer


def test_overrides_reach_optional_and_nested_fields():
    config = config_lib.thaw(Outer(name="x"))
    config.inner.steps = 7
    config.weights.web = 0.25
    frozen = config_lib.freeze(Outer, config)
    assert frozen.inner.steps == 7
    assert frozen.weights == {"web": 0.25}


def test_whole_floats_are_counts_and_counts_are_rates():
    frozen = config_lib.freeze(Outer, {"name": "x", "ramp": ((1e12, 2),), "inner": {"rate": 1}})
    assert frozen.ramp == ((10**12, 2.0),)
    assert isinstance(frozen.ramp[0][0], int)
    assert isinstance(frozen.inner.rate, float)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"nam": "x"}, r"config\.nam is not a setting; did you mean 'name'\?"),
        ({"name": "x", "inner": {"rat": 1}}, r"config\.inner\.rat is not a setting; did you mean 'rate'\?"),
        ({"inner": {}}, r"config\.name is required"),
        ({"name": 3}, r"config\.name must be str, got 3"),
        ({"name": "x", "inner": {"steps": 1.5}}, r"config\.inner\.steps must be int, got 1\.5"),
        ({"name": "x", "inner": {"steps": True}}, r"config\.inner\.steps must be int, got True"),
        ({"name": "x", "flag": 1}, r"config\.flag must be bool, got 1"),
        ({"name": "x", "inner": {"rate": -1}}, r"config\.inner: rate must be positive"),
        ({"name": "x", "ramp": ((1, 2, 3),)}, r"config\.ramp\[0\] takes 2 values, got 3"),
        ({"name": "x", "weights": {"a": "b"}}, r"config\.weights\.a must be float"),
        ({"name": "x", "inner": 3}, r"config\.inner must be Inner"),
    ],
)
def test_refusals_name_the_field(config, message):
    with pytest.raises(ValueError, match=message):
        config_lib.freeze(Outer, config)
