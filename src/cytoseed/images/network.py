"""What a store far away may answer, said as Python says it of files on a disk: with the address and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from cytoseed.images.errors import ImageFileError

SILENCE_S = 60.0
"""For how long a store may be silent: the libraries of stores try again by themselves in this time."""
SLOWEST_BYTES_S = 1 << 17
"""How fast a store must be: longer than this and the silence together, nothing is waited for."""

_FORBIDDEN, _GONE = (401, 403, 407), (404, 410)
_NO_RIGHTS = (  # of botocore, google.auth and azure.core, which need not be installed
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "ProfileNotFound",
    "DefaultCredentialsError",
    "RefreshError",
    "ClientAuthenticationError",
)
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket "
    "FSSPEC_S3='{\"anon\": true}'",
    "gs": 'GOOGLE_APPLICATION_CREDENTIALS; for a public bucket FSSPEC_GS=\'{"token": "anon"}\'',
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_SAME = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az"}


@contextmanager
def network_errors(url: str, seconds: float = SILENCE_S) -> Iterator[None]:
    """Turn what fsspec and the libraries behind it raise into an `OSError` that names the URL.

    Parameters
    ----------
    url : str
        As it may be shown: without passwords and signatures.
    seconds : float
        How long an answer was waited for.

    Raises
    ------
    FileNotFoundError
        There is nothing at the URL.
    PermissionError
        The store does not let it be read, or no credentials were found.
    TimeoutError, ConnectionError
        The store does not answer, or cannot be reached.
    OSError
        Anything else.
    """
    try:
        yield
    except (ImageFileError, MemoryError):
        raise
    except Exception as error:
        raise _told(url, _cause(error), seconds) from error


def _cause(error: Exception) -> Exception:
    """Find what is behind an error: fsspec says of whatever happens by HTTP that there is no file."""
    cause = error.__cause__
    of_http = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
    return cause if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) and of_http else error


def _told(url: str, error: Exception, seconds: float) -> OSError:
    """Say an error as Python does."""
    if isinstance(error, OSError) and str(error).startswith(f"{url}: "):
        return error  # it has been through here
    text = " ".join(str(error).split()) or type(error).__name__
    kind, status = type(error).__name__, getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in _GONE:
        return FileNotFoundError(f"{url}: there is no such file ({text}); check the address")
    if isinstance(error, PermissionError) or status in _FORBIDDEN or kind in _NO_RIGHTS:
        return PermissionError(f"{url}: may not be read ({text}); {_remedy(url)}")
    if isinstance(error, TimeoutError) or "Timeout" in kind:
        return TimeoutError(
            f"{url}: {_host(url)} gave no answer within {seconds:.0f} s; check the address and the network"
        )
    if isinstance(error, ConnectionError) or "Connect" in kind:  # also what is no `ConnectionError`, as aiohttp's
        return ConnectionError(f"{url}: {_host(url)} cannot be reached ({text}); check the address and the network")
    told = OSError(f"{url}: cannot be read ({kind}: {text}); try again, or copy the file to this machine")
    told.errno = getattr(error, "errno", None)
    return told


def _remedy(url: str) -> str:
    """Tell where credentials come from."""
    protocol = urlsplit(url).scheme
    protocol = _SAME.get(protocol, protocol)
    known = f": {_CREDENTIALS[protocol]}" if protocol in _CREDENTIALS else ""
    return f"check the rights, and the credentials that fsspec finds in the environment or its configuration{known}"


def _host(url: str) -> str:
    """Name who should answer."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return parts.netloc
    return f"the store of {parts.scheme}://{parts.netloc}"
