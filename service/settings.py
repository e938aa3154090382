"""Every setting, its default and its effect. Read once at the process edge, handed down as values.

Environment variables have the prefix DIFFPLUGIN_, e.g. DIFFPLUGIN_REDIS_URL.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PresetName = Literal["default", "reference", "reference-demo"]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="DIFFPLUGIN_", frozen=True, extra="forbid", env_ignore_empty=True
    )

    host: str = Field("127.0.0.1", description="Address the HTTP and gRPC servers bind to.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the HTTP server.")
    grpc_port: int = Field(50051, ge=0, le=65535, description="Port of the gRPC server; 0: none.")
    api_keys_file: Path | None = Field(
        None, description="File of API keys (`diffplugin keys`); empty: none is asked for."
    )
    allow_anonymous: bool = Field(False, description="Listen beyond the loopback without API keys.")
    api_key: str = Field("", repr=False, description="Key that the command line sends to --server.")
    tls_cert: Path | None = Field(None, description="PEM chain of both servers; empty: no TLS.")
    tls_key: Path | None = Field(None, description="PEM key of that certificate.")
    tls_client_ca: Path | None = Field(
        None, description="PEM roots; callers must then show a certificate of theirs (mTLS)."
    )
    webhook_secret: str = Field(
        "", repr=False, description="whsec_ and base64: signs webhooks; empty: there are none."
    )
    webhook_allow_private: bool = Field(
        False, description="Webhooks may go to private addresses and this machine."
    )
    webhook_attempts: int = Field(6, ge=1, description="Times that a webhook is tried.")
    webhook_retry_s: float = Field(
        2.0, gt=0, description="Pause after a webhook's first failure; each next is four times it."
    )
    redis_url: str = Field(
        "", repr=False, description="Redis to use; empty: `serve` starts a private one."
    )
    pictures_folder: Path | None = Field(
        None, description="Folder in memory that every role sees; empty: pictures go through Redis."
    )
    key_prefix: str = Field("diffplugin", description="First part of every Redis key.")
    plugins_store: Path = Field(
        Path("plugins_store"), description="Folder with bases, plugins and the mapping table."
    )
    base: str = Field("nano", description="Base model: a folder of plugins_store, e.g. nano.")
    preset: PresetName = Field(
        "default", description="default, or what the plugins' authors do: reference(-demo)."
    )
    device: str = Field("auto", description="auto: cuda if there is one, else cpu.")
    num_threads: int = Field(0, ge=0, description="CPU threads of a worker; 0: torch's default.")

    max_image_bytes: int = Field(128 * 2**20, description="Larger uploads are refused (413).")
    max_image_pixels: int = Field(36_000_000, description="Larger images are refused (413).")
    max_whole_pixels: int = Field(
        1_500_000, ge=65_536, description="Larger images are restored in overlapping tiles."
    )
    min_image_side: int = Field(1, ge=1, description="Smaller images are refused (422).")
    max_instruction_chars: int = Field(1000, description="Longer instructions are refused (422).")
    max_steps: int = Field(100, description="Most denoising steps a request may ask for.")
    max_tasks: int = Field(8, description="Most plugins a request may name.")

    max_plugin_bytes: int = Field(
        2 * 2**30, gt=0, description="Plugins' weights on a worker's device; more make room."
    )
    max_host_plugin_bytes: int = Field(
        8 * 2**30, gt=0, description="The same in host memory, where the device has its own."
    )
    memory_share: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Of the memory free at start, for a worker's edits; 0: no limit.",
    )
    max_memory_bytes: int = Field(
        0, ge=0, description="Memory for a worker's running edits; 0: as memory_share says."
    )
    max_queue_depth: int = Field(256, description="Waiting jobs beyond which new ones get 429.")
    max_queue_bytes: int = Field(
        2**30, description="Bytes of open jobs' pictures beyond which new ones get 429."
    )
    max_queue_s: float = Field(
        600.0, gt=0, description="Predicted seconds of queued work beyond which new jobs get 429."
    )
    max_batch_size: int = Field(8, description="Most rows in one UNet call.")
    feature_cache_interval: int = Field(
        1, ge=1, description="n > 1, lossy: deep UNet layers run at every n-th step; 1: exact."
    )
    int8_unet: bool = Field(
        False, description="Lossy, on a CPU: the UNet's linear layers in 8-bit integers."
    )
    compile_unet: bool = Field(
        False, description="torch.compile for the UNet: minutes for each new photo size, then fast."
    )
    priority_ageing_s: float = Field(
        30.0, ge=0, description="A job that waited this long is as urgent as the next class."
    )
    lease_s: float = Field(20.0, description="A claim not renewed for this long is taken over.")
    max_deliveries: int = Field(3, description="Deliveries without an end before a job has failed.")
    retry_backoff_s: float = Field(
        1.0, ge=0, description="Pause before the second attempt after a fault; then it doubles."
    )
    heartbeat_s: float = Field(2.0, description="How often workers report; three misses: dead.")
    request_timeout_s: float = Field(120.0, description="Deadline of a job that names none.")
    result_ttl_s: int = Field(3600, description="Jobs and images are forgotten this long after.")
    traces_url: str = Field(
        "", description="OTLP/HTTP address that spans are sent to (extra otel); empty: none."
    )
    shutdown_grace_s: float = Field(30.0, description="Time for running jobs on SIGTERM.")
