"""onnxruntime-web, which runs the network in the browser. npm downloads it to a cache outside the repository."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from dreamrun.data.atomic import atomic_folder

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)  # of npm's archive
# For each device: the script that the worker imports, its glue code, and the program. That for GPUs has CPUs, too.
FILES = {
    device: {"script": f"ort.{device}.min.mjs", "glue": f"ort-wasm-{kind}.mjs", "wasm": f"ort-wasm-{kind}.wasm"}
    for device, kind in (("wasm", "simd-threaded"), ("webgpu", "simd-threaded.asyncify"))
}
ALL_FILES = tuple(name for files in FILES.values() for name in files.values())
_NPM_TIMEOUT_SECS = 600


def find_runtime(folder: Path | None = None) -> Path:
    """The folder with the runtime's files: that of an npm package or its `dist`, or the cache, which npm fills."""
    if folder is not None:
        candidates = [path for path in (folder, folder / "dist") if (path / ALL_FILES[0]).is_file()]
        if not candidates or not all((candidates[0] / name).is_file() for name in ALL_FILES):
            raise ValueError(f"--runtime {folder} is not {PACKAGE} {VERSION}: it lacks files such as {ALL_FILES[0]}")
        if f"v{VERSION}".encode() not in (candidates[0] / ALL_FILES[0]).read_bytes()[:500]:
            raise ValueError(f"--runtime {folder} is another version of {PACKAGE} than {VERSION}")
        return candidates[0]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreamrun" / f"{PACKAGE}-{VERSION}"
    if not cache.is_dir():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with (cache.parent / f".{cache.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # wait for another process that is downloading it
            if not cache.is_dir():
                _download(cache)
    return cache


def _download(cache: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            f"npm was not found, which downloads {PACKAGE} {VERSION}: install Node.js, "
            "or name a folder that holds the package with --runtime"
        )
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", temporary]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_NPM_TIMEOUT_SECS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
            reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise ValueError(
                f"npm could not download {PACKAGE} {VERSION}: {(reason or ['no reason given'])[0]}"
            ) from None
        (archive,) = Path(temporary).glob("*.tgz")
        if hashlib.sha512(archive.read_bytes()).hexdigest() != SHA512:
            raise ValueError(f"npm's {PACKAGE} {VERSION} has another checksum than expected: it may have been changed")
        with tarfile.open(archive) as files, atomic_folder(cache, replace=True) as folder:
            for name in ALL_FILES:
                (folder / name).write_bytes(files.extractfile(f"package/dist/{name}").read())
