"""Describe a dataset in Croissant 1.0, the metadata format of MLCommons for machine learning.

The description is JSON-LD. It names the shards with sizes and digests, and the fields of a row, so
that tools such as mlcroissant can find and load the rows. Source of the format:
https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from __future__ import annotations

import json
from typing import Any

from tuneloop.datasets.schema import DatasetManifest, DatasetShard

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification gives."""
_FORMAT = "application/jsonlines"
_FIELDS = {
    "id": ("sc:Text", "Identifier of the trace."),
    "created_at": ("sc:DateTime", "Time in UTC at which the store got the trace."),
    "trace_version": ("sc:Text", "Version of the schema of traces."),
    "prompt": ("sc:Text", "The last message of the user."),
    "final_answer": ("sc:Text", "The answer; empty if the last step is the call of a tool."),
}
"""Fields that every row has -> type, and description."""


def croissant_of(manifest: DatasetManifest) -> dict[str, Any]:
    """Return the description of a dataset; paths are relative to the folder of its manifest.

    Args:
        manifest: the manifest of the dataset.
    """
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.dataset_key,
        "description": (
            f"{manifest.trace_count} reasoning traces, selected for training with the recipe"
            f" {manifest.recipe}. Rows can also have system, messages, tools, reward, labels and"
            " meta."
        ),
        "version": manifest.dataset_version,
        "datePublished": str(manifest.created_at),
        "url": "manifest.json",
        "identifier": manifest.build_id,
        "isLiveDataset": False,
        "distribution": _distribution(manifest.shards),
        "recordSet": [_record_set(manifest.shards)],
    }


def dump_croissant(manifest: DatasetManifest) -> bytes:
    """Serialise the description of a dataset, always to the same bytes."""
    return json.dumps(croissant_of(manifest), indent=1, ensure_ascii=False).encode() + b"\n"


def _distribution(shards: tuple[DatasetShard, ...]) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject",
            "@id": shard.name,
            "name": shard.name,
            "description": f"{shard.rows} rows.",
            "contentUrl": shard.path,
            "contentSize": f"{shard.size_bytes} B",
            "encodingFormat": _FORMAT,
            "sha256": shard.sha256,
        }
        for shard in shards
    ]
    if len(shards) == 1:
        return files
    folder = shards[0].path.rpartition("/")[0]
    every = {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "description": "All shards, in the order of their names.",
        "encodingFormat": _FORMAT,
        "includes": f"{folder}/traces-*.jsonl",
    }
    return [*files, every]


def _record_set(shards: tuple[DatasetShard, ...]) -> dict[str, Any]:
    is_set = len(shards) > 1
    source = {"fileSet": {"@id": "shards"}} if is_set else {"fileObject": {"@id": shards[0].name}}
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"traces/{name}",
            "name": name,
            "description": description,
            "dataType": kind,
            "source": {**source, "extract": {"column": name}},
        }
        for name, (kind, description) in _FIELDS.items()
    ]
    return {"@type": "cr:RecordSet", "@id": "traces", "name": "traces", "field": fields}
