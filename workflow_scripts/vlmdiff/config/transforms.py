"""What is done to the images of a data set: one change, with its amount."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vlmdiff.config.base import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Transform(Section):
    """One change of every image; its text stays as it is."""

    mirror: Literal["left_right", "top_bottom"] | None = Field(None, description="Exchange two sides.")
    hue: float | None = Field(
        None, gt=0.0, lt=1.0, description="Turn all colours by this share of the colour circle."
    )
    brightness: float | None = Field(None, gt=0.0, le=10.0, description="Multiply every value by this.")
    mask: tuple[Share, Share, Share, Share] | None = Field(
        None,
        description="Fill a box with the image's mean colour: left, top, right, bottom as shares of its "
        "width and height.",
    )

    @model_validator(mode="after")
    def is_one_change(self) -> Transform:
        """Two changes at once could not be told apart."""
        found = self.said()
        if len(found) != 1:
            told = f"found {', '.join(found)}" if found else "found none"
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"{told}, expected one of {names}; write for example `{{ mirror: left_right }}`")
        return self

    @model_validator(mode="after")
    def box_is_not_empty(self) -> Transform:
        """An empty box hides nothing."""
        if self.mask is not None:
            left, top, right, bottom = self.mask
            if left >= right or top >= bottom:
                raise ValueError(
                    f"mask: found {list(self.mask)}, expected left, top, right, bottom with left below right "
                    "and top below bottom"
                )
        return self

    def said(self) -> dict[str, Any]:
        """Return the change by its name."""
        return {key: value for key, value in self.model_dump(mode="json").items() if value is not None}
