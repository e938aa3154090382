"""`diffplugin models fetch`: the parts of a base from the hub into its cache, each file checked.

Only what the service reads is fetched: per part its config and one weights file, safetensors if the
repository has them.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoSibling

from service.errors import InvalidCheckpoint, Unavailable
from service.models.base_files import (
    DIFFUSION_PARTS,
    TEXT_PARTS,
    local_folder,
    read_sources,
    write_sources,
)
from service.models.checkpoint import STEMS, SUFFIXES

ENDPOINT = constants.ENDPOINT  # HF_ENDPOINT names a mirror
TIMEOUT_S = 30.0
WANTED = (".json", ".txt")  # beside weights: configs and tokenizers


def fetch_base(root: Path, cache: Path | None) -> Iterator[str]:
    """Download what base.json of `root` names by hub ids; yields a line per source.

    A `cache` of its own is written into base.json, for that is where the roles will look.
    """
    if not (root / "base.json").is_file():
        raise FileNotFoundError(f"{root} has no base.json that names hub ids; see docs/plugins.md")
    sources = read_sources(root)
    if cache is not None:
        sources = sources.model_copy(update={"cache": str(cache.resolve())})
    parts = (*DIFFUSION_PARTS, *TEXT_PARTS)
    for source, folders in ((sources.diffusion, parts), (sources.image_encoder, ("",))):
        folder = local_folder(source, root)
        if folder is not None:
            yield f"{source}: a folder, nothing to fetch"
        else:
            yield _fetch(source, folders, sources.cache or None)
    if cache is not None:
        write_sources(root, sources)


def _fetch(repo: str, folders: Iterable[str], cache: str | None) -> str:
    try:
        files = HfApi(ENDPOINT).model_info(repo, files_metadata=True, timeout=TIMEOUT_S).siblings
        wanted = [file for folder in folders for file in _wanted(files or [], folder)]
        for file in wanted:
            path = hf_hub_download(repo, file.rfilename, cache_dir=cache, endpoint=ENDPOINT)
            _check(file, Path(path))
    except InvalidCheckpoint:
        raise
    except Exception as error:  # of the HTTP library under the hub's, which is its own affair
        raise Unavailable(_why_not(repo, error)) from error
    if not wanted:
        raise InvalidCheckpoint(f"{repo} holds none of the parts of a base")
    size = sum(file.size or 0 for file in wanted) / 1e9
    return f"{repo}: {len(wanted)} files, {size:.2f} GB, every digest is right"


def _wanted(files: list[RepoSibling], folder: str) -> list[RepoSibling]:
    """Configs of one folder, and the one weights file that will be read."""
    here = [file for file in files if str(PurePosixPath(file.rfilename).parent) == (folder or ".")]
    names = {PurePosixPath(file.rfilename).name: file for file in here}
    texts = [file for name, file in names.items() if PurePosixPath(name).suffix in WANTED]
    ranked = [f"{stem}{suffix}" for suffix in SUFFIXES for stem in STEMS]
    weights = next((names[name] for name in ranked if name in names), None)
    return texts if weights is None else [*texts, weights]


def _check(file: RepoSibling, path: Path) -> None:
    """Large files have their sha256 in the hub, small ones their git hash."""
    if file.lfs is None:
        data = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        expected = file.blob_id
    else:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        expected = file.lfs.sha256
    if found != expected:
        raise InvalidCheckpoint(
            f"{path} has the digest {found}, the hub says {expected}; remove it"
        )


def _why_not(repo: str, error: Exception) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"the hub refuses {repo}: HTTP {error.response.status_code}; is the id right?"
    return (
        f"the hub cannot be reached for {repo} ({type(error).__name__}): there is no network here. "
        "Fetch it on another machine with --cache DIR and copy DIR and base.json, "
        "or write folders into base.json"
    )
