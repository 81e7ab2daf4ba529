import dataclasses
from typing import ClassVar

import pytest

from bytelm.core.config_json import differences, from_dict, to_dict
from bytelm.core.errors import UserError
from bytelm.core.variants import Variant


class Shape(Variant, name="shape", key="kind"):
    """A base of which nothing outside this file knows."""


@dataclasses.dataclass(frozen=True)
class Circle(Shape):
    kind: ClassVar[str] = "circle"
    radius: float = 1.0


@dataclasses.dataclass(frozen=True)
class Frame(Shape):
    kind: ClassVar[str] = "frame"
    inner: Shape | None = None
    others: tuple[Shape, ...] = ()


NESTED = Frame(Frame(Circle(2.0)), (Circle(), Frame()))


def test_a_base_of_variants_is_saved_and_rebuilt_without_being_listed_anywhere():
    saved = to_dict(NESTED)
    assert saved["inner"]["inner"]["kind"] == "circle"
    assert from_dict(saved, Shape) == NESTED


def test_an_unknown_variant_is_named():
    saved = to_dict(NESTED)
    saved["others"][0]["kind"] = "circel"
    with pytest.raises(UserError, match=r"others\[0\]\.kind is 'circel'.*test_config_json.py"):
        from_dict(saved, Shape)
    with pytest.raises(UserError, match=r"shape\.kind is None; .*has circle, frame"):
        from_dict({}, Shape, "shape")


def test_each_base_has_its_own_variants():
    class Colour(Variant, name="colour", key="kind"):
        pass

    class Circle(Colour):
        kind = "circle"

    assert Colour.variants == {"circle": Circle} and set(Shape.variants) == {"circle", "frame"}
    with pytest.raises(UserError, match=r"Twin calls itself 'circle', and so does .*Circle"):

        class Twin(Colour):
            kind = "circle"


def test_differences_are_named_by_their_path():
    other = dataclasses.replace(NESTED, inner=Frame(Circle(3.0)), others=())
    assert differences(to_dict(NESTED), to_dict(NESTED)) == []
    assert differences(to_dict(NESTED), to_dict(other)) == [
        ("inner.inner.radius", 2.0, 3.0),
        ("others", to_dict(NESTED)["others"], []),
    ]
