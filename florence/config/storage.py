"""Where an S3 store answers. Credentials are never settings: boto3 finds them by itself."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import model_validator

from florence.config.base import Settings, setting


class S3Settings(Settings):
    """How to reach the store behind ``s3://`` URIs."""

    endpoint: str | None = setting(
        None,
        description="address of an S3 server that is not Amazon's, such as http://minio:9000",
    )
    region: str | None = setting(
        None, description="region that requests are signed for. Default: the environment's"
    )
    attempts: int = setting(
        10, description="tries of a request, with growing pauses, before giving up", ge=1
    )

    @model_validator(mode="after")
    def _endpoint_is_plain(self) -> Self:
        if self.endpoint is None:
            return self
        try:
            parts = urlsplit(self.endpoint)
            parts.port  # noqa: B018  reading it checks it
        except ValueError:
            raise ValueError("endpoint is not a valid address such as http://minio:9000") from None
        # The address is left out of these messages: one with a password in it must not reach a log.
        if parts.username or parts.password:
            raise ValueError(
                "endpoint holds credentials: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("endpoint must look like http://host:port or https://host")
        return self
