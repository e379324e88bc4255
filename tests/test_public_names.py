"""The names that other programs may call, each with its exact arguments."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from cikd_cli import models
from cikd_cli.analysis.cka import MinibatchCKA, linear_cka
from cikd_cli.analysis.mad import mean_attention_distance
from cikd_cli.engine.optim import learning_rate
from cikd_cli.methods.ali import ali_loss, relation_kl
from cikd_cli.methods.lm import decoupled_kd

REQUIRED = inspect.Parameter.empty
POSITIONAL, KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize(
    ("function", "positional", "keywords"),
    [
        (models.tap_qkv, ["vit", "images", "blocks"], {}),
        (models.sincos_positions, ["grid", "width"], {}),
        (relation_kl, ["teacher", "student"], {}),
        (ali_loss, ["pairs"], {}),
        (
            decoupled_kd,
            ["student_logits", "teacher_logits", "targets"],
            {"alpha": 4.0, "temperature": 1.0, "nckd_weighting": "unweighted", "t_squared": True},
        ),
        (learning_rate, ["epoch"], {"epochs": REQUIRED, "warmup": REQUIRED, "peak": REQUIRED, "floor": 0.0}),
        (
            mean_attention_distance,
            ["logits"],
            {"grid": REQUIRED, "patch_size": REQUIRED, "prefix_tokens": 1},
        ),
        (linear_cka, ["x", "y"], {}),
        (MinibatchCKA, [], {}),
        (MinibatchCKA.update, ["self", "xs", "ys"], {}),
        (MinibatchCKA.compute, ["self"], {}),
        (
            models.create_student,
            ["name"],
            {"num_classes": REQUIRED, "image_size": 224, "patch_size": 16, "end_heads": 12},
        ),
        (models.create_teacher, ["name"], {"num_classes": REQUIRED, "image_size": 224}),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_a_public_function_has_the_agreed_arguments_and_further_ones_are_optional(
    function: Callable[..., Any], positional: list[str], keywords: dict[str, Any]
) -> None:
    parameters = inspect.signature(function).parameters
    assert [name for name, p in parameters.items() if p.kind is POSITIONAL] == positional
    assert {name: parameters[name].default for name in keywords} == keywords
    further = [p for name, p in parameters.items() if name not in [*positional, *keywords]]
    assert all(p.kind is KEYWORD and p.default is not REQUIRED for p in further)


def test_a_tap_has_query_key_and_value_in_this_order() -> None:
    assert models.QKV._fields == ("q", "k", "v")
