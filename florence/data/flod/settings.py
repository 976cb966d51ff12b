"""What a user may set about merging, and the format that the importer runs. No torch, no numpy."""

from __future__ import annotations

from florence.config.base import setting
from florence.data.importing.registry import ImportFormat
from florence.data.importing.settings import ImportSettings


class Flod(ImportSettings):
    """Detection data sets merged into one."""

    names: str | None = setting(
        None,
        description="YAML file with 'source: {its name: the common name}' for sources that call "
        "things otherwise, beside the table that is shipped for coco, lvis, objects365 and "
        "openimages",
    )


FLOD = ImportFormat(
    name="flod",
    help="Detection data sets merged into one, by a table of names.",
    sources="NAME=URI, of shards with boxes or of a file that can be imported",
    example="shards/flod --source coco=shards/coco --source lvis=shards/lvis",
    settings=Flod,
    opener="florence.data.flod.sources:open_flod",
)
