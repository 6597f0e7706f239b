"""Base models on the Hugging Face hub: their files' names and sizes, and ranges of their bytes, at a pinned commit.

Only a few kilobytes of a model are read here; nodes download it. HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are honoured
by the hub's own library: offline, what its cache on this machine holds is what there is.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from huggingface_hub import (
    HfApi,
    constants,
    get_session,
    get_token,
    hf_hub_url,
    hf_raise_for_status,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from orchestrator.domain.errors import HubUnavailableError, InvalidRequestError
from orchestrator.domain.models import ModelFile
from orchestrator.services.model_readers import FolderReader, ModelReader

TIMEOUT_SECONDS = 10.0
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_LOCATION = re.compile(rf"(?P<id>{_HUB_ID.pattern})(@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}))?")


def is_hub_id(name: str) -> bool:
    """organization/name; old names without an organization have one by now."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name and "--" not in name


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model at one commit."""

    hub_id: str
    commit: str
    reader: ModelReader


@dataclass(frozen=True)
class Hub:
    """Without a token of our own, the one of the environment (HF_TOKEN) is used; it is a secret either way.

    `endpoint` and `cache_dir` are the library's own when None.
    """

    token: str | None = field(default=None, repr=False)
    endpoint: str | None = None
    cache_dir: Path | None = None

    @property
    def effective_token(self) -> str | None:
        return self.token or get_token()

    def open(self, location: str) -> HubModel:
        """A model by its id, with or without '@revision'.

        Raises InvalidRequestError (model_not_found, model_gated), or HubUnavailableError when the hub cannot be asked
        and the cache does not have the model.
        """
        found = _LOCATION.fullmatch(location)
        if found is None or not is_hub_id(found["id"]):
            raise InvalidRequestError(f"{location!r} is not an id of the hub (organization/name)", param="location")
        hub_id, revision = found["id"], found["revision"]
        try:
            with _translated(hub_id):
                return self._ask(hub_id, revision)
        except HubUnavailableError:
            cached = self._find_cached(hub_id, revision)
            if cached is None:
                raise
            return cached

    def _ask(self, hub_id: str, revision: str | None) -> HubModel:
        api = HfApi(endpoint=self.endpoint, token=self.effective_token or False, library_name="tunepool")
        info = api.model_info(hub_id, revision=revision, timeout=TIMEOUT_SECONDS, files_metadata=True)
        if info.sha is None:
            raise HubUnavailableError(f"the hub names no commit of {hub_id}")
        files = [
            ModelFile(path=sibling.rfilename, size_bytes=sibling.size or 0)
            for sibling in info.siblings or ()
            if "/" not in sibling.rfilename
        ]
        reader = _HubReader(self, hub_id, info.sha, tuple(sorted(files, key=lambda file: file.path)))
        return HubModel(hub_id=hub_id, commit=info.sha, reader=reader)

    def _find_cached(self, hub_id: str, revision: str | None) -> HubModel | None:
        """The snapshot that the library's cache holds; its links lead to the cache's own blobs."""
        cache_dir = self.cache_dir or Path(constants.HF_HUB_CACHE)
        config = try_to_load_from_cache(hub_id, "config.json", cache_dir=cache_dir, revision=revision)
        if not isinstance(config, str):
            return None
        folder = Path(config).parent
        return HubModel(hub_id=hub_id, commit=folder.name, reader=FolderReader(folder, (cache_dir.resolve(),)))


@dataclass(frozen=True)
class _HubReader:
    hub: Hub
    hub_id: str
    commit: str
    files: tuple[ModelFile, ...]

    def list_files(self) -> Sequence[ModelFile]:
        return self.files

    def read(self, path: str, start: int, length: int) -> bytes:
        """Asks for a range, and takes no more than it even when the server sends the whole file."""
        url = hf_hub_url(self.hub_id, path, revision=self.commit, endpoint=self.hub.endpoint)
        headers = {"range": f"bytes={start}-{start + length - 1}"}
        if token := self.hub.effective_token:
            headers["authorization"] = f"Bearer {token}"
        taken = bytearray()
        session = get_session()
        with (
            _translated(self.hub_id),
            session.stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as response,
        ):
            hf_raise_for_status(response)
            if start and response.status_code != 206:
                raise HubUnavailableError(f"the hub does not send parts of {path} of {self.hub_id}")
            for chunk in response.iter_bytes():
                taken += chunk
                if len(taken) >= length:
                    break
        return bytes(taken[:length])


@contextmanager
def _translated(hub_id: str) -> Iterator[None]:
    """The library's errors in our words."""
    try:
        yield
    except GatedRepoError as error:
        raise InvalidRequestError(
            f"the hub does not give {hub_id} to this pool: its licence has to be accepted, by the owner of "
            "TUNEPOOL_HUB_TOKEN",
            code="model_gated",
            param="model",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise InvalidRequestError(
            f"the hub has no model {hub_id}, or this pool may not see it", code="model_not_found", param="model"
        ) from error
    except OfflineModeIsEnabled as error:
        raise HubUnavailableError(f"{hub_id} is not in this machine's cache, and HF_HUB_OFFLINE is set") from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise HubUnavailableError(f"the hub could not be asked for {hub_id} ({type(error).__name__})") from error
