"""The fields of POST /v1/images/edits, and the edit of ours that they ask for."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.intake import invalid
from service.api.schemas import MAX_PREVIEWS, EditFields, explain
from service.errors import InvalidRequest
from service.images import OutputFormat

MAX_N = 10


class ImageEdit(BaseModel):
    """What OpenAI's clients send; what would have to be ignored is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(description="What to do, e.g. remove the rain.")
    model: str | None = Field(None, description="The base, or a plugin to run instead of a plan.")
    n: int = Field(1, ge=1, le=MAX_N)
    size: str = Field("auto", pattern=r"^(auto|\d+x\d+)$", description="auto or the image's own.")
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: OutputFormat = "png"
    quality: Literal["auto"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=MAX_PREVIEWS, description="Most previews of a stream.")

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """InvalidRequest names each field that is wrong."""
        try:
            fields = cls.model_validate(values)
        except ValidationError as error:
            wrong = explain(error, cls)
            raise InvalidRequest("; ".join(wrong.values()), wrong) from error
        if fields.partial_images and not fields.stream:
            raise invalid("partial_images", "partial_images come in a stream; set stream to true")
        if fields.stream and fields.response_format == "url":
            raise invalid("response_format", "a stream has images as b64_json; ask for that")
        return fields

    def edit_fields(self, base: str) -> EditFields:
        """The fields of POST /v1/edit."""
        return EditFields.parse(
            {
                "instruction": self.prompt,
                "plugins": None if self.model in (None, base) else [self.model],
                "output_format": self.output_format,
                "previews": self.partial_images,
            }
        )
