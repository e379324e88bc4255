"""What a weights file says of its network: how to build it again, and how to feed it."""

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import nn

from cikd_cli.models import network

Triple = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
HALF: Triple = (0.5, 0.5, 0.5)  # what a network without pretraining statistics gets, and the released code everywhere


@dataclass(frozen=True)
class ModelSpec:
    """builder: a key of `network.NETWORKS`; arguments: those of the builder beside classes and image size.

    classes: names, () for no classifier. heads: of every block, () where there are none; they change no tensor, so what
    is built is compared with them.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    builder: str
    arguments: dict[str, Any]
    image_size: Annotated[int, Field(ge=1, le=2**16)]
    num_classes: Annotated[int, Field(ge=0, le=2**24)]
    classes: tuple[str, ...]
    mean: Triple
    std: tuple[Positive, Positive, Positive]
    heads: tuple[Annotated[int, Field(ge=1, le=2**16)], ...]

    @classmethod
    def describe(
        cls,
        model: nn.Module,
        builder: str,
        *,
        classes: tuple[str, ...],
        mean: Triple,
        std: Triple,
        image_size: int | None = None,
        **arguments: Any,
    ) -> "ModelSpec":
        """The spec of a network as it stands; builder: a key of NETWORKS, or timm's name.

        image_size: of a network that does not say it itself.
        """
        if builder not in network.NETWORKS:
            builder, arguments = "timm", {"name": builder, **arguments}
        else:
            arguments = network.shape(model) | arguments
        side = network.image_size(model) or image_size
        assert side is not None
        classifies: Any = getattr(model, "num_classes", len(classes))
        return cls(builder, arguments, side, int(classifies), classes, mean, std, network.head_counts(model))

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Raises ValueError, in one line, for missing or unknown keys, and for values that no network has."""
        try:
            spec = TypeAdapter(cls).validate_json(text)
            if spec.builder not in network.NETWORKS:
                raise ValueError(f"builder {spec.builder!r} is not known")
            network.NETWORKS[spec.builder].check(spec.arguments)
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            raise ValueError(f"{'.'.join(map(str, detail['loc']))} {detail['msg']}".strip()) from None
        return spec

    @property
    def name(self) -> str:
        """timm's name, or the builder's."""
        return str(self.arguments.get("name", self.builder))

    def with_classes(self, classes: tuple[str, ...], **arguments: Any) -> "ModelSpec":
        """The same network for other classes, or none; arguments: of the builder, instead of its own."""
        known = {key: value for key, value in arguments.items() if key in self.arguments}
        return replace(self, num_classes=len(classes), classes=classes, arguments=self.arguments | known)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def build(self) -> nn.Module:
        """A network of this shape with untrained weights; CikdError for one that cannot be built."""
        build = network.NETWORKS[self.builder].build
        return build(num_classes=self.num_classes, image_size=self.image_size, **self.arguments)
