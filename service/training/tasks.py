"""The tasks as people ask for them: titles and example instructions of their plugins."""

from typing import NamedTuple


class TaskText(NamedTuple):
    title: str
    example_instructions: tuple[str, ...]


TASK_TEXTS: dict[str, TaskText] = {
    "restore": TaskText(
        "Repair an old photo",
        ("remove the scratches", "repair this damaged print", "clean the stains off the old photo"),
    ),
    "derain": TaskText(
        "Remove rain",
        ("remove the rain", "get rid of the rain streaks", "clear the raindrops from my photo"),
    ),
    "desnow": TaskText(
        "Remove snow",
        ("remove the snow", "take away the snowflakes", "clear the falling snow"),
    ),
    "dehaze": TaskText(
        "Remove haze and fog",
        ("remove the haze", "clear the fog", "make the misty view clear"),
    ),
    "lowlight": TaskText(
        "Brighten a dark photo",
        ("brighten this dark photo", "fix the underexposed picture", "it is too dark, light it up"),
    ),
    "demoire": TaskText(
        "Remove moire",
        ("remove the moire pattern", "clean the rainbow stripes of the screen", "demoire this"),
    ),
    "highlight": TaskText(
        "Remove glare",
        ("remove the specular highlights", "take away the glare", "remove the shiny spots"),
    ),
    "deblur": TaskText(
        "Sharpen a blurred photo",
        ("sharpen the blurry photo", "remove the motion blur", "fix the out of focus picture"),
    ),
    "face": TaskText(
        "Restore a face",
        ("restore the face", "enhance the low-quality face", "make the face clear"),
    ),
    "colorize": TaskText(
        "Colour a black-and-white photo",
        (
            "colorize this photo",
            "add colour to the black-and-white picture",
            "make it a colour photo",
        ),
    ),
    "snow": TaskText(
        "Add snow",
        ("add falling snow", "make it snow in this photo", "put snowflakes in the picture"),
    ),
    "rain": TaskText(
        "Add rain",
        ("add rain", "make it rain in this photo", "put a rain shower in the picture"),
    ),
    # No label of the selector: found by these sentences alone.
    "dejpeg": TaskText(
        "Remove JPEG artifacts",
        (
            "remove the jpeg artifacts",
            "get rid of the compression blocks",
            "clean up the jpeg compression in this photo",
            "the picture is full of blocky compression artifacts",
            "fix the pixel blocks from the strong compression",
        ),
    ),
}
