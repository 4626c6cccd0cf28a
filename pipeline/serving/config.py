"""How the picture service runs; imports nothing heavy."""

from pydantic import Field

from pipeline.config import StrictModel
from pipeline.generation.config import SafetyConfig


class ServeConfig(StrictModel):
    """One deployment of a trained stack."""

    host: str = "127.0.0.1"
    """Address to listen on; put a gateway with authentication before any other than loopback."""
    port: int = Field(default=8000, ge=1, le=65_535)
    num_replicas: int = Field(default=1, ge=1)
    """Processes that each hold the models."""
    gpus_per_replica: float = Field(default=0.0, ge=0.0)
    threads: int = Field(default=1, ge=1)
    """Torch threads of a replica."""
    max_batch_size: int = Field(default=8, ge=1)
    """Waiting requests that are taken together, and pictures that one sampling run makes."""
    batch_wait_s: float = Field(default=0.05, ge=0.0)
    """How long a request waits for others to share its batch, seconds."""
    max_ongoing_requests: int = Field(default=16, ge=1)
    """Requests that a replica holds at once."""
    max_queued_requests: int = Field(default=32, ge=0)
    """Requests that wait beyond those; more are answered 503 at once."""
    max_prompt_chars: int = Field(default=400, ge=1)
    """Longer prompts are answered 422."""
    max_pictures: int = Field(default=9, ge=1)
    """Pictures of one request; more are answered 422."""
    max_picture_px: int = Field(default=4096, ge=1)
    """Longer side of a picture that is sent in for variations; larger ones are answered 422."""
    safety: SafetyConfig | None = None
    """Which prompts are refused (422) and which pictures withheld; off by default."""
