"""The files of a run: a page that lists them, and downloads.

Files can contain anything that a model or a trace says. Browsers show only plain text of them; the
headers forbid scripts and any other interpretation of the content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

from tuneloop.artifacts import layout
from tuneloop.datasets.schema import is_key
from tuneloop.errors import DataError
from tuneloop.history.stored import StoredRun
from tuneloop.storage import files, paths
from tuneloop.storage.links import refuse_links_out
from tuneloop.storage.objects import list_objects
from tuneloop.store.dependencies import Service, Svc, in_artifact_threads
from tuneloop.store.routes.streams import Blocks, BlocksResponse, stream_bytes
from tuneloop.store.web.render import page, security_headers

MAX_FILES = 2000
"""Maximum number of files on a page."""
_TEXT_SUFFIXES = (".json", ".jsonl", ".jinja", ".log", ".md", ".txt", ".yaml")
_RUN_FILE = re.compile(r"training_runs/([^/]+)/(.+)", re.DOTALL)
_PART = re.compile(r"(?!\.{1,2}$)[\w.=+@, -]{1,255}", re.ASCII)
"""One part of the path of a file; names of our own files have no other characters."""
_LOOK: dict[str, Any] = {"methods": ["GET", "HEAD"], "include_in_schema": False}

router = APIRouter()


@dataclass(frozen=True)
class LinkedFile:
    """A file with its address."""

    name: str
    size_bytes: int
    url: str
    """Path of its download; empty if its name is none of ours."""


def files_of_records(run: StoredRun) -> dict[str, list[LinkedFile]]:
    """Return the outputs that the records of a run name, by stage."""
    return {
        stage.name: [
            LinkedFile(file.name, file.size_bytes, _url(file.path)) for file in stage.record.outputs
        ]
        for stage in run.stages
        if stage.record and stage.record.outputs
    }


def _url(path: str) -> str:
    """Return the address of a file by its path below the artifacts prefix."""
    found = _RUN_FILE.fullmatch(path)
    if found is None or not is_key(found[1]) or not _is_ours(found[2]):
        return ""
    return f"/runs/{found[1]}/files/{quote(found[2])}"


def _is_ours(path: str) -> bool:
    return all(_PART.fullmatch(part) for part in path.split("/"))


@router.api_route("/runs/{run_id}/files", **_LOOK)
@in_artifact_threads
def run_files(run_id: str, service: Svc) -> Response:
    """List all files of a run."""
    prefix = _prefix(service, run_id)
    found = [
        LinkedFile(each.name, each.size_bytes, _url(f"training_runs/{run_id}/{each.name}"))
        for each in list_objects(prefix)
    ]
    if not found:
        raise HTTPException(404, "No run has this id")
    return page(
        "run_files",
        section="runs",
        run_id=run_id,
        folders=_by_folder(found[:MAX_FILES]),
        shown=min(len(found), MAX_FILES),
        total=len(found),
        size_bytes=sum(file.size_bytes for file in found),
    )


def _by_folder(found: Iterable[LinkedFile]) -> dict[str, list[LinkedFile]]:
    """Group files by stage; those of the run itself come first."""
    folders: dict[str, list[LinkedFile]] = {"": []}
    for file in found:
        folder, _, name = file.name.partition("/")
        if name:
            folders.setdefault(folder, []).append(LinkedFile(name, file.size_bytes, file.url))
        else:
            folders[""].append(file)
    return {folder: files for folder, files in folders.items() if files}


def _prefix(service: Service, run_id: str) -> str:
    if not is_key(run_id):
        raise HTTPException(404, "No run has this id")
    return layout.run_prefix(service.artifacts, run_id)


@router.get("/runs/{run_id}/files/{path:path}", include_in_schema=False)
async def run_file(run_id: str, path: str, service: Svc) -> Response:
    """Send one file of a run, as it is stored."""
    prefix = _prefix(service, run_id)
    if not _is_ours(path):
        raise HTTPException(404, "The run has no such file")
    url = paths.join(prefix, path)

    def begin() -> tuple[bytes, Blocks]:
        refuse_links_out(service.artifacts, [f"training_runs/{run_id}/{path}"])
        if files.size_bytes(url) is None:
            raise FileNotFoundError(url)
        blocks = _blocks(url)
        return next(blocks, b""), blocks

    try:
        first, blocks = await to_thread.run_sync(begin, limiter=service.export_threads)
    except (DataError, FileNotFoundError, IsADirectoryError) as e:
        raise HTTPException(404, "The run has no such file") from e
    name = path.rpartition("/")[2]
    is_text = name.endswith(_TEXT_SUFFIXES)
    kind = "text/plain; charset=utf-8" if is_text else "application/octet-stream"
    shown = "inline" if is_text else "attachment"
    reply = BlocksResponse(first, blocks, service.export_threads, stream_bytes(service.artifacts))
    reply.headers.update(security_headers())
    reply.headers["Content-Type"] = kind
    reply.headers["Content-Disposition"] = f'{shown}; filename="{name}"'
    return reply


def _blocks(url: str) -> Blocks:
    yield from files.iter_blocks(url)
