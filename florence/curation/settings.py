"""What a user may set about curation. No torch, no numpy: the command line is made from it."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from florence.config.base import Settings, setting


class Curation(Settings):
    """Which samples stay. Filters apply in the order of these settings; a sample is counted once,
    under the first that drops it."""

    min_side: int = setting(
        200, description="drop images whose shorter side is smaller", unit="pixels", ge=1
    )
    max_aspect: float = setting(
        3.0, description="drop images whose longer side is more than so many shorter ones", ge=1
    )
    min_words: int = setting(1, description="drop texts of fewer words", unit="words", ge=0)
    max_words: int | None = setting(
        None, description="drop texts of more words; default: none", unit="words", ge=1
    )
    relevance_model: str | None = setting(
        None,
        description="folder or s3:// prefix of a two-tower model that judges whether text and "
        "image belong together; needs min-relevance",
    )
    min_relevance: float | None = setting(
        None,
        description="drop pairs whose embeddings' cosine is lower; needs relevance-model",
        ge=-1,
        le=1,
    )
    against: tuple[str, ...] = setting(
        (),
        description="evaluation sets (shards, a folder of images, or anything that can be "
        "imported): drop what nearly equals one of their images",
    )
    exact_duplicates: bool = setting(
        True, description="keep one of the samples whose images are equal to the byte"
    )
    near_duplicates: bool = setting(
        True, description="keep one of the samples whose images nearly equal each other"
    )
    distance: int = setting(
        6,
        description="images nearly equal each other when at most so many bits of their 64-bit "
        "perceptual hashes differ",
        unit="bits",
        ge=0,
        le=12,
    )
    max_per_query: int | None = setting(
        20_000,
        description="keep at most so many samples of a query (query of the .json), chosen by the "
        "hash of their images",
        unit="samples",
        ge=1,
    )
    annotate: bool = setting(
        True, description="add width, height, phash and relevance to the .json of what stays"
    )

    @model_validator(mode="after")
    def _relevance_is_whole(self) -> Self:
        if (self.relevance_model is None) != (self.min_relevance is None):
            raise ValueError("relevanceModel and minRelevance need each other: give both")
        return self

    @model_validator(mode="after")
    def _words_are_a_range(self) -> Self:
        if self.max_words is not None and self.max_words < self.min_words:
            raise ValueError("maxWords is smaller than minWords: nothing would stay")
        return self
