"""Carry the comments of the templates into rendered YAML.

A comment in a template states the reason of the field below it. Filling a template keeps only
values, so the comments are read separately, by the path of the field, and written above the same
path. Fields that come from the accelerator table get the table's comments. All are whole lines
above keys and list items, so they cannot change a value.
"""

from __future__ import annotations

from tuneloop.k8s.rendering.render import Object, Templates
from tuneloop.k8s.rendering.table_comments import comments_for
from tuneloop.k8s.rendering.yaml_fields import Comments, Path, comments_in, fields_of
from tuneloop.k8s.rendering.yaml_out import dump

_POD: Path = ("spec", "template")
_GANG_POD: Path = ("spec", "replicatedJobs", 0, "template", "spec", "template")


def dump_commented(documents: list[Object], templates: Templates) -> str:
    """Write documents as `dump` does, with the comments of their templates."""
    return "---\n".join(_commented(each, _comments_of(each, templates)) for each in documents)


def _comments_of(document: Object, templates: Templates) -> Comments:
    kind = document["kind"]
    if kind in ("Job", "JobSet"):
        template, pod = (templates.job, _POD) if kind == "Job" else (templates.jobset, _GANG_POD)
        found = {**comments_in(template.text), **_below(pod, comments_in(templates.pod.text))}
        for path, lines in comments_for(document, pod, templates.table_text).items():
            found[path] = (*found.get(path, ()), *lines)
        return found
    if kind == "ConfigMap":
        keys = document.get("binaryData", {}).keys()
        templates_by_data = (templates.submission, templates.sweep)
        fitting = [each for each in templates_by_data if each.content["binaryData"].keys() == keys]
        return comments_in((fitting[0] if fitting else templates.config_map).text)
    accounts = comments_in(templates.submitter.text)
    kinds = [item["kind"] for item in templates.submitter.content["items"]]
    if kind not in kinds:
        return {}
    prefix = ("items", kinds.index(kind))
    return {path[2:]: lines for path, lines in accounts.items() if path[:2] == prefix}


def _below(prefix: Path, comments: Comments) -> Comments:
    return {(*prefix, *path): lines for path, lines in comments.items()}


def _commented(document: Object, comments: Comments) -> str:
    text = dump([document])
    lines = text.splitlines(keepends=True)
    for number, path in reversed(list(fields_of(text))):
        line = lines[number]
        indent = line[: len(line) - len(line.lstrip(" "))]
        lines[number:number] = [f"{indent}{comment}\n" for comment in comments.get(path, ())]
    return "".join(lines)
